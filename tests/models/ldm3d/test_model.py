"""The way from words to a picture with depth, beside that of diffusers and by hand."""

import types

import numpy as np
import pytest
import torch

from backend.models.ldm3d import images
from backend.models.ldm3d.circular import go_around
from backend.models.ldm3d.loading import SCHEDULERS, load
from backend.models.ldm3d.model import first_noise
from tests import ldm3d_models

WIDTH, HEIGHT = 128, 64
# Some schedulers of diffusers hand tensors to numpy in the way of numpy 1.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def last_of(model, noise=None, **options):
    noise = first_noise(model, WIDTH, HEIGHT, 0) if noise is None else noise
    given = {"prompt": "a b c", "steps": 4, "guidance": 4.0, "negative": "d", **options}
    *_, last = model.sample(noise=noise, **given)
    return last.sample


# ------------------------------------------------------------------------------ beside diffusers


@pytest.fixture(scope="module")
def theirs(parts):
    """diffusers' own pipeline of the same files, its networks going around as ours do."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from diffusers.pipelines.deprecated.stable_diffusion_ldm3d.pipeline_stable_diffusion_ldm3d import (  # noqa: E501
        StableDiffusionLDM3DPipeline,
    )
    from transformers import CLIPTextModel, CLIPTokenizer

    folder = parts[4]["unet/config.json"].parent.parent
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    vae = AutoencoderKL.from_pretrained(folder / "vae")
    go_around(unet)
    go_around(vae)
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    tokenizer.model_max_length = ldm3d_models.LENGTH
    pipeline = StableDiffusionLDM3DPipeline(
        vae=vae,
        text_encoder=CLIPTextModel.from_pretrained(folder / "text_encoder"),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler.from_pretrained(folder / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        image_encoder=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("name", SCHEDULERS)
def test_it_agrees_with_diffusers(models, theirs, name, monkeypatch):
    """Latents after every step, and the picture where their image processor still works."""
    import diffusers

    ours = models[4]
    settings = dict(ours.schedule().config)
    kind = getattr(diffusers, name)
    monkeypatch.setattr(ours, "schedule", lambda: kind.from_config(settings))
    theirs.scheduler = kind.from_config(settings)
    noise = first_noise(ours, WIDTH, HEIGHT, 3)
    seen = []

    def keep(_pipeline, _step, _time, tensors):
        seen.append(tensors["latents"].clone())
        return tensors

    output = theirs(
        prompt="a b c",
        negative_prompt="d",
        num_inference_steps=4,
        guidance_scale=4.0,
        width=WIDTH,
        height=HEIGHT,
        latents=noise.clone(),
        generator=torch.Generator().manual_seed(7 + (1 << 32)),
        output_type="np",
        callback_on_step_end=keep,
    )
    own = list(ours.sample("a b c", noise, 4, 4.0, "d", seed=7))
    assert len(own) == len(seen) == own[0].count
    for step, latents in zip(own, seen, strict=True):
        torch.testing.assert_close(step.sample, latents, rtol=1e-4, atol=1e-4)
    picture, depth = ours.decode(own[-1].sample)
    np.testing.assert_allclose(picture, output.rgb[0], atol=2e-4)
    np.testing.assert_allclose(depth, np.squeeze(output.depth[0]), atol=2e-4)
    assert depth.std() > 0.01


@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerDiscreteScheduler", "PNDMScheduler"])
def test_the_start_of_a_step_is_what_it_ends_at(models, name, monkeypatch):
    """x_0 of a network that knows it: noise is predicted so that all steps point at one picture."""
    import diffusers

    model = models[4]
    settings = dict(model.schedule().config)
    monkeypatch.setattr(model, "schedule", lambda: getattr(diffusers, name).from_config(settings))
    truth = torch.randn(model.latent_shape(WIDTH, HEIGHT), generator=torch.manual_seed(1))
    levels = model.schedule().alphas_cumprod

    def predict(given, time, _context, _guidance):
        level = levels[int(time)]
        return (given - level.sqrt() * truth) / (1 - level).sqrt()

    monkeypatch.setattr(model, "_predict", predict)
    steps = list(model.sample("a", first_noise(model, WIDTH, HEIGHT, 0), 8, 1.0))
    for step in steps:
        torch.testing.assert_close(step.start, truth, rtol=0, atol=2e-3)
    assert (steps[-1].sample - truth).abs().max() < 0.35


# -------------------------------------------------------------------------------- seeds and words


def test_the_same_seed_gives_the_same_bytes(models):
    one, two = (last_of(models[4], first_noise(models[4], WIDTH, HEIGHT, 5)) for _ in range(2))
    assert torch.equal(one, two)
    other = last_of(models[4], first_noise(models[4], WIDTH, HEIGHT, 6))
    assert not torch.equal(one, other)


def test_words_and_what_it_shall_not_be_and_guidance_all_count(models):
    model = models[4]
    usual = last_of(model)
    for changed in ({"prompt": "c b a"}, {"negative": ""}, {"guidance": 6.0}):
        assert (last_of(model, **changed) - usual).abs().max() > 1e-4


def test_without_guidance_what_it_shall_not_be_is_not_read(models, monkeypatch):
    model = models[4]
    read = []
    encode = model.encode
    monkeypatch.setattr(model, "encode", lambda text: read.append(text) or encode(text))
    last_of(model, guidance=1.0)
    assert read == ["a b c"]


def test_words_that_do_not_fit_are_told(models):
    model = models[4]
    assert model.text_length == 12
    fits = model.read("a b c d e f g h i j")
    assert (fits.cut, tuple(fits.numbers.shape)) == ("", (1, 12))
    long = model.read("a b c d e f g h i j a b and more")
    assert long.cut == "a b and more"
    assert torch.equal(long.numbers, fits.numbers)
    assert model.read("").numbers.tolist() == [[0] + [1] * 11]


# --------------------------------------------------------------------------------------- pictures


class _Plain(torch.nn.Module):
    """An autoencoder by hand: a cell of the latents is 8 x 8 pixels of one colour."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.config = types.SimpleNamespace(
            block_out_channels=(8,) * 4, scaling_factor=0.5, latent_channels=channels
        )
        self.strips: list[int] = []

    def decode(self, latents, return_dict):
        self.strips.append(latents.shape[-1])
        return (torch.nn.functional.interpolate(latents, scale_factor=8, mode="nearest"),)


def with_plain(model, channels, monkeypatch):
    plain = _Plain(channels)
    monkeypatch.setattr(model, "vae", plain)
    return plain


@pytest.mark.parametrize("channels", [4, 6])
@pytest.mark.parametrize("tile", [0, 4, 6])
def test_a_picture_comes_out_upright_in_red_green_blue(models, monkeypatch, channels, tile):
    """Sky blue on top, red in the left half of the ground, depth nearer to the right."""
    with_plain(models[4], channels, monkeypatch)
    picture = np.zeros((8, 16, 3))
    picture[:4] = (0.2, 0.4, 0.8)
    picture[4:, :8] = (0.8, 0.2, 0.0)
    depth = np.tile(np.linspace(0.1, 0.9, 16), (8, 1))
    latents = torch.from_numpy(images.join(picture, depth, channels))[None] * 0.5
    got, got_depth = models[4].decode(latents, tile)
    assert got.shape == (64, 128, 3)
    np.testing.assert_allclose(got[::8, ::8], picture, atol=1e-5)
    tolerance = 1e-5 if not (tile and channels == 6) else 1 / 65535
    np.testing.assert_allclose(got_depth[::8, ::8], depth, atol=tolerance)
    assert images.to_bytes(got)[0, 0].tolist() == [51, 102, 204]
    assert got_depth.dtype == np.float32


@pytest.mark.parametrize("tile", [2, 3, 5, 8, 15])
def test_tiles_cover_every_column_evenly(models, monkeypatch, tile):
    plain = with_plain(models[4], 4, monkeypatch)
    latents = torch.rand(1, 4, 4, 16, generator=torch.manual_seed(0)) - 0.5
    whole, _ = models[4].decode(latents)
    tiled, _ = models[4].decode(latents, tile)
    np.testing.assert_allclose(tiled, whole, atol=1e-5)
    assert len(plain.strips) == 1 + -(-16 // tile)
    assert max(plain.strips[1:]) <= 2 * tile + 2


def test_tiles_have_no_seam_and_look_like_the_whole(models):
    model = models[4]
    latents = last_of(model, first_noise(model, 256, 64, 1))
    whole, _ = model.decode(latents)
    tiled, _ = model.decode(latents, 8)
    assert np.abs(tiled - whole).mean() < 0.15 * whole.std()
    steps = np.abs(tiled - np.roll(tiled, 1, axis=1)).mean(axis=(0, 2))
    inner = np.abs(whole - np.roll(whole, 1, axis=1)).mean(axis=(0, 2))
    assert steps.max() < 1.2 * inner.max()


def test_a_small_picture_looks_like_the_large_one(models, monkeypatch):
    with_plain(models[4], 4, monkeypatch)
    colours = np.zeros((8, 32, 3))
    colours[:, 8:24] = (1, 0.5, 0)
    latents = torch.from_numpy(images.join(colours, np.ones((8, 32)), 4))[None] * 0.5
    small = models[4].small_picture(latents, 8)
    assert small.shape == (16, 64, 3)
    assert small.dtype == np.uint8
    assert np.abs(small[8, [4, 32, 60]] - np.array([[0, 0, 0], [255, 128, 0], [0, 0, 0]])).max() < 2


def test_half_precision_keeps_the_depth_in_full(parts, store):
    installed = ldm3d_models.write(store, parts[4])
    model = load(installed, torch.device("cpu"), torch.bfloat16)
    assert model.dtype == torch.bfloat16
    assert next(model.vae.parameters()).dtype == torch.float32
    latents = last_of(model)
    assert latents.dtype == torch.float32
    _, depth = model.decode(latents)
    assert len(np.unique(depth)) > 0.9 * depth.size
