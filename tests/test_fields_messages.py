"""Tasks and results about neural fields and moving meshes: what comes through, what is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend import moving_meshes, protocol
from backend.errors import BadInput, FieldforgeError, TooLarge
from backend.neural_fields import NeuralField, weight_count
from backend.protocol import (
    FIELDS,
    Animation,
    AnimationResult,
    AnimationSet,
    FieldResult,
    FieldToMesh,
    MeshResult,
    MeshSet,
    MeshToField,
    Task,
    animations_of,
    decode_result,
    decode_task,
    encode_result,
    encode_task,
    pack,
    unpack,
)

CORNERS = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
SIDES = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], np.int32)
PLACED = np.diag([2.0, 2.0, 2.0, 1.0])
PLACED[:3, 3] = (5, 6, 7)


def frames(count: int = 3) -> dict[str, np.ndarray]:
    """A tetrahedron that grows; in its last frame there are two of them."""
    meshes = [(CORNERS * (1 + k), SIDES) for k in range(count)]
    twice = np.concatenate([CORNERS, CORNERS + 3]), np.concatenate([SIDES, SIDES + 4])
    return moving_meshes.joined([*meshes[:-1], twice])


def small(seed: int = 0, dimensions: int = 3, **fields: Any) -> NeuralField:
    shape: dict[str, Any] = {"dimensions": dimensions, "frequencies": 1, "hidden": (5, 4)}
    weights = np.random.default_rng(seed).normal(size=weight_count(**shape)).astype(np.float32)
    if dimensions == 4:
        shape |= {"frame_count": 3, "fps": 12.0, "loop": True}
    return NeuralField(
        **{**shape, "weights": weights, "to_source": PLACED, "start": "still", **fields}
    )


def between(*fields: NeuralField, **more: Any) -> FieldToMesh:
    return FieldToMesh.of(*fields, **{"amounts": (0.0, 0.25, 1.0)[: 2 * len(fields) - 1], **more})


def same(before: Any, after: Any) -> None:
    assert type(after) is type(before)
    if dataclasses.is_dataclass(before):
        for spec in dataclasses.fields(before):
            same(getattr(before, spec.name), getattr(after, spec.name))
    elif isinstance(before, np.ndarray):
        assert after.dtype == before.dtype
        np.testing.assert_array_equal(after, before)
    elif isinstance(before, tuple):
        assert len(before) == len(after)
        for one, other in zip(before, after, strict=True):
            same(one, other)
    else:
        assert after == before


# -------------------------------------------------------------------------------------- the wire


def tasks() -> list[Task]:
    return [
        MeshToField(**frames(), fps=30.0, loop=True, effort="best", half=True, topology="one"),
        MeshToField(**frames(1), resolution=256, up_axis="y"),
        between(small(0), small(1)),
        between(small(0, 4), amounts=(0.0,), frames=np.array([2, 0], np.int32), topology="one"),
        Animation(choice="fish", frames=8, fps=12.5, steps=20, variations=4, up_axis="y", seed=3),
        Animation(),
    ]


@pytest.mark.parametrize("task", tasks(), ids=lambda task: type(task).__name__)
def test_a_task_comes_back_as_it_was(task: Task) -> None:
    same(task, decode_task(encode_task(task)))


def test_every_kind_of_field_task_is_tried_here() -> None:
    assert {task.kind for task in tasks()} == set(FIELDS)


def moving(**fields: Any) -> AnimationResult:
    return AnimationResult(**{**frames(), "fps": 12.0, "neural": small(0, 4), **fields})


def one_topology() -> AnimationResult:
    vertices = np.stack([CORNERS, CORNERS * 2])
    return AnimationResult(vertices=vertices, faces=SIDES, loop=True, to_source=PLACED)


RESULTS = [
    moving(report={"seconds": {"Sampling": 1.5}}),
    one_topology(),
    moving(amounts=np.array([0, 0.5, 1], np.float32), neural=None),
    AnimationSet(name="fish", animations=(moving(), one_topology()), report={"steps": 3}),
    FieldResult(neural=small(2, 4), animation=one_topology(), report={"iou": 0.98}),
    FieldResult(neural=small(2, weights=small().weights.astype(np.float16)), animation=moving()),
    MeshResult(vertices=CORNERS, faces=SIDES, neural=small(3)),
    MeshSet(meshes=(MeshResult(vertices=CORNERS, faces=SIDES, neural=small(4)), MeshResult())),
]


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: result.kind)
def test_a_result_comes_back_as_it_was(result: protocol.Result) -> None:
    same(result, decode_result(encode_result(result)))


def test_animations_are_found_in_every_kind_of_result() -> None:
    assert [len(animations_of(result)) for result in RESULTS] == [1, 1, 1, 2, 1, 1, 0, 0]


@st.composite
def sequences(draw: st.DrawFn) -> list[moving_meshes.Mesh]:
    """Up to five frames, each of any small number of vertices and faces, none included."""
    found = []
    for _ in range(draw(st.integers(1, 5))):
        count = draw(st.integers(0, 6))
        vertices = np.array(
            draw(
                st.lists(
                    st.tuples(*[st.floats(-9, 9, width=32)] * 3), min_size=count, max_size=count
                )
            ),
            np.float32,
        ).reshape(count, 3)
        corner = st.integers(0, count - 1)
        faces = draw(st.lists(st.tuples(corner, corner, corner), max_size=4)) if count else []
        found.append((vertices, np.array(faces, np.int32).reshape(-1, 3)))
    return found


@settings(max_examples=60, deadline=None)
@given(sequences(), st.booleans(), st.floats(1, 120))
def test_any_sequence_of_meshes_comes_through(
    meshes: list[moving_meshes.Mesh], loop: bool, fps: float
) -> None:
    sent = AnimationResult(**moving_meshes.joined(meshes), loop=loop, fps=fps)
    found = decode_result(encode_result(sent))
    assert isinstance(found, AnimationResult)
    assert (found.loop, found.fps) == (loop, fps)
    assert len(found.meshes()) == len(meshes)
    for (vertices, faces), (v, f) in zip(meshes, found.meshes(), strict=True):
        np.testing.assert_array_equal(v, vertices)
        np.testing.assert_array_equal(f, faces)


@settings(max_examples=60, deadline=None)
@given(
    dimensions=st.sampled_from([3, 4]),
    frequencies=st.integers(0, 3),
    hidden=st.lists(st.integers(1, 6), min_size=1, max_size=3).map(tuple),
    half=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_field_comes_through(
    dimensions: int, frequencies: int, hidden: tuple[int, ...], half: bool, seed: int
) -> None:
    count = weight_count(dimensions, frequencies, hidden)
    weights = np.random.default_rng(seed).normal(size=count)
    field = NeuralField(
        weights=weights.astype(np.float16 if half else np.float32),
        dimensions=dimensions,
        frequencies=frequencies,
        hidden=hidden,
        frame_count=1 if dimensions == 3 else 5,
    )
    field.check()
    found = decode_result(encode_result(FieldResult(neural=field, animation=one_topology())))
    assert isinstance(found, FieldResult)
    same(field, found.neural)


def test_the_published_fields_have_the_published_number_of_weights() -> None:
    assert weight_count(3, 4, (128, 128, 128)) == 36_737
    assert weight_count(4, 4, (128, 128, 128)) == 37_889


def test_steps_hold_the_frames_of_each_amount() -> None:
    meshes = [(CORNERS + k, SIDES) for k in range(6)]
    result = AnimationResult(**moving_meshes.joined(meshes), amounts=np.array([0, 1], np.float32))
    first, last = result.steps()
    assert [float(mesh[0].min()) for mesh in first] == [0, 1, 2]
    assert [float(mesh[0].min()) for mesh in last] == [3, 4, 5]


# ------------------------------------------------------------------------------- what is refused


def source(**fields: Any) -> MeshToField:
    return MeshToField(**{**frames(), **fields})


def changed(array: np.ndarray, at: Any, value: Any) -> np.ndarray:
    array = array.copy()
    array[at] = value
    return array


ALL = frames()
FLAT = moving_meshes.joined([(CORNERS * [1, 1, 0], SIDES)])
POINT = moving_meshes.joined([(CORNERS * 0 + 3, SIDES)])
NOTHING = moving_meshes.joined([(CORNERS[:0], SIDES[:0])])
GONE = moving_meshes.joined([(CORNERS, SIDES), (CORNERS[:0], SIDES[:0])])


@pytest.mark.parametrize(
    ("wrong", "cause"),
    [
        (NOTHING, "has no faces\\."),
        (FLAT, "in a plane"),
        (POINT, "at one place"),
        ({"vertices": changed(ALL["vertices"], (5, 1), np.nan)}, "1 vertices.*frame 2 of 3"),
        ({"vertices": changed(ALL["vertices"], (0, 0), np.inf)}, "frame 1 of 3"),
        ({"faces": changed(ALL["faces"], (0, 0), 4)}, "frame 1 have vertices"),
        ({"faces": changed(ALL["faces"], (8, 0), -1)}, "frame 3 have vertices"),
        ({"vertices": ALL["vertices"][:-1]}, "do not add up"),
        ({"faces": ALL["faces"][1:]}, "do not add up"),
        ({"face_counts": ALL["face_counts"][:-1]}, "face counts are 2"),
        ({"vertex_counts": changed(ALL["vertex_counts"], slice(2), [-4, 12])}, "do not add up"),
        ({"vertices": ALL["vertices"].astype(np.float64)}, "float64"),
        ({"faces": ALL["faces"].astype(np.int64)}, "int64"),
        ({"faces": ALL["faces"].astype(np.uint32)}, "uint32"),
        ({"vertices": np.stack([CORNERS, CORNERS])}, "one topology and one by one"),
        ({"effort": "most"}, "effort 'most'"),
        ({"topology": "two"}, "topology 'two'"),
        ({"resolution": 100}, "Resolution 100"),
        ({"fps": 0}, "0 frames a second"),
        ({"fps": float("nan")}, "nan frames a second"),
        ({"half": 1}, "half is neither"),
        ({"loop": None}, "loop is neither"),
        ({"up_axis": "x"}, "up axis"),
    ],
)
def test_what_makes_no_field_is_told(wrong: dict[str, Any], cause: str) -> None:
    with pytest.raises(BadInput, match=cause) as caught:
        source(**wrong).validate()
    assert caught.value.remedy


def test_too_many_frames_are_told() -> None:
    many = moving_meshes.joined([(CORNERS, SIDES)] * (moving_meshes.MAX_FRAMES + 1))
    with pytest.raises(TooLarge, match="65 frames"):
        MeshToField(**many).validate()


def test_too_many_faces_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moving_meshes, "MAX_FRAME_FACES", 15)
    with pytest.raises(TooLarge, match="16 faces"):
        source().validate()
    monkeypatch.setattr(moving_meshes, "MAX_FRAME_FACES", 16)
    source().validate()


def test_meshes_that_are_open_inside_out_or_not_always_there_are_let_through() -> None:
    source(**GONE).validate()
    source(**moving_meshes.joined([(CORNERS, SIDES[1:])])).validate()
    source(**moving_meshes.joined([(CORNERS, SIDES[:, ::-1].copy())])).validate()
    source(**moving_meshes.joined([(CORNERS * [1, 1, 0], SIDES), (CORNERS, SIDES)])).validate()


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (lambda: between(small(), small(1, 4)), "one of them moves"),
        (lambda: between(small(), small(hidden=(5, 5), weights=small().weights)), "sizes|layers"),
        (lambda: between(small(0, 4), small(1, 4, frame_count=2)), "one has 3 frames, the other 2"),
        (lambda: between(small(), small(), small()), "3 fields"),
        (FieldToMesh.of, "0 fields"),
        (lambda: between(small(), amounts=(0.5,)), "one shape only"),
        (lambda: between(small(), small(), amounts=()), "0 steps"),
        (lambda: between(small(), small(), amounts=(1.5,)), "outside of 0 to 1"),
        (lambda: between(small(), small(), amounts=(float("nan"),)), "outside of 0 to 1"),
        (lambda: between(small(), small(), topology="one"), "no one topology"),
        (lambda: between(small(0, 4), frames=np.array([3], np.int32)), "none of the field's"),
        (lambda: between(small(0, 4), frames=np.array([], np.int32)), "none of the field's"),
        (lambda: between(small(weights=small().weights[:-1])), "its layers need"),
        (lambda: between(small(weights=small().weights * np.nan)), "not numbers"),
        (lambda: between(small(frequencies=99)), "99 frequencies"),
        (lambda: between(small(hidden=())), "layers of the field"),
        (lambda: between(small(hidden=(-4, 5))), "layers of the field"),
        (lambda: between(small(frame_count=2)), "at rest has 1 frame"),
        (lambda: between(small(level=float("nan"))), "level nan"),
        (lambda: between(small(to_source=np.zeros((4, 4)))), "4 x 4 matrix"),
        (lambda: between(small(to_source=np.diag([1.0, 0, 1, 1]))), "flat"),
        (lambda: dataclasses.replace(between(small()), starts=("a", "b")), "not as many"),
    ],
)
def test_what_makes_no_mesh_is_told(make: Any, cause: str) -> None:
    with pytest.raises(BadInput, match=cause) as caught:
        make().validate()
    assert caught.value.remedy


def test_more_meshes_than_anybody_looks_at_are_refused() -> None:
    weights = small(0, 4).weights
    fields = [small(k, 4, frame_count=64, weights=weights) for k in range(2)]
    between(*fields, amounts=np.linspace(0, 1, 16)).validate()
    with pytest.raises(TooLarge, match="1,088 meshes"):
        between(*fields, amounts=np.linspace(0, 1, 17)).validate()


@pytest.mark.parametrize(
    ("wrong", "cause"),
    [
        ({"frames": 17}, "frames, 17"),
        ({"frames": -1}, "frames, -1"),
        ({"frames": 1.0}, "frames, 1.0"),
        ({"frames": False}, "frames, False"),
        ({"fps": -1.0}, "-1.0 frames a second"),
        ({"variations": 17}, "variations, 17"),
        ({"variations": None}, "variations is missing"),
        ({"steps": 0}, "steps, 0"),
        ({"choice": 7}, "no text"),
        ({"choice": None}, "no word"),
        ({"resolution": "128"}, "Resolution '128'"),
    ],
)
def test_what_makes_no_animation_is_told(wrong: dict[str, Any], cause: str) -> None:
    with pytest.raises(BadInput, match=cause) as caught:
        Animation(**wrong).validate()
    assert caught.value.remedy


# ------------------------------------------------------------------------- bytes that anybody made


def repacked(result: protocol.Result, change: Any) -> bytes:
    arrays, message = unpack(encode_result(result))
    change(arrays, message)
    return pack(arrays, message)


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays, message: arrays.update({"0.faces": arrays["0.faces"] + 9}),
        lambda arrays, message: arrays.update({"0.vertices": arrays["0.vertices"][0, 0]}),
        lambda arrays, message: arrays.pop("neural.weights"),
        lambda arrays, message: arrays.update({"neural.weights": arrays["neural.weights"][:5]}),
        lambda arrays, message: arrays.update({"neural.hidden": arrays["neural.weights"]}),
        lambda arrays, message: message.pop("neural"),
        lambda arrays, message: message.update(neural=[1]),
        lambda arrays, message: message.update(neural={"hidden": "many"}),
        lambda arrays, message: message["neural"].update(hidden=[10**9]),
        lambda arrays, message: message["neural"].update(frame_count=10**9),
        lambda arrays, message: message["neural"].update(fps="fast"),
        lambda arrays, message: message.update(animations=[]),
        lambda arrays, message: message.update(animations=[{}, {}]),
        lambda arrays, message: message["animations"][0].update(loop="yes"),
    ],
)
def test_a_field_that_was_tampered_with_is_refused(change: Any) -> None:
    field = FieldResult(neural=small(2, 4), animation=one_topology())
    same(field, decode_result(repacked(field, lambda arrays, message: None)))
    with pytest.raises(FieldforgeError):
        decode_result(repacked(field, change))


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays, message: arrays.pop("vertex_counts"),
        lambda arrays, message: arrays.update(amounts=np.zeros(2, np.float32)),
        lambda arrays, message: arrays.update(vertices=arrays["vertices"] * np.float32(np.nan)),
        lambda arrays, message: message.update(fps=0),
        lambda arrays, message: arrays.update(faces=arrays["faces"].astype(np.float32)),
    ],
)
def test_an_animation_that_was_tampered_with_is_refused(change: Any) -> None:
    with pytest.raises(FieldforgeError):
        decode_result(repacked(moving(), change))


def test_a_set_holds_no_more_animations_than_there_are_variations() -> None:
    most = protocol.MAX_VARIATIONS
    decode_result(encode_result(AnimationSet(animations=(one_topology(),) * most)))
    with pytest.raises(BadInput, match="17 animations"):
        decode_result(encode_result(AnimationSet(animations=(one_topology(),) * (most + 1))))
