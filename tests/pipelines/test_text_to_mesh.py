"""Words to shapes, with small models of chance: what is painted reaches the model of shapes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backend import pipelines, weights
from backend.errors import BadInput, Cancelled, InternalError, NotInstalled, OutOfMemory
from backend.models.mvdream.model import MVDream, first_noise, full_prompt
from backend.pipelines import Context, generate, preparation, resident, text_to_mesh
from backend.protocol import MeshResult, MeshSet, Preview, Progress, TextToMesh
from tests import mvdream_models, wala_models

CONTEXT = Context(device="cpu")
NEEDS = ("tiny-depths6",)


@pytest.fixture(scope="module")
def painter() -> MVDream:
    return mvdream_models.make_model(mvdream_models.config_for())


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, painter: MVDream) -> Path:
    folder = tmp_path_factory.mktemp("store")
    wala_models.write(folder, "depths6")
    mvdream_models.write(folder, painter, needs=NEEDS)
    return folder


@pytest.fixture(scope="module", autouse=True)
def _in_store(store: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIELDFORGE_WEIGHTS", str(store))
        yield
    resident.unload()


def _run(context: Context = CONTEXT, **wishes: Any) -> tuple[list[Progress], Any]:
    task = TextToMesh(**{"prompt": "a chair", "model": "small-text", **wishes})
    *progress, result = pipelines.run(task, context)
    assert all(isinstance(news, Progress) for news in progress)
    return progress, result


@pytest.fixture(scope="module")
def one() -> tuple[list[Progress], MeshResult]:
    progress, result = _run(seed=5)
    assert isinstance(result, MeshResult)
    return progress, result


def test_words_become_a_mesh(one: tuple[list[Progress], MeshResult]) -> None:
    _, mesh = one
    assert len(mesh.faces) > 100
    assert np.abs(mesh.vertices).max() <= 1.01
    assert mesh.latent is not None
    report = mesh.report
    assert (report["model"], report["shape_model"]) == ("small-text", "tiny-depths6")
    assert (report["steps"], report["guidance"], report["seed"]) == (2, 1.5, 5)
    assert report["prompt"] == "a chair"
    stages = list(report["seconds"])
    assert stages[:2] == ["Loading the text model", "Painting the views"]
    assert "Sampling" in stages
    assert sum(report["seconds"].values()) <= report["total_seconds"] + 0.01


def test_progress_grows_to_the_end_through_every_step(
    one: tuple[list[Progress], MeshResult],
) -> None:
    progress, _ = one
    fractions = [news.fraction for news in progress]
    assert fractions == sorted(fractions)
    assert fractions[0] == 0
    assert 0.6 < fractions[-1] < 1
    painting = [news for news in progress if news.stage.startswith("Painting the views")]
    steps = ["", *(f", step {number} of 3" for number in (1, 2, 3))]
    assert [news.stage for news in painting] == ["Painting the views" + step for step in steps]
    assert len({news.fraction for news in painting}) == 4


def test_the_same_seed_gives_the_same_mesh_from_models_that_stay_loaded(
    one: tuple[list[Progress], MeshResult],
) -> None:
    loaded = {id(kept) for kept in resident._models.values()}
    assert len(loaded) == 2
    _, again = _run(seed=5)
    np.testing.assert_array_equal(again.vertices, one[1].vertices)
    assert {id(kept) for kept in resident._models.values()} == loaded


def test_other_words_give_another_mesh(one: tuple[list[Progress], MeshResult]) -> None:
    _, other = _run(seed=5, prompt="an aeroplane made of glass " * 20)
    assert not np.array_equal(other.latent, one[1].latent)
    assert "first 75 words" in other.report["notes"][0]
    assert "notes" not in one[1].report


def test_variations_are_those_of_their_seeds(one: tuple[list[Progress], MeshResult]) -> None:
    progress, both = _run(seed=4, variations=2, preview=True)
    assert isinstance(both, MeshSet)
    assert [mesh.report["seed"] for mesh in both.meshes] == [4, 5]
    np.testing.assert_array_equal(both.meshes[1].vertices, one[1].vertices)
    assert not np.array_equal(both.meshes[0].latent, both.meshes[1].latent)
    assert both.report["variations"] == 2
    assert both.report["faces"] == sum(len(mesh.faces) for mesh in both.meshes)
    fractions = [news.fraction for news in progress]
    assert fractions == sorted(fractions)
    previews = [news for news in progress if isinstance(news, Preview)]
    assert all(news.fraction > 0.6 for news in previews)


def test_up(one: tuple[list[Progress], MeshResult]) -> None:
    _, upright = _run(seed=5, up_axis="y")
    x, y, z = upright.vertices.T
    np.testing.assert_allclose(one[1].vertices, np.stack([x, -z, y], axis=1), atol=1e-6)


# ------------------------------------------------------------------------------ what is handed on


def _handed_on(monkeypatch: pytest.MonkeyPatch, **wishes: Any) -> preparation.PaintedText:
    """The task that the model of shapes is given."""
    seen: list[preparation.PaintedText] = []

    def keep(task: preparation.PaintedText, _context: Context) -> Iterator[MeshResult]:
        seen.append(task)
        yield MeshResult(report={"seconds": {}})

    monkeypatch.setattr(generate, "generate", keep)
    _run(**wishes)
    (task,) = seen
    return task


def _painted(painter: MVDream, prompt: str, seed: int) -> np.ndarray:
    *_, last = painter.sample(prompt, first_noise(painter, seed))
    return painter.pictures(last.sample)


def test_painted_depth_is_handed_on_as_grey(
    painter: MVDream, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = _handed_on(monkeypatch, seed=3)
    painted = _painted(painter, "a chair, 3d asset", 3)
    assert task.pictures.shape == painted.shape == (6, 16, 16, 3)
    assert (task.pictures[..., :1] == task.pictures).all()
    assert np.abs(task.pictures[..., 0] - painted.astype(float).mean(axis=-1)).max() <= 0.5
    assert (task.model, task.seed, task.variations) == ("tiny-depths6", 3, 1)


def test_as_published_everything_is_handed_on_untouched(
    painter: MVDream, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = _handed_on(monkeypatch, seed=3, as_published=True)
    expected = _painted(painter, full_prompt("a chair", ", 3d asset", as_published=True), 3)
    np.testing.assert_array_equal(task.pictures, expected)


def test_wishes_are_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    region, latent = np.eye(4), np.zeros((4, 12, 12, 12), np.float32)
    wishes = {"steps": 7, "guidance": 2.5, "up_axis": "y", "preview": True, "name": "Chair"}
    task = _handed_on(monkeypatch, region=region, latent=latent, **wishes)
    assert {name: getattr(task, name) for name in wishes} == wishes
    assert task.region is region
    assert task.latent is latent


def test_pictures_are_not_changed_on_the_way_to_the_model(store: Path) -> None:
    pictures = np.random.default_rng(1).integers(0, 256, (6, 224, 224, 3), np.uint8)
    task = preparation.PaintedText(prompt="a chair", pictures=pictures)
    prepared = preparation.prepare(task, weights.require("tiny-depths6"))
    assert prepared.source is not None
    assert prepared.source.shape == (6, 3, 224, 224)
    expected = pictures.transpose(0, 3, 1, 2) / 127.5 - 1
    np.testing.assert_allclose(prepared.source, expected, atol=1e-6)


# ------------------------------------------------------------------------------------- what fails


def test_the_model_of_shapes_is_missing(
    painter: MVDream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mvdream_models.write(tmp_path, painter, needs=("wala-views-depth6-1b",))
    monkeypatch.setenv("FIELDFORGE_WEIGHTS", str(tmp_path))
    with pytest.raises(NotInstalled) as raised:
        _run()
    assert "models download wala-views-depth6-1b" in raised.value.remedy


@pytest.mark.parametrize(
    ("needs", "said"), [((), "does not say which model"), (("tiny-views4",), "does not take")]
)
def test_a_pair_that_does_not_fit(
    painter: MVDream, tmp_path: Path, needs: tuple[str, ...], said: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIELDFORGE_WEIGHTS", str(tmp_path))
        wala_models.write(tmp_path, "views4")
        text = mvdream_models.write(tmp_path, painter, needs=needs)
        with pytest.raises(BadInput, match=said):
            text_to_mesh.maker_for(text)


def test_it_stops_between_the_steps_of_painting() -> None:
    seen: list[Any] = []
    context = dataclasses.replace(CONTEXT, cancelled=lambda: len(seen) >= 3)
    task = TextToMesh(prompt="a chair", model="small-text")
    with pytest.raises(Cancelled):
        seen.extend(pipelines.run(task, context))
    assert seen[-1].stage.startswith("Painting the views")
    assert len(seen) == 3


def test_it_stops_within_a_step_of_painting(painter: MVDream) -> None:
    layers = list(text_to_mesh.painting_layers(painter))
    asked = 0

    def cancelled() -> bool:
        nonlocal asked
        asked += 1
        return asked > 2 * len(layers)

    context = dataclasses.replace(CONTEXT, cancelled=cancelled)
    task = TextToMesh(prompt="a chair")
    with (
        pytest.raises(Cancelled),
        resident.asking(layers, torch.device("cpu"), context),
    ):
        list(text_to_mesh.steps_of(painter, task, 0))
    assert not any(layer._forward_pre_hooks for layer in layers)


def test_numbers_that_are_none_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: object) -> torch.Tensor:
        return torch.full((6, 4, 8, 8), torch.nan)

    monkeypatch.setattr(text_to_mesh, "first_noise", lost)
    with pytest.raises(InternalError, match="no numbers"):
        _run()


@pytest.mark.parametrize("empty", [{4}, {5}, {4, 5}])
def test_a_variation_without_a_surface_spoils_no_other(
    empty: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = generate._Generator.field

    def field(self: generate._Generator, *rest: Any) -> np.ndarray:
        found = made(self, *rest)
        return np.full_like(found, 0.1) if self.settings.seed in empty else found

    monkeypatch.setattr(generate._Generator, "field", field)
    if len(empty) == 2:
        with pytest.raises(BadInput, match="empty shape"):
            _run(seed=4, variations=2)
        return
    _, both = _run(seed=4, variations=2)
    assert isinstance(both, MeshSet)
    assert [mesh.report["seed"] for mesh in both.meshes] == [4, 5]
    assert [len(mesh.faces) == 0 for mesh in both.meshes] == [4 in empty, 5 in empty]
    assert both.report["faces"] == sum(len(mesh.faces) for mesh in both.meshes)
    assert both.report["variations"] == 2


def test_too_little_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(MVDream, "pictures", full)
    with pytest.raises(OutOfMemory, match="views did not fit"):
        _run()
    assert resident._models == {}
