"""A part of an earlier shape made anew."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backend import sampling
from backend.errors import BadInput
from backend.geometry.transforms import apply_to_points, compose, inverse
from backend.pipelines import regions
from backend.pipelines.regions import CELL, FEATHER, FIRST_CENTRE, Region
from backend.protocol import PointsToMesh, Shape, turned_up
from backend.sampling import Diffusion
from tests.pipelines.conftest import Latents, mesh_of
from tests.wala_models import LATENT_SHAPE


def box(low: tuple[float, ...], high: tuple[float, ...]) -> np.ndarray:
    """From [-1, 1]^3 to the box between two corners."""
    low, high = np.array(low), np.array(high)
    matrix = np.diag([*(high - low) / 2, 1.0])
    matrix[:3, 3] = (low + high) / 2
    return matrix


def turned_box(centre: tuple[float, ...], half: float, degrees: float) -> np.ndarray:
    """A cube turned about z, and lengthened twofold along its own x."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.eye(4)
    matrix[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.diag([2 * half, half, half])
    matrix[:3, 3] = centre
    return matrix


def of(region: np.ndarray, latent: torch.Tensor | None = None) -> Region:
    """The region of a box that is given in the cube."""
    latent = torch.zeros(LATENT_SHAPE) if latent is None else latent
    task = Shape(latent=latent.numpy(), region=region, up_axis="y")
    found = regions.region_of(task, np.eye(4), torch.device("cpu"))
    assert found is not None
    return found


# ---------------------------------------------------------------------------------------- the mask


def test_a_cell_is_made_anew_when_its_centre_lies_in_the_box() -> None:
    centre = FIRST_CENTRE + CELL * np.array([3, 7, 5])
    mask = of(box(tuple(centre - 0.01), tuple(centre + 0.01))).mask.numpy()
    np.testing.assert_array_equal(np.argwhere(mask), [[3, 7, 5]])
    assert of(box((-2, -2, -2), (2, 2, 2))).mask.all()


def test_the_box_lies_in_the_frame_of_the_source() -> None:
    """z up there: what is above in the source is far along y in the cube."""
    task = Shape(latent=np.zeros(LATENT_SHAPE, np.float32), region=box((-1, -1, 0.5), (1, 1, 1)))
    found = regions.region_of(task, turned_up("z"), torch.device("cpu"))
    assert found is not None
    cells = np.argwhere(found.mask.numpy())
    assert (FIRST_CENTRE + CELL * cells[:, 1] > 0.5).all()
    assert set(cells[:, 1]) == {8, 9}
    assert len(set(cells[:, 0])) == len(set(cells[:, 2])) == 8


def test_a_box_without_cells_is_refused() -> None:
    with pytest.raises(BadInput, match="no part of the shape"):
        of(box((0.1, 0.1, 0.1), (0.12, 0.12, 0.12)))
    with pytest.raises(BadInput, match="no part of the shape"):
        of(box((5, 5, 5), (6, 6, 6)))


# --------------------------------------------------------------------------------------- sampling


def test_what_stays_keeps_its_bits_and_the_rest_is_new(latents: Latents) -> None:
    (earlier,) = latents(Shape(seed=1, up_axis="y"))
    region = box((-1, -1, -1), (0.2, 1, 1))
    task = Shape(seed=2, variations=2, up_axis="y", latent=earlier.numpy(), region=region)
    mask = of(region).mask
    assert 0.1 < mask.float().mean() < 0.9
    for new in latents(task):
        assert torch.equal(new[:, ~mask], earlier[:, ~mask])
        assert (new - earlier)[:, mask].abs().mean() > 0.05


def test_known_cells_follow_their_posterior() -> None:
    """q(x_{t-1} | x_t, x_0) of Ho et al. (2020), equations 6 and 7, from the noise levels alone."""
    steps = Diffusion().spaced(6)
    known = torch.randn(1, *LATENT_SHAPE, generator=torch.Generator().manual_seed(0))
    draws = torch.randn(7, 1, *LATENT_SHAPE, generator=torch.Generator().manual_seed(1))
    taken = sampling.ancestral(
        lambda x, _: 0.3 * x, steps, iter(draws), correct=lambda start: known
    )
    x = draws[0].double()
    for step, draw in zip(taken, draws[1:], strict=True):
        index = len(steps) - 1 - step.number
        level = steps.alphas_cumprod[index]
        before = steps.alphas_cumprod[index - 1] if index else 1.0
        alpha = level / before
        mean = np.sqrt(before) * (1 - alpha) / (1 - level) * known
        mean = mean + np.sqrt(alpha) * (1 - before) / (1 - level) * x
        deviation = np.sqrt((1 - alpha) * (1 - before) / (1 - level))
        x = mean + deviation * draw
        torch.testing.assert_close(step.sample.double(), x, atol=1e-5, rtol=0)
        assert torch.equal(step.start, known)
    assert torch.equal(step.sample, known)


def test_points_keep_their_frame(latents: Latents) -> None:
    points = np.random.default_rng(0).uniform(-1, 1, (2000, 3)).astype(np.float32) + 50
    task = PointsToMesh(points=points, model="tiny-points")
    (earlier,) = latents(task)
    region = box((50, 49, 49), (51, 51, 51))
    changed = {"latent": earlier.numpy(), "region": region, "seed": 9}
    (new,) = latents(PointsToMesh(points=points, model="tiny-points", **changed))
    kept = (new == earlier).all(dim=0)
    assert kept[:6].all()  # the source's x is the cube's
    assert not kept[6:9, 3:9, 3:9].any()


# ------------------------------------------------------------------------------------------ fields


@pytest.mark.parametrize(
    "region", [box((-0.3, -0.2, -1.5), (0.4, 0.5, 0.1)), turned_box((0.1, 0.2, -0.3), 0.25, 30)]
)
def test_fields_are_blended_around_the_box_only(region: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    earlier, new = rng.normal(size=(2, 64, 64, 64)).astype(np.float32)
    blended = of(region).blended(earlier, new)
    nodes = 2 * np.stack(np.meshgrid(*[np.arange(64)] * 3, indexing="ij"), axis=-1) / 64 - 1
    local = apply_to_points(inverse(region), nodes.reshape(-1, 3), np.float64)
    lengths = np.linalg.norm(region[:3, :3], axis=0)
    beyond = np.linalg.norm(np.maximum(np.abs(local) - 1, 0) * lengths, axis=1).reshape(64, 64, 64)
    np.testing.assert_array_equal(blended[beyond >= FEATHER], earlier[beyond >= FEATHER])
    np.testing.assert_allclose(blended[beyond == 0], new[beyond == 0], atol=1e-6)
    between = (beyond > 0) & (beyond < FEATHER)
    assert between.any()
    weight = (blended - earlier)[between] / (new - earlier)[between]
    assert weight.min() > -1e-3
    assert weight.max() < 1 + 1e-3
    assert np.corrcoef(weight, beyond[between])[0, 1] < -0.9


@pytest.mark.usefixtures("store")
def test_the_rest_of_the_surface_stays_to_the_last_bit() -> None:
    earlier = mesh_of(Shape(seed=1))
    region = box((-1, -1, -1), (-0.2, 1, 1))
    new = mesh_of(Shape(seed=2, latent=earlier.latent, region=region))
    assert new.latent is not None

    def far(vertices: np.ndarray) -> set[bytes]:
        return {row.tobytes() for row in vertices if row[0] > -0.2 + FEATHER + 2 / 128}

    kept = far(earlier.vertices)
    assert len(kept) > 1000
    assert far(new.vertices) == kept
    inside = [{row.tobytes() for row in mesh.vertices if row[0] < -0.2} for mesh in (earlier, new)]
    assert len(inside[0] & inside[1]) < 0.2 * len(inside[0])
    np.testing.assert_array_equal(compose(new.to_source), turned_up("z"))
