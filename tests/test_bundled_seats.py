"""The seats in the box: there, whole, asked for by name only, and each another closed one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh

from backend import pipelines, weights
from backend.models.hyperdiffusion import fitting, surface
from backend.models.hyperdiffusion.model import FieldModel, load
from backend.pipelines import Context, run
from backend.protocol import MeshResult, Shape
from tests.bundled import BUNDLED, check_card_of_fields, only_bundled  # noqa: F401 - a fixture

ID = "fieldforge-seats"

pytestmark = pytest.mark.usefixtures("only_bundled")


@pytest.fixture(scope="module")
def model() -> FieldModel:
    return load(BUNDLED / ID)


def _made(seed: int, **more: object) -> MeshResult:
    *_, result = run(Shape(model=ID, seed=seed, up_axis="y", **more), Context("cpu"))
    assert isinstance(result, MeshResult)
    return result


def test_it_is_small_whole_and_not_the_default():
    found = weights.installed()[ID]
    assert found.bundled
    assert set(found.tasks) == {"shape"}
    assert sum(path.stat().st_size for path in found.files) <= 20 << 20
    weights.verify(found)
    assert pipelines.model_for(Shape()).id == "fieldforge-small"


def test_its_card_says_what_it_is():
    check_card_of_fields(BUNDLED / ID, "CC-BY")


def test_every_seed_makes_a_closed_seat_of_one_piece():
    """Limits are about twice what was measured of eight seeds."""
    seats = [_made(seed) for seed in range(4)]
    for result in seats:
        assert result.report["model"] == ID
        mesh = trimesh.Trimesh(result.vertices, result.faces, process=False)
        assert mesh.is_watertight
        assert np.abs(mesh.vertices).max() < 1.0001
        parts = [part.volume for part in mesh.split(only_watertight=False)]
        assert max(parts) > 0.7 * mesh.volume
        assert 0.05 < mesh.volume < 4  # of 8
        # A seat is higher than its seat is thick, and stands on something: it reaches down.
        assert np.ptp(mesh.vertices[:, 1]) > 0.8
    volumes = {round(float(trimesh.Trimesh(r.vertices, r.faces).volume), 4) for r in seats}
    assert len(volumes) == 4


def test_the_same_seed_makes_the_same_bytes():
    first, again = _made(3), _made(3)
    assert first.vertices.tobytes() == again.vertices.tobytes()
    assert first.faces.tobytes() == again.faces.tobytes()


def test_what_it_makes_are_variations(model):
    """A distance of 1 is that between training shapes; 0.1 to 1 were measured. Most are close to
    one of them, which the card says."""
    *_, vectors = model.sample(8, 0)
    near = model.nearest(vectors)
    assert max(distance for _, distance in near) < 2
    assert min(distance for _, distance in near) > 0.05
    assert torch.pdist(model.space.encode(vectors)).min() > 0.25


def test_what_is_compressed_can_be_mixed_with_what_it_makes(model):
    assert fitting.layout_for(1, loop=False) == model.config.field


def _fitted(model: FieldModel) -> surface.Field:
    """The first of the fields that it was trained on."""
    return surface.field_function(model.config.field, model.space.decode(model.known[:1])[0])


def test_the_surface_of_a_fitted_field_takes_few_nodes(model):
    """1,385,977 of 256^3, which is 8.3 %; elsewhere rounding may add some."""
    field, asked = _fitted(model), 0

    def counted(points: np.ndarray) -> np.ndarray:
        nonlocal asked
        asked += len(points)
        return field(points)

    sampled = surface.sample_near_surface(counted, 256, model.config.level)
    assert asked == np.count_nonzero(sampled.known)
    assert 10 * asked < 256**3


def test_few_nodes_make_the_same_surface_of_a_fitted_field_as_all_of_them(model):
    field, level = _fitted(model), model.config.level
    few, all_of_them = (
        surface.surface(sampled, level)
        for sampled in (
            surface.sample_near_surface(field, 97, level),
            surface.sample_everywhere(field, 97),
        )
    )
    for found, wanted in zip(few, all_of_them, strict=True):
        assert np.array_equal(found, wanted)
