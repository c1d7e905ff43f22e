"""The moving creatures in the box: there, whole, the default, and what they do is smooth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh

from backend import pipelines, weights
from backend.models.hyperdiffusion.model import FieldModel, load
from backend.pipelines import Context, run
from backend.protocol import Animation, AnimationResult
from backend.training.metrics import chamfer_distances, sample_surface
from tests.bundled import BUNDLED, check_card_of_fields, only_bundled  # noqa: F401 - a fixture

ID = "fieldforge-creatures"
NAMES = (
    "fish",
    "bird",
    "four-legged animal",
    "beetle",
    "snake",
    "jellyfish",
    "butterfly",
    "caterpillar",
    "walking person",
    "pump",
    "pendulum",
    "scissors",
)


pytestmark = pytest.mark.usefixtures("only_bundled")


@pytest.fixture(scope="module")
def model() -> FieldModel:
    return load(BUNDLED / ID)


def _made(name: str, seed: int, frames: int = 0) -> AnimationResult:
    task = Animation(choice=name, seed=seed, frames=frames, resolution=32, up_axis="y")
    *_, result = run(task, Context("cpu"))
    assert isinstance(result, AnimationResult)
    return result


def test_it_is_small_whole_and_the_default():
    found = weights.installed()[ID]
    assert found.bundled
    assert set(found.tasks) == {"animation"}
    assert sum(path.stat().st_size for path in found.files) <= 20 << 20
    weights.verify(found)
    assert next(m.id for m in pipelines.models() if "animation" in m.tasks) == ID
    assert tuple(found.config["model"]["names"]) == NAMES


def test_its_card_says_what_it_is():
    check_card_of_fields(BUNDLED / ID, "CC0-1.0")


def test_the_same_seed_makes_the_same_bytes():
    first, again = _made("fish", 3, frames=2), _made("fish", 3, frames=2)
    assert first.vertices.tobytes() == again.vertices.tobytes()
    assert first.faces.tobytes() == again.faces.tobytes()
    assert first.neural.weights.tobytes() == again.neural.weights.tobytes()


def test_what_is_asked_for_comes(model):
    """Of each name three: nearest to a training shape of that name, but none of them, and three
    different ones. A distance of 1 is that between training shapes; 0.3 to 1.3 were measured."""
    for name in NAMES:
        *_, vectors = model.sample(3, 50, name=name)
        near = model.nearest(vectors)
        assert {title.rsplit(" ", 1)[0] for title, _ in near} == {name}
        assert max(distance for _, distance in near) < 2
        assert min(distance for _, distance in near) > 0.15
        assert torch.pdist(model.space.encode(vectors)).min() > 0.5


@pytest.mark.parametrize("name", NAMES)
def test_every_name_makes_closed_meshes_that_move_smoothly(name):
    """Limits are about twice what was measured of two seeds of each name."""
    result = _made(name, seed=1)
    assert result.fps == 12
    assert result.loop
    assert result.report["model"] == ID
    meshes = [trimesh.Trimesh(*mesh, process=False) for mesh in result.meshes()]
    assert len(meshes) == 16
    for mesh in meshes:
        assert mesh.is_watertight
        assert np.abs(mesh.vertices).max() < 1.0001
        parts = [part.volume for part in mesh.split(only_watertight=False)]
        assert max(parts) > 0.7 * mesh.volume  # 0.77 to 1: no crumbs
    volumes = np.array([mesh.volume for mesh in meshes])
    assert volumes.min() > 0.012  # 0.025 to 0.39, of 8
    assert np.abs(np.log(np.roll(volumes, -1) / volumes)).max() < 0.35  # 0.03 to 0.18
    clouds = np.stack([_cloud(mesh, number) for number, mesh in enumerate(meshes)])
    steps = chamfer_distances(clouds, np.roll(clouds, -1, axis=0)).diagonal()
    across = chamfer_distances(clouds[:8], clouds[8:]).diagonal()
    assert steps.max() < 0.06  # 0.003 to 0.035
    # It moves, the last frame leads to the first, and what is near in time is alike.
    assert steps.mean() < 0.85 * across.mean()  # 0.1 to 0.75


def _cloud(mesh: trimesh.Trimesh, seed: int) -> np.ndarray:
    """(400, 3) evenly over the surface."""
    draws = np.random.default_rng(seed)
    vertices, faces = mesh.vertices.astype(np.float32), mesh.faces.astype(np.int32)
    return sample_surface(vertices, faces, 400, draws)[0]


def test_any_is_one_of_them(model):
    *_, vectors = model.sample(6, 0)
    assert torch.isfinite(vectors).all()
    assert len({title for title, _ in model.nearest(vectors)}) >= 4
