"""Between two fields there is always a closed shape, whatever the two are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh

from backend.models.hyperdiffusion import mixing, surface
from backend.models.hyperdiffusion.config import FieldConfig
from tests.exact_fields import LAYOUT, vector

CONFIG = FieldConfig(3, **LAYOUT)
SIDE = 48
SHUFFLED = (4, 2, 0, 5, 3, 1)


def fields(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(array) for array in arrays]


def volume(radius: float) -> float:
    return 4 / 3 * radius**3


def meshes(first: np.ndarray, last: np.ndarray, amounts, way: str) -> list[trimesh.Trimesh]:
    found = mixing.between(CONFIG, *fields(first, last), amounts, SIDE, way=way)
    return [trimesh.Trimesh(*mesh, process=False) for mesh in found]


@pytest.mark.parametrize("way", [mixing.WEIGHTS, mixing.DISTANCES])
def test_half_way_between_two_sizes_lies_the_size_between(way: str) -> None:
    small, middle, large = meshes(vector(0.2), vector(0.4), (0.0, 0.5, 1.0), way)
    assert all(mesh.is_watertight for mesh in (small, middle, large))
    assert small.volume == pytest.approx(volume(0.2), rel=0.03)
    assert large.volume == pytest.approx(volume(0.4), rel=0.03)
    # Weights mix the radius; distances the volume, which is larger half way.
    wanted = volume(0.3) if way == mixing.WEIGHTS else (volume(0.2) + volume(0.4)) / 2
    assert middle.volume == pytest.approx(wanted, rel=0.04)


def test_the_ends_are_the_fields_own_surfaces() -> None:
    first, last = vector(0.3, (0.1, 0, 0)), vector(0.2, (-0.2, 0.1, 0))
    for way in (mixing.WEIGHTS, mixing.DISTANCES):
        found = list(mixing.between(CONFIG, *fields(first, last), (0.0, 1.0), SIDE, way=way))
        for mesh, weights in zip(found, fields(first, last), strict=True):
            own = surface.mesh(CONFIG, weights, SIDE)
            np.testing.assert_array_equal(mesh[0], own[0])
            np.testing.assert_array_equal(mesh[1], own[1])


def test_the_same_shape_of_other_weights_falls_apart_and_is_seen_to() -> None:
    first, last = vector(0.3), vector(0.3, order=SHUFFLED)
    look = mixing.look(CONFIG, *fields(first, last))
    assert not look.holds
    assert "of the way" in look.reason
    assert mixing.look(CONFIG, *fields(first, vector(0.35, (0.05, 0, 0)))).holds
    broken = meshes(first, last, (0.5,), mixing.WEIGHTS)[0]
    assert abs(broken.volume - volume(0.3)) > 0.4 * volume(0.3)
    for mesh in meshes(first, last, np.linspace(0, 1, 5), mixing.DISTANCES):
        assert mesh.is_watertight
        assert mesh.volume == pytest.approx(volume(0.3), rel=0.03)


def test_shapes_that_do_not_touch_are_mixed_without_a_gap_in_time() -> None:
    first, last = vector(0.15, (-0.3, 0, 0)), vector(0.15, (0.3, 0, 0))
    for mesh in meshes(first, last, np.linspace(0, 1, 9), mixing.DISTANCES):
        assert mesh.is_watertight
        assert mesh.volume == pytest.approx(volume(0.15), rel=0.15)


def test_what_lies_between_distances_moves_on_evenly() -> None:
    first, last = vector(0.2), vector(0.4, order=SHUFFLED)
    found = meshes(first, last, np.linspace(0, 1, 11), mixing.DISTANCES)
    reach = [float(mesh.vertices.max()) for mesh in found]
    steps = np.diff(reach)
    assert (steps > 0.003).all()
    assert steps.max() < 0.06  # of 0.2 in ten steps


def test_a_shape_comes_out_of_nothing_and_goes() -> None:
    nothing = vector(-1.0)
    found = meshes(nothing, vector(0.4), (0.0, 0.3, 0.6, 1.0), mixing.DISTANCES)
    assert not len(found[0].faces)
    volumes = [mesh.volume for mesh in found[1:]]
    assert volumes == sorted(volumes)
    assert volumes[0] == pytest.approx(0.3 * volume(0.4), rel=0.06)
    assert all(mesh.is_watertight for mesh in found[1:])
    assert not any(len(mesh.faces) for mesh in meshes(nothing, nothing, (0.5,), mixing.DISTANCES))


def test_at_the_border_of_the_domain_surfaces_are_closed() -> None:
    first, last = vector(0.4, (0.4, 0, 0)), vector(0.4, (-0.4, 0, 0), order=SHUFFLED)
    for mesh in meshes(first, last, (0.0, 0.25, 0.5), mixing.DISTANCES):
        assert mesh.is_watertight
        assert mesh.volume > 0.3 * volume(0.4)
