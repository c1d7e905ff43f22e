from __future__ import annotations

import math

import pytest
import torch

from backend.models.viewdiff import sampling
from backend.models.viewdiff.cameras import Cameras
from backend.models.viewdiff.config import ViewDiffConfig, unet_settings
from backend.models.viewdiff.first_guess import (
    CHANNELS,
    FirstGuess,
    GuessConfig,
    latents_of,
    planes_of,
    towards,
    v_of,
)
from backend.models.viewdiff.model import ViewDiff, is_new
from backend.models.viewdiff.pixels import REACH, PixelLatents
from backend.models.viewdiff.schedule import alphas, until
from backend.training.viewdiff import diffusion, networks
from tests.posed_boxes import Boxes

SIDE = 64
PIXELS = PixelLatents(2, "rgbad")
CODEC = diffusion.PixelCodec(PIXELS, torch.device("cpu"))


def guesser(**changes: int) -> FirstGuess:
    torch.manual_seed(3)
    settings = {"grid": 16, "channels": 8, "features": 4, "samples": 48}
    return FirstGuess(GuessConfig(**{**settings, **changes}), PIXELS).eval()


def seen(boxes: Boxes, number: int, views: list[int]) -> tuple[torch.Tensor, Cameras]:
    posed = boxes.scene(number, views)
    config = networks.config(networks.Size(SIDE, (16, 32, 32), 1, 4, 4, 6, 1, len(views)))
    return CODEC.encode([posed], torch.Generator()), diffusion.cameras_of([posed], config)


@pytest.fixture(scope="module")
def boxes() -> Boxes:
    return Boxes(2, SIDE)


SEEING = {"sight": 6, "deep": 8}


def of_first(latents: torch.Tensor, count: int = 1) -> torch.Tensor:
    given = torch.zeros(latents.shape[:2], dtype=torch.bool)
    given[:, :count] = True
    return given


@torch.no_grad()
def test_of_nothing_nothing_is_told(boxes: Boxes) -> None:
    latents, cameras = seen(boxes, 0, [0, 5])
    found = guesser()(latents, torch.zeros(1, 2, dtype=torch.bool), cameras)
    assert found.shape == (1, 2, CHANNELS, SIDE // 2, SIDE // 2)
    assert (found == 0).all()


@torch.no_grad()
def test_scenes_beside_do_not_change_a_guess(boxes: Boxes) -> None:
    """Of another number of given views, too."""
    latents, cameras = seen(boxes, 0, [0, 5])
    network = guesser(**SEEING)
    given = torch.cat([of_first(latents, 1), of_first(latents, 2)])
    both = network(latents.repeat(2, 1, 1, 1, 1), given, cameras.repeat(2))
    for number in range(2):
        alone = network(latents, given[number : number + 1], cameras)
        torch.testing.assert_close(both[number : number + 1], alone, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_many_views_are_looked_at_in_parts(boxes: Boxes) -> None:
    latents, cameras = seen(boxes, 0, list(range(11)))
    network = guesser()
    whole = network(latents, of_first(latents), cameras)
    few = network(latents[:, [0, 9, 10]], of_first(latents[:, :3]), cameras.select([0, 9, 10]))
    torch.testing.assert_close(whole[:, [0, 9, 10]], few, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("changes", [{}, SEEING], ids=["plain", "seeing"])
@torch.no_grad()
def test_scenes_with_and_without_given_views_do_not_touch(
    boxes: Boxes, changes: dict[str, int]
) -> None:
    latents, cameras = seen(boxes, 0, [0, 5])
    network, given = guesser(**changes), of_first(latents)
    alone = network(latents, given, cameras)
    assert alone.abs().sum() > 0
    both = network(
        latents.repeat(2, 1, 1, 1, 1), torch.cat([given & False, given]), cameras.repeat(2)
    )
    assert (both[0] == 0).all()
    torch.testing.assert_close(both[1:], alone)


@pytest.mark.parametrize("changes", [{}, SEEING], ids=["plain", "seeing"])
@torch.no_grad()
def test_only_given_views_count_and_their_order_does_not(
    boxes: Boxes, changes: dict[str, int]
) -> None:
    latents, cameras = seen(boxes, 1, [0, 5, 9])
    network = guesser(**changes)
    told = network(latents, of_first(latents, 2), cameras)
    other = latents.clone()
    other[:, 2] = torch.randn(other[:, 2].shape)
    torch.testing.assert_close(network(other, of_first(latents, 2), cameras), told)
    turned = [2, 1, 0]
    given = torch.tensor([[False, True, True]])
    again = network(latents[:, turned], given, cameras.select(turned))
    torch.testing.assert_close(again[:, turned], told, atol=1e-5, rtol=1e-5)
    fewer = network(latents, of_first(latents, 1), cameras)
    assert (fewer - told).abs().max() > 1e-3


def outlines_only(**changes: int) -> FirstGuess:
    """Solid is what all given views see something at: no network has a say."""
    network = guesser(**changes)
    torch.nn.init.zeros_(network.voxels_out.weight)
    torch.nn.init.zeros_(network.voxels_out.bias)
    network.outline.data.fill_(30.0)
    network.tint.data.fill_(1.0)
    return network


@torch.no_grad()
def test_places_are_where_the_views_see_them(boxes: Boxes) -> None:
    """A hull of many views is the box, from everywhere: its outline, its depth, and the flag."""
    views = list(range(24))
    latents, cameras = seen(boxes, 0, views)
    found = outlines_only(grid=32, samples=160)(latents, of_first(latents, 20), cameras)
    truth = planes_of(latents, PIXELS)
    for view in range(20, 24):  # not given
        have, want = (planes[0, view, 3] > 0 for planes in (found, truth))
        assert (have & want).sum() / (have | want).sum() > 0.9
        sure = (truth[0, view, 3] > 0.99) & (found[0, view, 3] > 0.9)
        off = (found[0, view, 4] - truth[0, view, 4])[sure].abs() * REACH
        assert off.median() < 0.06
    assert (found[:, :, 5] == 1).all()


@torch.no_grad()
def test_a_ball_looks_as_it_must() -> None:
    network = guesser(grid=32, samples=200)
    side, radius, distance, focal = 64, 0.7, 3.0, 60.0
    step = (torch.arange(side) + 0.5) / side * 2 - 1
    z, y, x = torch.meshgrid(step, step, step, indexing="ij")
    opacity = torch.where(x**2 + y**2 + z**2 < radius**2, 30.0, -30.0)
    colour = torch.where(x > 0, 2.0, -2.0)
    volume = torch.stack([opacity, colour, 0 * x, 0 * x])[None]
    world2cam = torch.eye(4)[None, None].clone()  # looks along z, y down
    world2cam[0, 0, 2, 3] = distance
    lens = torch.tensor([[[focal, focal, 31.5, 31.5]]])
    box = torch.tensor([[[-1.0] * 3, [1.0] * 3]])
    cameras = Cameras(world2cam, lens, 64, box, torch.zeros(1, 1, 2))
    planes = network.seen(volume, cameras, (64, 64))[0, 0]
    rows = torch.arange(64) - 31.5
    away = torch.hypot(rows[:, None], rows[None])
    edge = focal * radius / math.sqrt(distance**2 - radius**2)
    assert (planes[3][away < edge - 2] > 0.95).all()
    assert (planes[3][away > edge + 2] < -0.95).all()
    assert planes[4, 31:33, 31:33].mean() * REACH == pytest.approx(-radius, abs=0.06)
    assert (planes[4][away > edge + 2] > 0.95).all()
    assert planes[0, 32, 40] > 0.9
    assert planes[0, 32, 23] < -0.9


def test_means_of_cells() -> None:
    pictures = torch.zeros(1, 4, 4, 4, dtype=torch.uint8)
    pictures[0, :2, :2] = torch.tensor([255, 0, 0, 255])
    pictures[0, 2, 2] = torch.tensor([0, 255, 0, 255])
    planes = planes_of(PIXELS.encode(pictures), PIXELS)[0]
    assert planes.shape == (5, 2, 2)
    torch.testing.assert_close(planes[:4, 0, 0], torch.tensor([1.0, -1, -1, 1]))
    torch.testing.assert_close(planes[:4, 1, 1], torch.tensor([-0.25, 0.25, -0.25, -0.5]))


def tiny() -> ViewDiffConfig:
    unet = unet_settings((8, 8), (True, True), size=8, picture_channels=20, words=8)
    unet["in_channels"] += CHANNELS
    pixels = PIXELS.to_dict()
    guess = {"grid": 4, "channels": 8, "features": 4, "samples": 8}
    return ViewDiffConfig(
        unet=unet, image_size=16, rank=2, reference="front", intensity=False,
        text_corrections=False, projection_down=0, projection_mid=False, projection_up=0,
        pixels=pixels, guess=guess,
    )  # fmt: skip


@torch.no_grad()
def test_a_denoiser_is_told_the_guess() -> None:
    boxes = Boxes(1, 16)
    torch.manual_seed(0)
    model = ViewDiff(ViewDiffConfig.from_dict(tiny().to_dict())).eval()
    posed = boxes.scene(0, [0, 8])
    latents = CODEC.encode([posed], torch.Generator())
    cameras = diffusion.cameras_of([posed], model.config)
    times = torch.tensor([[0, 500]])
    before = model(latents, times, None, cameras)
    assert before.shape == latents.shape
    assert model.first_guess is not None
    model.first_guess.voxels_out.bias.add_(4.0)
    assert (model(latents, times, None, cameras) - before).abs().max() > 1e-4
    # Of no given view there is no guess, whatever it would be.
    unknown = torch.tensor([[500, 500]])
    one = model(latents, unknown, None, cameras)
    model.first_guess.voxels_out.bias.add_(4.0)
    torch.testing.assert_close(model(latents, unknown, None, cameras), one)
    names = [name for name, _ in model.new_parameters() if ".first_guess." in f".{name}"]
    assert len(names) == len(list(model.first_guess.parameters()))
    assert not is_new("unet.conv_in.weight")


# ---------------------------------------------------------------------------- what follows from it


def test_v_is_that_of_the_start() -> None:
    """As diffusers' schedulers read it: they find the start again."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(**networks.SCHEDULE, clip_sample=False)
    scheduler.set_timesteps(1000)
    levels = alphas(networks.SCHEDULE)
    start, noise = torch.rand(2, 3, 4, 4) * 2 - 1, torch.randn(2, 3, 4, 4)
    for time in (3, 150, 700):
        level = levels[time]
        noised = level.sqrt() * start + (1 - level).sqrt() * noise
        found = v_of(noised, start, level)
        again = scheduler.step(found, time, noised).pred_original_sample
        torch.testing.assert_close(again, start, atol=1e-5, rtol=0)


@torch.no_grad()
def test_sampling_goes_back_the_way_that_training_came() -> None:
    """Begun with the guess and noise, a denoiser that knows the truth finds at every step what
    training has there: latents moved to their guess by as much as there is noise."""
    boxes = Boxes(1, 16)
    model = beginning_with_its_guess(0.4)
    config = model.config
    posed = boxes.scene(0, [0, 8, 16])
    latents = CODEC.encode([posed], torch.Generator())
    cameras = diffusion.cameras_of([posed], config)
    noise = torch.randn(latents[:, 1:].shape, generator=torch.Generator().manual_seed(1))
    told = model.guessed(latents, of_first(latents), cameras)
    begun = model.begun(noise, told[:, 1:])
    guess = latents_of(told, PIXELS)[:, 1:]
    moved = towards(noise, guess, latents[:, 1:], config.guess_noise)
    levels = alphas(config.noising)

    def denoise(views: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        level = levels[times][..., None, None, None]
        noise = (views - level.sqrt() * latents) / (1 - level).sqrt()
        return level.sqrt() * noise - (1 - level).sqrt() * latents

    settings = sampling.Settings(config.noising, 8, guidance=1.0)
    for step in sampling.sample(denoise, begun[0], latents[0, :1], settings):
        level = levels[step.timestep]
        expected = level.sqrt() * latents[0, 1:] + (1 - level).sqrt() * moved[0]
        torch.testing.assert_close(step.x[1:], expected, atol=2e-2, rtol=0.0)
    torch.testing.assert_close(step.sample, latents[0], atol=2e-3, rtol=0.0)
    with pytest.raises(ValueError, match="none is given"):
        model.begun(noise, None)


def beginning_with_its_guess(noise: float) -> ViewDiff:
    record = {
        **tiny().to_dict(),
        **{"guess_spread": 0.25, "guess_noise": noise, "schedule": dict(networks.SCHEDULE)},
    }
    torch.manual_seed(0)
    return ViewDiff(ViewDiffConfig.from_dict(record)).eval()


def test_a_schedule_ends_where_there_is_so_much_noise() -> None:
    whole = alphas(networks.SCHEDULE)
    short = until(networks.SCHEDULE, 0.5)
    levels = alphas(short)
    count = len(levels)
    torch.testing.assert_close(levels, whole[:count])
    ratio = ((1 - whole) / whole).sqrt()
    assert ratio[count - 1] <= 0.5 < ratio[count]
    assert short["prediction_type"] == "v_prediction"
    with torch.device("meta"):  # as networks are made before their weights are there
        assert until(networks.SCHEDULE, 0.51)["num_train_timesteps"] > count
    spaced = until({**networks.SCHEDULE, "timestep_spacing": "leading"}, 0.5)
    assert spaced == short
    # What is sampled with, too, has these timesteps, the noisiest first.
    scheduler = sampling.solver(sampling.Settings(short, 6))
    assert scheduler.timesteps[0] == count - 1
    assert sampling.most_steps(short) == count // 2
    many = sampling.solver(sampling.Settings(short, sampling.most_steps(short))).timesteps.tolist()
    assert len(set(many)) == len(many)
    assert min(many) > 0  # 0 is for what is given
    with pytest.raises(ValueError, match="timesteps"):
        sampling.solver(sampling.Settings(short, count + 1))
    with pytest.raises(ValueError, match="no timestep"):
        until(networks.SCHEDULE, 1e-6)


def test_the_guess_as_latents_has_the_means_of_its_cells_and_is_smooth(boxes: Boxes) -> None:
    latents, _ = seen(boxes, 0, [0, 5])
    planes = planes_of(latents, PIXELS)
    found = latents_of(torch.cat([planes, torch.ones_like(planes[:, :, :1])], dim=2), PIXELS)
    assert found.shape == latents.shape
    assert (planes_of(found, PIXELS) - planes).square().mean() < 0.02
    # Nearer to the truth than cells without anything between them.
    flat = planes.repeat_interleave(4, dim=2)
    assert (found - latents).square().mean() < (flat - latents).square().mean()


@torch.no_grad()
def test_without_a_word_of_the_network_the_guess_comes_out() -> None:
    """Without any of the noise that views begin with."""
    boxes = Boxes(1, 16)
    model = beginning_with_its_guess(0.4)
    for value in model.unet.conv_out.parameters():
        value.zero_()
    posed = boxes.scene(0, [0, 8, 16])
    latents = CODEC.encode([posed], torch.Generator())
    cameras = diffusion.cameras_of([posed], model.config)
    assert model.first_guess is not None
    told = model.first_guess(latents, of_first(latents), cameras.in_front().centred())
    settings = sampling.Settings(model.config.noising, 10, guidance=1.0)
    noise = torch.randn(latents[:, 1:].shape, generator=torch.Generator().manual_seed(1))
    begun = model.begun(noise, told[:, 1:])[0]

    def denoise(views: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        return model(views, times, None, cameras)

    *_, last = sampling.sample(denoise, begun, latents[0, :1], settings)
    torch.testing.assert_close(
        last.sample[1:], latents_of(told, PIXELS)[0, 1:], atol=1e-3, rtol=0.0
    )


def test_settings_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="halved"):
        GuessConfig(grid=5)
    with pytest.raises(ValueError, match="samples"):
        GuessConfig(samples=0)
    with pytest.raises(ValueError, match="alpha"):
        FirstGuess(GuessConfig(), PixelLatents(2, "rgb"))
    with pytest.raises(ValueError, match="pixels"):
        ViewDiffConfig(guess={})
    with pytest.raises(ValueError, match="only v"):
        ViewDiffConfig(guess_spread=0.3)
    with pytest.raises(ValueError, match="guess_spread"):
        ViewDiffConfig(guess_spread=-1.0)
    with pytest.raises(ValueError, match="guess_noise"):
        ViewDiffConfig(guess_noise=-1.0)
    with pytest.raises(ValueError, match="needs its guess_spread"):
        ViewDiffConfig(guess_noise=0.5)
    with pytest.raises(ValueError, match="halved"):
        GuessConfig(grid=6, deep=8)
