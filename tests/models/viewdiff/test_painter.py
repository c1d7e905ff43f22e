"""A whole model: pictures to latents and back, words, cameras; from files."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backend import weights
from backend.errors import BadInput, NotFound
from backend.models.viewdiff import painter_files
from backend.models.viewdiff.config import ViewDiffConfig
from backend.models.viewdiff.first_guess import latents_of
from backend.models.viewdiff.painter import PainterConfig, ViewPainter, cameras_of
from backend.models.viewdiff.schedule import alphas
from backend.protocol import ring_poses
from backend.training.viewdiff import export, networks
from backend.weights import Installed
from tests import viewdiff_models

CPU = torch.device("cpu")
LENS = np.tile(np.float32([20, 20, 7.5, 7.5]), (4, 1))


def load(installed: Installed) -> ViewPainter:
    return painter_files.load(installed, CPU, torch.float32)


@pytest.fixture(scope="module")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> ViewPainter:
    return load(viewdiff_models.write_pixels(tmp_path_factory.mktemp("store")))


@pytest.fixture(scope="module")
def latent_model(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("latent")
    return viewdiff_models.write_latents(folder / "store", folder / "parts")


def picture(side: int, alpha: int = 4) -> np.ndarray:
    rng = np.random.default_rng(3)
    coarse = rng.integers(0, 255, (2, side // 4, side // 4, alpha), dtype=np.uint8)
    coarse[..., 3:] = 255
    return coarse.repeat(4, axis=1).repeat(4, axis=2)


def test_pictures_of_pixels_come_back_as_they_were(pixels: ViewPainter) -> None:
    given = picture(16)
    latents = pixels.latents(given)
    assert latents.shape == pixels.latent_shape(2, 16) == (2, 20, 8, 8)
    images, depths = pixels.pictures(latents, torch.tensor([3.0, 4.0]))
    np.testing.assert_array_equal(images, given)
    assert depths is not None
    np.testing.assert_allclose(depths, np.float32([3, 4])[:, None, None] * np.ones((1, 16, 16)))
    assert pixels.pictures(latents)[1] is None
    silent = dataclasses.replace(pixels.config, tells_depth=False)
    found = dataclasses.replace(pixels, config=silent).pictures(latents, torch.tensor([3.0, 4.0]))
    np.testing.assert_array_equal(found[0], given)
    assert found[1] is None
    assert not pixels.reads_words
    assert pixels.cut("any words") == ""


def test_sampling_begins_with_noise_where_nothing_is_guessed(pixels: ViewPainter) -> None:
    noise = pixels.first_noise(3, 16, 5)
    assert noise.shape == pixels.latent_shape(3, 16)
    assert float(noise.std()) == pytest.approx(1, abs=0.05)
    cooler = dataclasses.replace(pixels, config=dataclasses.replace(pixels.config, temperature=0.4))
    torch.testing.assert_close(cooler.first_noise(3, 16, 5), 0.4 * noise)
    cameras = cameras_of(ring_poses(4, 20, 3.5), LENS, pixels.config, 16, CPU)
    known = pixels.latents(picture(16)[:1])
    assert pixels.guessed(known, cameras) is None
    assert torch.equal(pixels.begun(noise, None), noise)


def test_views_begin_with_what_is_guessed_of_given_ones_alone() -> None:
    """What is told is of the given picture; the same from each camera, whatever else is there."""
    torch.manual_seed(1)
    model = networks.network(networks.SIZES["tiny"]).eval().requires_grad_(False)
    painter = ViewPainter(export.painter_config(model.config), model)
    cameras = cameras_of(ring_poses(4, 20, 3.5), LENS, painter.config, 16, CPU)
    given = painter.latents(picture(16)[:1])
    told = painter.guessed(given, cameras)
    assert told is not None
    assert (told[:, -1] == 1).all()
    assert painter.guessed(given[:0], cameras) is None
    some = cameras.select([0, 3])
    fewer = painter.guessed(given, some)
    assert fewer is not None
    torch.testing.assert_close(fewer[1], told[3], atol=1e-5, rtol=1e-5)
    noise = painter.first_noise(3, 16, 5)
    signal = float(alphas(painter.config.denoiser.noising)[-1]) ** 0.5
    begun = painter.begun(noise, told[1:])
    guess = latents_of(told[None, 1:], painter.config.pixels)[0]
    torch.testing.assert_close(begun, signal * guess + (1 - signal**2) ** 0.5 * noise)
    # The denoiser takes what it is told, and works it out by itself from what is at timestep 0.
    x = torch.cat([given, begun])[None]
    times = torch.tensor([[0, 100, 100, 100]])
    alone = painter.denoiser(cameras, "")(x, times)
    torch.testing.assert_close(painter.denoiser(cameras, "", told)(x, times), alone)
    other = painter.denoiser(cameras, "", told.flip(0))(x, times)
    assert (other - alone).abs().max() > 1e-4


def test_haze_is_taken_out_of_what_is_unsure(pixels: ViewPainter) -> None:
    clear = dataclasses.replace(pixels, config=dataclasses.replace(pixels.config, haze=0.25))
    given = picture(16)
    given[..., 3] = np.repeat(np.arange(0, 256, 16, dtype=np.uint8)[None], 16, axis=0)
    latents = pixels.latents(given)
    found = clear.pictures(latents)[0]
    plain = pixels.pictures(latents)[0]
    np.testing.assert_array_equal(found[..., :3], plain[..., :3])
    share, told = plain[..., 3] / 255, found[..., 3] / 255
    assert (told[share <= 0.25] == 0).all()
    assert (told[share >= 0.75] == 1).all()
    between = (share > 0.25) & (share < 0.75)
    np.testing.assert_allclose(told[between], 2 * share[between] - 0.5, atol=0.003)
    np.testing.assert_array_equal(told >= 0.5, share >= 0.5)  # outlines are where they were


def test_pictures_go_through_the_autoencoder(latent_model: Installed) -> None:
    model = load(latent_model)
    given = picture(64, 3)
    latents = model.latents(given)
    assert latents.shape == model.latent_shape(2, 64) == (2, 4, 8, 8)
    values = torch.from_numpy(given).movedim(-1, 1).float() / 127.5 - 1
    expected = model.vae.encode(values).latent_dist.mean * model.vae.config.scaling_factor
    torch.testing.assert_close(latents, expected, rtol=1e-4, atol=1e-5)
    images, depths = model.pictures(latents)
    decoded = model.vae.decode(latents / model.vae.config.scaling_factor).sample
    levels = ((decoded.clamp(-1, 1) + 1) * 127.5).movedim(1, -1).numpy()
    assert np.abs(images - levels).max() <= 0.51
    assert depths is None


@pytest.mark.parametrize("ground", [(255, 128, 0), None])
def test_what_is_clear_is_the_models_ground_or_white(
    latent_model: Installed, ground: tuple[int, int, int] | None
) -> None:
    model = load(latent_model)
    model.config = dataclasses.replace(model.config, ground=ground)
    clear = np.zeros((1, 64, 64, 4), np.uint8)
    solid = np.broadcast_to(np.uint8(ground or (255, 255, 255)), (1, 64, 64, 3)).copy()
    torch.testing.assert_close(model.latents(clear), model.latents(solid))


@pytest.mark.parametrize("side", [8, 100])
def test_small_pictures_are_small(pixels: ViewPainter, side: int) -> None:
    found = pixels.small_pictures(pixels.latents(picture(16)), side)
    size = min(side, 16)
    assert found.shape == (2, size, size, 3)
    if size == 16:
        np.testing.assert_array_equal(found, picture(16)[..., :3])


def test_words_guide(latent_model: Installed) -> None:
    model = load(latent_model)
    told = model.encode("a b c")
    assert told.shape == (1, 1, model.text_length, 16)
    assert not torch.equal(told, model.encode(""))
    assert model.cut("a b") == ""
    assert model.cut("a b c d e f g h i j a b c d") == "a b c d"
    cameras = cameras_of(ring_poses(4, 20, 3.5), LENS * 4, model.config, 64, CPU)
    x = torch.randn(1, 4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    times = torch.full((1, 4), 500)
    denoise = model.denoiser(cameras, "a b c")
    both = denoise(x.repeat(2, 1, 1, 1, 1), times.repeat(2, 1))
    assert both.shape == (2, 4, 4, 8, 8)
    torch.testing.assert_close(both[1:], denoise(x, times), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(both[0], both[1], rtol=1e-3)
    without = model.denoiser(cameras, "")(x, times)
    torch.testing.assert_close(both[:1], without, rtol=1e-4, atol=1e-5)


def test_cameras_look_along_z_with_y_down() -> None:
    config = viewdiff_models.pixel_config()
    poses = ring_poses(4, 25.0, 3.5)
    cameras = cameras_of(poses, LENS, config, 16, CPU)
    world2cam = cameras.world2cam[0].double().numpy()
    middle = world2cam @ [0, 0, 0, 1]
    np.testing.assert_allclose(middle[:, :3], [[0, 0, 3.5]] * 4, atol=1e-5)
    above = world2cam @ [0, 0, 0.1, 1]
    assert (above[:, 1] < -0.05).all()
    right = np.einsum("vij,vj->vi", world2cam, poses @ np.float64([0.2, 0, -2, 1]))
    np.testing.assert_allclose(right[:, :3], [[0.2, 0, 2]] * 4, atol=1e-5)
    assert cameras.bbox.tolist() == [[[-1] * 3, [1] * 3]]
    assert cameras.intensity[0, 0].tolist() == [0.5, 0.0]


def test_a_world_that_hangs_upside_down_is_turned() -> None:
    config = viewdiff_models.pixel_config()
    turned = dataclasses.replace(
        config, denoiser=dataclasses.replace(config.denoiser, up="-z", half_box=1.5)
    )
    poses = ring_poses(4, 25.0, 3.5)
    cameras = cameras_of(poses, LENS, turned, 16, CPU)
    above = cameras.world2cam[0].double().numpy() @ [0, 0, -0.1, 1]
    assert (above[:, 1] < -0.05).all()
    assert cameras.bbox.tolist() == [[[-1.5] * 3, [1.5] * 3]]


def test_intensity_is_a_setting() -> None:
    config = viewdiff_models.pixel_config(intensity=(0.0, 0.0))
    cameras = cameras_of(ring_poses(4, 25.0, 3.5), LENS, config, 16, CPU)
    assert cameras.intensity.abs().max() == 0


# --------------------------------------------------------------------------------------- settings


def test_a_configuration_survives_json() -> None:
    for config in (
        viewdiff_models.pixel_config(ground=(1, 2, 3), intensity=(0.25, 0.5), radius=2.5),
        PainterConfig(),
    ):
        record = json.loads(json.dumps(config.to_dict()))
        found = PainterConfig.from_dict(record)
        assert json.loads(json.dumps(found.to_dict())) == record
        assert found.pixels == config.pixels
        assert found.intensity == config.intensity


def test_the_record_of_a_denoiser_alone_will_do() -> None:
    denoiser = viewdiff_models.pixel_config().denoiser
    found = PainterConfig.from_dict(json.loads(json.dumps(denoiser.to_dict())))
    assert found.side == 16
    assert found.pixels is not None
    assert found.views == PainterConfig().views


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": 1.5},
        {"tells_depth": 1},
        {"haze": 0.5},
        {"views": 0},
        {"batch": "5"},
        {"most": 1},
        {"field": 190},
        {"radius": "far"},
        {"fill": 0},
        {"ground": [1, 2]},
        {"intensity": 3},
        {"wings": 2},
        {"denoiser": {"pixels": {"layout": "cmyk"}}},
        {"denoiser": {"attention": "none"}},
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    config = viewdiff_models.pixel_config()
    installed = viewdiff_models.write_pixels(tmp_path, config)
    record = {**config.to_dict(), **wrong}
    if "denoiser" in wrong:
        record["denoiser"] = {**config.denoiser.to_dict(), **wrong["denoiser"]}
    with pytest.raises(BadInput, match="do not fit"):
        painter_files.config_of(dataclasses.replace(installed, config=record))


def test_pictures_of_other_channels_are_refused(tmp_path: Path) -> None:
    config = viewdiff_models.pixel_config()
    installed = viewdiff_models.write_pixels(tmp_path, config)
    record = config.to_dict()
    record["denoiser"]["pixels"]["layout"] = "rgba"
    with pytest.raises(BadInput, match="16 channels, not 20"):
        load(dataclasses.replace(installed, config=record))


def test_words_and_autoencoder_may_lie_in_the_model_it_was_trained_from(
    tmp_path: Path, latent_model: Installed, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ViewDiffConfig.from_dict(latent_model.config["denoiser"])
    alone = viewdiff_models.write_pixels(
        tmp_path,
        PainterConfig(denoiser=config),
        "trained",
        needs=(latent_model.id,),
    )
    monkeypatch.setenv("FIELDFORGE_WEIGHTS", str(tmp_path / "empty"))
    with pytest.raises(NotFound, match=latent_model.id):
        load(alone)
    monkeypatch.setenv("FIELDFORGE_WEIGHTS", str(latent_model.folder.parent))
    assert painter_files.base_of(alone).id == latent_model.id
    assert painter_files.base_of(latent_model) is latent_model
    model = load(alone)
    assert torch.equal(model.encode("a b"), load(weights.require(latent_model.id)).encode("a b"))
