from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from backend import pipelines, weights
from backend.depth_meanings import radii
from backend.errors import BadInput, Cancelled, NotInstalled, OutOfMemory
from backend.models.panorama_depth import estimation
from backend.models.panorama_depth.evaluation import depth_errors
from backend.models.panorama_depth.monocular import METRIC, RELATIVE
from backend.pipelines import Context, memory, panorama_to_depth
from backend.protocol import PanoramaResult, PanoramaToDepth, PanoramaToSphere, SphereResult
from backend.weights import Installed
from tests import depth_models
from tests.models.panorama_depth import rooms
from tests.models.panorama_depth.rooms import KnowingModel
from tests.pipelines.conftest import last


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("depth models") / "store"
    depth_models.install(store)
    depth_models.install(store, "metres-small", "depth_anything_metric")
    return store


@pytest.fixture
def depth_store(written: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FIELDFORGE_WEIGHTS", str(written))
    return written


Use = Callable[[KnowingModel], KnowingModel]


@pytest.fixture
def use(depth_store: Path, monkeypatch: pytest.MonkeyPatch) -> Use:
    """use(model): the installed model is that one from now on."""

    def replace(model: KnowingModel) -> KnowingModel:
        monkeypatch.setattr(panorama_to_depth, "load", lambda installed, device: model)
        return model

    return replace


def test_the_depth_of_a_panorama_comes_back_with_its_picture(use: Use) -> None:
    use(KnowingModel())
    result = last(PanoramaToDepth(name="room", image=rooms.picture()))
    assert isinstance(result, PanoramaResult)
    assert result.name == "room"
    assert np.array_equal(result.image, rooms.picture())
    assert result.depth is not None
    assert result.depth.shape == (256, 512)
    errors = depth_errors(radii(result.depth, result.meaning), rooms.truth(512), "scale")
    assert errors.abs_rel < 0.002
    assert result.report["model"] == "depth-small"
    assert result.report["device"] == "cpu"
    stages = set(result.report["seconds"])
    assert {"Loading the depth model", "Aligning the views", "Merging the views"} <= stages


def test_each_view_is_told_and_a_job_ends_between_views(use: Use) -> None:
    model = use(KnowingModel(48))
    steps = pipelines.run(
        PanoramaToDepth(image=rooms.picture()), Context("cpu", lambda: model.asked >= 3)
    )
    told = []
    with pytest.raises(Cancelled):
        told += [step.stage for step in steps]
    assert model.asked == 3


def test_a_sphere_without_depth_gets_that_of_a_model(use: Use) -> None:
    use(KnowingModel())
    result = last(PanoramaToSphere(image=rooms.picture(), width=512))
    assert isinstance(result, SphereResult)
    assert result.report["depth_model"] == "depth-small"
    front = next(layer for layer in result.layers if layer.layer == "front")
    away = radii(front.values, result.meaning)
    true = 1 / rooms.inverse_in(front.directions)
    scale = np.median(true / away)
    assert scale == pytest.approx(1, abs=0.02)
    assert np.percentile(np.abs(scale * away / true - 1), 90) < 0.01


def test_a_part_of_a_panorama_has_no_depth_elsewhere(use: Use) -> None:
    whole = np.zeros((256, 512), bool)
    whole[64:192, 128:384] = True

    class Skipping(KnowingModel):
        """Is not asked for views that show nothing of it."""

        def __call__(self, picture: np.ndarray) -> np.ndarray:
            while not estimation._shows(rooms.cameras(20)[self.asked], estimation._reduced(whole)):
                self.asked += 1
            return super().__call__(picture)

    use(Skipping())
    part = np.ascontiguousarray(rooms.picture()[64:192, 128:384])
    task = PanoramaToDepth(image=part, aspect="partial", field_of_view=180.0)
    result = last(task)
    assert isinstance(result, PanoramaResult)
    assert result.image.shape == (256, 512, 3)
    assert np.array_equal(result.image[whole].reshape(part.shape), part)
    assert result.depth is not None
    assert np.array_equal(np.isfinite(result.depth), whole)
    errors = depth_errors(radii(result.depth, result.meaning), rooms.truth(512), "scale")
    assert errors.abs_rel_p95 < 0.01
    with pytest.raises(BadInput, match="all around is twice as wide"):
        last(PanoramaToDepth(image=part[:, :200].copy()))


def test_a_model_of_chance_runs_to_the_end(depth_store: Path) -> None:
    """transformers itself, with a small network."""
    image = rooms.picture()[::2, ::2].copy()
    result = last(PanoramaToDepth(model="metres-small", image=image))
    assert isinstance(result, PanoramaResult)
    assert result.depth is not None
    assert result.depth.shape == (128, 256)
    assert result.meaning.meaning == "metric"
    assert 1 < result.depth.min() < result.depth.max() < 20


def test_without_a_model_it_is_said_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIELDFORGE_WEIGHTS", str(tmp_path))
    for task in (PanoramaToDepth, PanoramaToSphere):
        with pytest.raises(NotInstalled) as raised:
            last(task(image=rooms.picture()))
        assert "Preferences > Models" in raised.value.remedy
        assert "models download depth-anything-v2-small" in raised.value.remedy


def test_what_the_registry_says_of_a_model_goes_first(
    depth_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = weights.require("depth-small")
    assert panorama_to_depth.load(model, "cpu").output == RELATIVE
    assert panorama_to_depth.load(_said(model, "metric"), "cpu").output == METRIC
    with pytest.raises(BadInput, match="'backwards'"):
        panorama_to_depth.load(_said(model, "backwards"), "cpu")


def _said(model: Installed, depth: str) -> Installed:
    return dataclasses.replace(model, config={"depth": depth})


def test_memory_that_is_not_there_is_told_before_and_during(
    use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(picture: np.ndarray) -> np.ndarray:
        raise MemoryError

    model = use(KnowingModel(48))
    monkeypatch.setattr(model, "_changes", {2: full})
    with pytest.raises(OutOfMemory, match="did not fit"):
        last(PanoramaToDepth(image=rooms.picture()))

    def require(needed: int, device: str, remedy: str) -> Iterator[None]:
        raise OutOfMemory(f"{needed} bytes on {device}", remedy)

    monkeypatch.setattr(memory, "require", require)
    with pytest.raises(OutOfMemory, match="on cpu"):
        last(PanoramaToDepth(image=rooms.picture()))
