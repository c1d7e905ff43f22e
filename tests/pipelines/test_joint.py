"""One model for every task, whose latents have 16 channels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backend import pipelines, protocol, weights
from backend.conditions.words import model_words, suggestions
from backend.errors import BadInput
from backend.geometry.transforms import apply_to_points, inverse
from backend.models.wala.config import ImaginedConfig
from backend.models.wala.imagined import ImaginedVoxels
from backend.models.wala.model import Wala
from backend.pipelines import Context, generate, previews, regions, resident
from backend.pipelines.generate import Settings
from backend.pipelines.preparation import Prepared, prepare
from backend.protocol import (
    DepthToMesh,
    Generation,
    ImageToMesh,
    PointsToMesh,
    Preview,
    Shape,
    SketchToMesh,
    TextToMesh,
    ViewsToMesh,
    VoxelsToMesh,
)
from tests import wala_models
from tests.pipelines.conftest import last, mesh_of

WORDS = wala_models.WORDS


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("joint")
    wala_models.write_joint(folder)
    return folder


@pytest.fixture(autouse=True)
def store(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("FIELDFORGE_WEIGHTS", str(written))
    monkeypatch.setenv("FIELDFORGE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("FIELDFORGE_PRECISION", raising=False)
    resident._models.clear()
    yield written
    resident._models.clear()


@pytest.fixture
def solid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every latent decodes to the same octahedron, at once."""
    corners = (128 + 60 * np.concatenate([np.eye(3), -np.eye(3)])).astype(np.float32)
    faces = [[0, 1, 2], [1, 3, 2], [3, 4, 2], [4, 0, 2], [1, 0, 5], [3, 1, 5], [4, 3, 5], [0, 4, 5]]
    surface = corners, np.array(faces, np.int32)
    monkeypatch.setattr(generate._Generator, "field", lambda *_: np.zeros((2, 2, 2), np.float32))
    monkeypatch.setattr(generate, "marching_cubes", lambda *_, **__: surface)


def _ball(count: int, seed: int = 0) -> np.ndarray:
    points = np.random.default_rng(seed).normal(size=(count, 3))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def _views(count: int, **changes) -> ViewsToMesh:
    images = np.stack([wala_models.picture(seed) for seed in range(count)])
    return ViewsToMesh(images=images, model="tiny-joint", **changes)


def _sketch(**changes) -> SketchToMesh:
    turns = np.linspace(0, 6, 50)
    strokes = np.stack([np.cos(turns), np.sin(2 * turns), np.full(50, 0.02)], axis=1)
    lengths = np.array([20, 30], np.int32)
    return SketchToMesh(
        strokes=strokes.astype(np.float32), stroke_lengths=lengths, model="tiny-joint", **changes
    )


POINTS = _ball(900)
GRID = np.pad(np.ones((7, 11, 8), bool), 2)
TASKS: dict[str, Callable[..., Generation]] = {
    "points-to-mesh": lambda **c: PointsToMesh(points=POINTS, model="tiny-joint", **c),
    "voxels-to-mesh": lambda **c: VoxelsToMesh(occupancy=GRID, model="tiny-joint", **c),
    "image-to-mesh": lambda **c: ImageToMesh(image=wala_models.picture(), model="tiny-joint", **c),
    "sketch-to-mesh": _sketch,
    "depth-to-mesh": lambda **c: DepthToMesh(depth=wala_models.depth(), model="tiny-joint", **c),
    "views-to-mesh": lambda **c: _views(6, **c),
    "text-to-mesh": lambda **c: TextToMesh(prompt="A red chair", model="tiny-joint", **c),
    "shape": lambda **c: Shape(model="tiny-joint", **c),
}


def _bytes(mesh: protocol.MeshResult) -> bytes:
    return protocol.encode_result(dataclasses.replace(mesh, report={}))


# ------------------------------------------------------------------------------------ every task


def test_there_is_a_task_of_every_kind_here() -> None:
    assert set(TASKS) == set(pipelines.GENERATIONS)


@pytest.mark.usefixtures("solid")
@pytest.mark.parametrize("kind", TASKS)
def test_the_same_seed_gives_the_same_bytes_and_another_one_others(kind: str) -> None:
    make = TASKS[kind]
    first, again, other = (mesh_of(make(seed=seed)) for seed in (5, 5, 6))
    assert _bytes(first) == _bytes(again)
    assert first.latent is not None
    assert other.latent is not None
    assert first.latent.shape == (16, 12, 12, 12)
    assert np.abs(first.latent - other.latent).max() > 0.1
    assert protocol.decode_result(_bytes(first)).latent.shape == (16, 12, 12, 12)
    report = first.report
    assert (report["model"], report["steps"]) == ("tiny-joint", 3)
    assert report["guidance"] == (None if kind == "shape" else 1.5)


@pytest.mark.usefixtures("solid")
def test_every_condition_counts_and_differs_from_none() -> None:
    latents = [mesh_of(make(seed=5, steps=1)).latent for make in TASKS.values()]
    for number, latent in enumerate(latents):
        for other in latents[:number]:
            assert np.abs(latent - other).max() > 1e-3


def test_a_shape_of_it_is_decoded_and_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(previews, "SHARE", 1e9)  # however slow this machine is just now
    *steps, result = pipelines.run(TASKS["image-to-mesh"](seed=1, preview=True), Context("cpu"))
    shown = [step for step in steps if isinstance(step, Preview)]
    assert len(shown) == 3  # the last one by what was learned of 16 channels
    assert all(len(preview.meshes[0].faces) > 100 for preview in shown)
    edges = np.sort(result.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    _, counts = np.unique(edges, axis=0, return_counts=True)
    assert len(counts) > 1000
    assert (counts % 2 == 0).all()


# ------------------------------------------------------------------------------- what is prepared


def _prepared(task: Generation) -> Prepared:
    installed = weights.require("tiny-joint")
    return prepare(task, installed, generate.config_of(installed).joint)


@pytest.mark.parametrize(("given", "seen"), [(60, 512), (900, 900), (9000, 4096)])
def test_a_cloud_has_as_many_points_as_the_model_knows(given: int, seen: int) -> None:
    task = PointsToMesh(points=_ball(given) * [1, 2, 3] + [10, 20, 30])
    prepared = _prepared(task)
    points = prepared.source["points"]
    assert points.shape == (seen, 3)
    assert points.dtype == np.float32
    if given > 512:  # all are points of the source
        placed = apply_to_points(inverse(prepared.to_source), task.points)
        near = np.abs(points[:50, None] - placed[None]).max(axis=2).min(axis=1)
        assert near.max() < 1e-5
    assert len(prepared.points) == given


def test_the_order_of_points_does_not_matter() -> None:
    shuffled = np.random.default_rng(1).permutation(POINTS)
    first, second = (_prepared(PointsToMesh(points=points)) for points in (POINTS, shuffled))
    np.testing.assert_allclose(first.to_source, second.to_source, atol=1e-12)
    order = [np.lexsort(cloud.source["points"].T) for cloud in (first, second)]
    np.testing.assert_array_equal(
        first.source["points"][order[0]], second.source["points"][order[1]]
    )
    features = [
        resident.load(weights.require("tiny-joint"), torch.device("cpu"), 0).encode(cloud.source)
        for cloud in (first, second)
    ]
    torch.testing.assert_close(*features, atol=1e-5, rtol=0)


def test_any_first_views_will_do_and_no_more_than_the_model_knows() -> None:
    for count in (1, 4, 6):
        assert _prepared(_views(count)).source["views"].shape == (count, 3, 224, 224)
    with pytest.raises(BadInput, match=r"7 views; the model needs 6.*\(3, 6, 10, 26, 49, 50\)"):
        last(_views(7))
    depths = np.stack([wala_models.depth(seed) for seed in range(6)])
    with pytest.raises(BadInput, match="takes pictures; depth pictures were given"):
        last(ViewsToMesh(depths=depths, model="tiny-joint"))


def test_there_is_no_published_command_of_it() -> None:
    with pytest.raises(BadInput, match="no published command"):
        last(TASKS["image-to-mesh"](as_published=True))


# ------------------------------------------------------------------------------------------ words


def test_words_are_those_of_training() -> None:
    said = model_words("Two RED-wooden chairs, a dragon!", WORDS)
    assert (said.used, said.unknown) == (("red", "wooden", "chair"), ("dragon",))
    assert [word for word, one in zip(WORDS, said.vector, strict=True) if one] == [
        *("a", "chair", "red", "wooden")
    ]
    shelves = model_words("shelves", WORDS)
    assert shelves.used == ("shelf",)


def test_a_text_of_unknown_words_is_refused_with_those_that_are_known() -> None:
    for prompt in ("a chiar", "chiar"):  # "a" is known, and says nothing
        with pytest.raises(BadInput, match="chiar") as caught:
            last(TextToMesh(prompt=prompt, model="tiny-joint"))
        named = caught.value.remedy.partition("example: ")[2].rstrip(".").split(", ")
        assert named[0] == "chair"
        assert set(named) == set(WORDS) - {"a"}
    with pytest.raises(BadInput, match="none that says"):
        last(TextToMesh(prompt="the, of!", model="tiny-joint"))


def test_a_dozen_words_are_suggested_from_all_over() -> None:
    known = tuple(f"{first}{second}ble" for first in "abcdefgh" for second in "aeiou")
    found = suggestions(["gible", "xyz"], known)
    assert len(found) == len(set(found)) == 12
    assert found[0] == "gible"
    assert {word[0] for word in found} >= set("abcdefgh")


@pytest.mark.usefixtures("solid")
def test_the_report_tells_which_words_were_used() -> None:
    report = mesh_of(TextToMesh(prompt="Red chair with wings", model="tiny-joint")).report
    assert report["notes"] == [
        "The model goes by these words: red, chair.",
        "It does not know: wings.",
    ]


@pytest.mark.usefixtures("solid")
def test_known_words_change_the_shape_and_unknown_ones_do_not() -> None:
    plain, other, more = (
        mesh_of(TextToMesh(prompt=prompt, model="tiny-joint")).latent
        for prompt in ("chair", "red chair", "chair with wings")
    )
    assert np.array_equal(plain, more)
    assert np.abs(plain - other).max() > 1e-3


# ---------------------------------------------------------------------------------------- regions


@pytest.mark.usefixtures("solid")
def test_a_part_of_a_shape_is_made_anew() -> None:
    earlier = mesh_of(TASKS["shape"](seed=1, up_axis="y")).latent
    region = np.diag([0.5, 1, 1, 1.0])
    region[0, 3] = -0.5
    task = TASKS["shape"](seed=2, up_axis="y", latent=earlier, region=region)
    new = mesh_of(task).latent
    same = (new == earlier).all(axis=0)
    assert same[6:].all()
    assert 0 < same.mean() < 1


@pytest.mark.usefixtures("solid")
def test_a_region_lies_in_the_frame_of_the_whole_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cloud that shows a part is moved in the cube; the box of a region moves with it."""
    nodes = np.abs(2 * np.arange(64, dtype=np.float32) / 64 - 1)
    beyond = np.abs(2 * np.arange(64, dtype=np.float32) / 64 - 1 - 0.3) - np.float32(0.6)
    draft = np.maximum(beyond[:, None, None], np.maximum(nodes[:, None], nodes) - np.float32(0.9))
    monkeypatch.setattr(generate._Generator, "field", lambda *_: draft)
    task = PointsToMesh(points=POINTS * [0.3, 1, 0.3] + 7, model="tiny-joint", up_axis="y", seed=1)
    earlier = mesh_of(task)
    in_cube = np.diag([0.45, 0.6, 2.0, 1.0])
    in_cube[:2, 3] = 0.7, 0.2
    region = earlier.to_source @ in_cube
    later = mesh_of(dataclasses.replace(task, seed=9, latent=earlier.latent, region=region))
    np.testing.assert_array_equal(later.to_source, earlier.to_source)
    made_anew = (later.latent != earlier.latent).any(axis=0)
    np.testing.assert_array_equal(made_anew, regions.cells_in(inverse(in_cube)))
    # In the frame of the cloud itself it would be another part.
    alone = _prepared(task).to_source
    assert np.abs(alone[:3, 3] - earlier.to_source[:3, 3]).max() > 0.1
    elsewhere = regions.cells_in(inverse(region) @ alone)
    assert (made_anew != elsewhere).sum() > 0.2 * made_anew.sum()


@pytest.mark.parametrize("kind", ["shape", "text-to-mesh"])
def test_a_shape_of_another_model_is_refused_before_any_work(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_, **__):
        raise AssertionError("nothing is prepared or loaded")

    monkeypatch.setattr(generate, "prepare", never)
    monkeypatch.setattr(resident, "load", never)
    latent = np.zeros(wala_models.LATENT_SHAPE, np.float32)
    task = TASKS[kind](latent=latent, region=np.eye(4))
    with pytest.raises(BadInput, match=r"4 numbers in each cell.* 16") as caught:
        last(task)
    assert "Choose the model that made the shape" in caught.value.remedy


# -------------------------------------------------------------------------------------- imagining


@pytest.fixture
def imagining(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = ImaginedConfig(components=16, width=32, depth=1)
    wala_models.write_joint(tmp_path / "imagining", imagined=small)
    monkeypatch.setenv("FIELDFORGE_WEIGHTS", str(tmp_path / "imagining"))


@pytest.mark.usefixtures("solid", "imagining")
def test_words_become_voxels_first_and_these_a_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    encode = Wala.encode

    def noted(self: Wala, source: Any) -> torch.Tensor:
        told.append(source)
        return encode(self, source)

    monkeypatch.setattr(Wala, "encode", noted)
    kinds = ("text-to-mesh", "shape", "image-to-mesh")
    made = {kind: mesh_of(TASKS[kind](seed=5)).latent for kind in kinds}
    assert [sorted(source) for source in told] == [["voxels"], ["voxels"], ["image"]]
    text, nothing = (source["voxels"] for source in told[:2])
    assert text.shape == nothing.shape == (1, 1, 16, 16, 16)
    assert 0 < text.mean() < 1
    assert (text != nothing).any()
    # The same voxels, given by hand, are the same shape.
    loaded = resident.load(weights.require("tiny-joint"), torch.device("cpu"), 0)
    features = loaded.encode({"voxels": text[0].numpy()})
    settings = Settings(3, 1.5, 5, 1, False)
    noise = generate.noise_of(settings, loaded.model.latent_shape()[1:], torch.device("cpu"))
    *_, step = generate.sample(loaded, features, settings, noise)
    np.testing.assert_allclose(step.sample[0].numpy(), made["text-to-mesh"], atol=1e-5)


@pytest.mark.usefixtures("solid", "imagining")
@pytest.mark.parametrize("kind", ["text-to-mesh", "shape"])
def test_each_variation_is_imagined_by_its_own_seed(kind: str) -> None:
    several = last(TASKS[kind](seed=5, variations=3, steps=1)).meshes
    alone = mesh_of(TASKS[kind](seed=6, steps=1)).latent
    np.testing.assert_allclose(several[1].latent, alone, atol=1e-4)
    for other in (several[0], several[2]):
        assert np.abs(other.latent - alone).max() > 1e-3


@pytest.mark.usefixtures("solid")
def test_where_nothing_is_said_the_model_chooses_a_thing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("a red chair", "a lamp", "oak shelf", "a bed")
    small = ImaginedConfig(components=16, width=32, depth=1, names=names)
    wala_models.write_joint(tmp_path / "named", imagined=small)
    monkeypatch.setenv("FIELDFORGE_WEIGHTS", str(tmp_path / "named"))
    several = last(TASKS["shape"](seed=0, variations=12, steps=1))
    chosen = [note.removeprefix("The model chose: ")[:-1] for note in several.report["notes"]]
    assert len(chosen) == 12
    assert set(chosen) == set(names)
    said = mesh_of(TextToMesh(prompt=chosen[3], model="tiny-joint", seed=3, steps=1))
    np.testing.assert_allclose(several.meshes[3].latent, said.latent, atol=1e-4)


@pytest.mark.usefixtures("imagining")
def test_beyond_a_region_the_earlier_shape_is_what_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nodes = np.arange(64, dtype=np.float32) / 32 - 1
    ball = np.sqrt(nodes[:, None, None] ** 2 + nodes[:, None] ** 2 + nodes**2) - np.float32(0.7)
    monkeypatch.setattr(generate._Generator, "field", lambda *_: ball)
    given = []
    imagine = ImaginedVoxels.imagine

    def noted(self: ImaginedVoxels, *rest: Any) -> torch.Tensor:
        given.append((rest[-1], imagine(self, *rest)))
        return given[-1][1]

    monkeypatch.setattr(ImaginedVoxels, "imagine", noted)
    earlier = mesh_of(TASKS["text-to-mesh"](seed=1, up_axis="y"))
    region = np.diag([0.5, 1, 1, 1.0])
    region[0, 3] = -0.5  # all below x = 0
    mesh_of(TASKS["text-to-mesh"](seed=2, up_axis="y", latent=earlier.latent, region=region))
    assert given[0][0] is None
    known, voxels = given[1]
    # The margin is a quarter wide, so cells from x = 0.25 on stay.
    assert known.anew[:10].all()
    assert not known.anew[10:].any()
    centres = 2 * (np.arange(16) + 0.5) / 16 - 1
    distance = np.sqrt(sum(np.meshgrid(*[centres**2] * 3, indexing="ij")))
    kept = voxels[0, 0, 10:].numpy().astype(bool)
    assert kept[distance[10:] < 0.6].all()
    assert not kept[distance[10:] > 0.8].any()


# ------------------------------------------------------------------------- defaults and the memory


@pytest.fixture
def bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(weights, "BUNDLED", tmp_path / "bundled")
    monkeypatch.setenv("FIELDFORGE_WEIGHTS", str(tmp_path / "own"))
    wala_models.write(tmp_path / "own", "image")
    wala_models.write(tmp_path / "own", "depths6")
    return tmp_path / "bundled"


def _default(task: Generation) -> str:
    return pipelines.model_for(dataclasses.replace(task, model="")).id


def test_a_bundled_model_is_the_default_of_what_it_says(bundled: Path) -> None:
    wala_models.write_joint(bundled, default_for=("points-to-mesh",))
    assert _default(TASKS["points-to-mesh"]()) == "tiny-joint"
    assert _default(TASKS["voxels-to-mesh"]()) == "wavelet-fit"
    assert _default(TASKS["image-to-mesh"]()) == "tiny-joint"  # bundled before downloaded
    assert _default(_views(6)) == "tiny-joint"
    depths = np.stack([wala_models.depth(seed) for seed in range(6)])
    assert _default(ViewsToMesh(depths=depths)) == "tiny-depths6"
    listed = {model.id: model for model in pipelines.models()}
    assert set(listed["tiny-joint"].default_for) == {*TASKS} - {"voxels-to-mesh"}
    assert listed["wavelet-fit"].default_for == ("voxels-to-mesh",)
    assert listed["tiny-image"].default_for == ()


def test_only_what_is_bundled_can_be_the_default_by_its_own_word(bundled: Path) -> None:
    wala_models.write_joint(weights.store(), default_for=("points-to-mesh", "image-to-mesh"))
    assert _default(TASKS["points-to-mesh"]()) == "wavelet-fit"
    with pytest.raises(BadInput, match="default for shape"):
        wala_models.write(bundled, "image", default_for=("shape",))


def test_what_a_job_needs_counts_its_own_condition() -> None:
    settings, config = Settings(8, 1.5, 0, 16, False), wala_models.joint_config()

    def needed(task: Generation) -> int:
        return generate.working_bytes(config, settings, _prepared(task))

    wide = dataclasses.replace(
        config.denoiser, width=1 << 14, depth=8
    )  # sampling is what needs most
    config = dataclasses.replace(config, denoiser=wide)
    none, text, image, views = (
        needed(TASKS[kind]())
        for kind in ("shape", "text-to-mesh", "image-to-mesh", "views-to-mesh")
    )
    per_token = (4 * 32 * 6 + 2 * 2 * 8 * 4) << 14
    assert text - none == 4 * per_token
    assert image - none == 5 * per_token  # 28 pixels, a token for 16 of them; and its kind
    assert views - none == (6 * 4 + 1) * per_token
