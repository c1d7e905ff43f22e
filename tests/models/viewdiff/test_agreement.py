"""Views that agree about the colours of what they show."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from backend.models.viewdiff import agreement
from backend.models.viewdiff.agreement import agreed
from backend.models.viewdiff.cameras import Cameras
from backend.models.viewdiff.first_guess import fronts_of, planes_of
from backend.models.viewdiff.model import ViewDiff
from backend.models.viewdiff.pixels import PixelLatents
from backend.training.viewdiff import diffusion, evaluate, export, networks
from backend.training.viewdiff.scenes import Scene
from tests.posed_boxes import Boxes, block

SIDE = 64
PIXELS = PixelLatents(2, "rgbad")
TINY = networks.SIZES["tiny"]
CELLS = 32
CODEC = diffusion.PixelCodec(PIXELS, torch.device("cpu"))


@dataclasses.dataclass(frozen=True, eq=False)
class Ring:
    """A box with its true views around it, which are also where its surface is known from."""

    truth: evaluate.PosedImages
    latents: torch.Tensor
    fronts: torch.Tensor
    cameras: Cameras
    given: torch.Tensor

    def agreed(self, latents: torch.Tensor, share: float = 1.0) -> torch.Tensor:
        return agreed(latents, self.fronts, self.given, self.cameras, PIXELS, share, CELLS)

    def pictures(self, latents: torch.Tensor) -> np.ndarray:
        return evaluate.on_white(PIXELS.decode(latents)[0][0].numpy())


@pytest.fixture(scope="module")
def ring() -> Ring:
    return around(block(5))


def around(scene: Scene) -> Ring:
    config = networks.config(dataclasses.replace(TINY, size=SIDE))
    poses, lens = evaluate._cameras(export.painter_config(config), 1.2)
    truth = evaluate.true_views(scene, poses, lens, SIDE)
    latents = CODEC.encode([truth], torch.Generator())
    cameras = diffusion.cameras_of([truth], config).centred()
    planes = planes_of(latents, PIXELS)
    fronts = fronts_of(torch.cat([planes, torch.ones_like(planes[:, :, :1])], dim=2), cameras)
    given = torch.zeros(1, len(truth), dtype=torch.bool)
    given[:, 0] = True
    return Ring(truth, latents, fronts, cameras, given)


def boxes_of(*boxes: tuple[tuple[float, ...], tuple[float, ...]]) -> Scene:
    """Boxes of these middles and half sides, whose sides all differ in colour."""
    parts = [block(number) for number in range(len(boxes))]
    vertices = [
        np.sign(part.vertices) * np.float32(half) + np.float32(middle)
        for part, (middle, half) in zip(parts, boxes, strict=True)
    ]
    faces = [part.faces + 8 * number for number, part in enumerate(parts)]
    paint = np.concatenate([part.look(np.arange(12), np.zeros(0), np.zeros(0)) for part in parts])
    return Scene(
        np.concatenate(vertices),
        np.concatenate(faces),
        lambda face, p, n: paint[face],
        parts[0].light,
    )


def tinted(ring: Ring, seed: int = 3) -> torch.Tensor:
    """The true views, each that is not given in a tint of its own, as far as the thing goes."""
    generator = torch.Generator().manual_seed(seed)
    tints = 0.3 * torch.randn(1, len(ring.truth), 3, 1, 1, generator=generator)
    planes = F.pixel_shuffle(ring.latents, 2)
    alpha = (planes[:, :, 3:4] + 1) / 2
    colours = planes[:, :, :3] + ~ring.given[..., None, None, None] * alpha * tints
    return F.pixel_unshuffle(torch.cat([colours, planes[:, :, 3:]], dim=2), 2)


WALL_AND_POLE = (((0.0, 0.55, 0.0), (0.8, 0.08, 0.6)), ((0.0, -0.5, 0.0), (0.12, 0.12, 0.6)))


def test_true_views_agree_already() -> None:
    """Of what stands before something else, too, whose edges are nobody's place in space."""
    ring = around(boxes_of(*WALL_AND_POLE))
    assert decibels(ring, ring.agreed(ring.latents)) > 35
    # Which is no matter of course: a surface that is elsewhere shows other places.
    further = ring.fronts[:, :, :1] * torch.tensor([0.0, 0.15]).view(2, 1, 1)
    found = agreed(
        ring.latents, ring.fronts + further, ring.given, ring.cameras, PIXELS, 1.0, CELLS
    )
    assert decibels(ring, found) < 30


def decibels(ring: Ring, latents: torch.Tensor) -> float:
    """Of the made views beside the truth, where the thing is."""
    made, truth = ring.pictures(latents), ring.pictures(ring.latents)
    return evaluate.psnr(made[1:], truth[1:], ring.truth.images[1:, ..., 3] > 127)


def test_colours_are_means_of_those_that_see_a_place() -> None:
    """A given one counts four times; what is not covered not at all."""
    colours = torch.tensor([[0.9, 0.0, 0.3], [-0.6, 0.5, 0.3], [0.2, 0.2, 0.2]])
    alpha = torch.tensor([1.0, 0.5, 0.0])[:, None]
    found = torch.cat([alpha * colours, alpha, torch.zeros(3, 2)], dim=1)[None, :, None]
    given = torch.tensor([[True, False, False]])
    mean, sure = agreement._together(found, torch.ones(1, 3, 1, 1), given)
    torch.testing.assert_close(mean[0, 0], (4 * colours[0] + 0.5 * colours[1]) / 4.5)
    assert sure.item() == 1
    weight = torch.tensor([0.0, 1.0, 1.0]).view(1, 3, 1, 1)
    mean, _ = agreement._together(found, weight, given)
    torch.testing.assert_close(mean[0, 0], colours[1])
    _, sure = agreement._together(found, torch.zeros(1, 3, 1, 1), given)
    assert sure.item() == 0


def test_who_sees_a_place_by_geometry(ring: Ring) -> None:
    """Middles of the sides of a box: views before a side see it, others do not; more from about the
    same side."""
    shown = F.interpolate(ring.fronts[0], (SIDE, SIDE), mode="bilinear")[None]
    shown = torch.cat([torch.zeros(1, len(ring.truth), 4, SIDE, SIDE), shown], dim=2)
    size = np.abs(block(5).vertices).max(axis=0)
    eyes = ring.truth.poses[:, :3, 3]
    seen_by_any = 0
    for axis in range(3):
        for sign in (-1, 1):
            middle = np.zeros(3)
            middle[axis] = sign * size[axis]
            points = torch.tensor(middle, dtype=torch.float32)[None, None]
            for view in range(len(eyes)):
                _, weight = agreement._seen(
                    shown, ring.cameras.intrinsics, ring.cameras, points, view, CELLS
                )
                ways = middle - eyes
                ways = ways / np.linalg.norm(ways, axis=1, keepdims=True)
                slope = sign * -ways[:, axis]  # cosine between the side's normal and the view
                expected = np.clip(ways @ ways[view], 0, None) ** 2
                for other in range(len(eyes)):
                    if slope[other] > 0.25:
                        seen_by_any += 1
                        assert abs(weight[0, other, 0, 0] - expected[other]) < 0.1
                    elif slope[other] < -0.25:
                        assert weight[0, other, 0, 0] < 0.02
    assert seen_by_any > 100


def test_views_in_tints_of_their_own_come_nearer_to_each_other_and_the_truth(ring: Ring) -> None:
    apart = tinted(ring)
    together = ring.agreed(apart)
    before, after = (
        evaluate.reprojection(ring.pictures(x)[: evaluate.RING], ring.truth)
        for x in (apart, together)
    )
    assert after > before + 3
    error = [float((x - ring.latents).square().mean()) for x in (apart, together)]
    assert error[1] < 0.5 * error[0]


def test_outlines_depth_and_given_views_stay(ring: Ring) -> None:
    apart = tinted(ring)
    together = ring.agreed(apart)
    torch.testing.assert_close(together[:, 0], apart[:, 0], rtol=0, atol=0)
    before, after = (F.pixel_shuffle(x, 2) for x in (apart, together))
    assert torch.equal(before[:, :, 3:], after[:, :, 3:])
    assert not torch.equal(before[:, 1:, :3], after[:, 1:, :3])


def test_half_a_share_is_half_the_way(ring: Ring) -> None:
    apart = tinted(ring)
    half, whole = (ring.agreed(apart, share) for share in (0.5, 1.0))
    torch.testing.assert_close(half, (apart + whole) / 2, rtol=0, atol=1e-5)
    assert torch.equal(ring.agreed(apart, 0.0), apart)


def test_where_nothing_is_guessed_nothing_changes(ring: Ring) -> None:
    apart = tinted(ring)
    nothing = torch.zeros_like(ring.fronts)
    found = agreed(apart, nothing, ring.given, ring.cameras, PIXELS, 1.0, CELLS)
    assert torch.equal(found, apart)


def test_the_order_of_views_does_not_matter(ring: Ring) -> None:
    apart = tinted(ring)
    order = [4, 0, 9, 2, 7, 1, 3, 8, 6, 5]
    cameras = ring.cameras.select(order)
    found = agreed(
        apart[:, order], ring.fronts[:, order], ring.given[:, order], cameras, PIXELS, 1.0, CELLS
    )
    torch.testing.assert_close(found, ring.agreed(apart)[:, order], rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_model_shows_views_that_agree() -> None:
    """What it tells is the v of views that agree."""
    boxes = Boxes(1, TINY.size)
    torch.manual_seed(0)
    model = ViewDiff(networks.config(TINY)).eval()
    assert model.config.agreement == networks.AGREEMENT > 0
    cameras = diffusion.cameras_of([boxes.scene(0, [0, 1, 2])], model.config)
    latents, times = torch.randn(1, 3, 20, 8, 8), torch.tensor([[0, 120, 120]])
    here = model(latents, times, None, cameras)
    model.config = dataclasses.replace(model.config, agreement=0.0)
    alone = model(latents, times, None, cameras)
    moved = (here - alone).abs().amax(dim=(0, 2, 3, 4))
    # v of a given view has no meaning: it is never stepped.
    assert (moved[1:] > 1e-4).all()
    # Without given views nothing is guessed, and nothing changes.
    nothing = torch.full_like(times, 120)
    other = model(latents, nothing, None, cameras)
    model.config = dataclasses.replace(model.config, agreement=1.0)
    assert torch.equal(model(latents, nothing, None, cameras), other)


@pytest.mark.parametrize("agreement", [-0.1, 1.5, float("nan")])
def test_shares_that_are_none(agreement: float) -> None:
    with pytest.raises(ValueError, match="agreement"):
        dataclasses.replace(networks.config(TINY), agreement=agreement)


def test_views_without_a_guess_have_nothing_to_agree_on() -> None:
    with pytest.raises(ValueError, match="agree"):
        dataclasses.replace(networks.config(TINY, guess=False), agreement=0.5)
