"""Bytes that nobody should send: whatever they are, they are told apart from a message."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest

from backend import protocol
from backend.errors import BadInput, FieldforgeError
from backend.protocol import (
    MAX_VARIATIONS,
    ImageToMesh,
    MeshResult,
    MeshSet,
    Shape,
    TextToMesh,
    VoxelsToMesh,
    decode_result,
    decode_task,
    encode_result,
    encode_task,
    unpack,
)


def message_bytes(message: Any, **arrays: Any) -> bytes:
    """A byte string with this message (text, or a record) and these entries, without data."""
    text = message if isinstance(message, str) else json.dumps(message)
    header = json.dumps({"__metadata__": {"message": text}, **arrays}).encode()
    return struct.pack("<Q", len(header)) + header


def empty(*shape: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}


def meshes_bytes(count: int, **arrays: Any) -> bytes:
    message = {"protocol": 1, "kind": "meshes", "meshes": [{}] * count}
    return message_bytes(message, **arrays)


@pytest.mark.parametrize("shape", [(0, 2**62), (0, 2**70), (0, 2**40, 2**40)])
def test_an_empty_array_with_endless_sides_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadInput, match="impossible shape"):
        unpack(message_bytes({}, points=empty(*shape)))


def test_an_empty_array_is_none_the_less_an_array() -> None:
    arrays, message = unpack(message_bytes({"seed": 3}, points=empty(0, 3)))
    assert arrays["points"].shape == (0, 3)
    assert message == {"seed": 3}


def test_a_message_that_is_nested_without_end_is_refused() -> None:
    with pytest.raises(BadInput, match="no readable metadata"):
        unpack(message_bytes("[" * 200_000))


def test_a_set_holds_no_more_meshes_than_there_are_variations() -> None:
    found = decode_result(meshes_bytes(MAX_VARIATIONS))
    assert isinstance(found, MeshSet)
    assert len(found.meshes) == MAX_VARIATIONS
    with pytest.raises(BadInput, match="200000 meshes"):
        decode_result(meshes_bytes(200_000))


@pytest.mark.parametrize("index", ["9" * 5000, "2", "-1", "01", "\u0661", "", "1.0"])
def test_an_array_of_no_mesh_of_the_set_is_refused(index: str) -> None:
    array = {f"{index}.vertices": empty(0, 3)}
    with pytest.raises(BadInput):
        decode_result(meshes_bytes(2, **array))


def test_a_set_comes_back_as_it_was() -> None:
    rng = np.random.default_rng(0)
    meshes = tuple(
        MeshResult(name=f"{k}", vertices=rng.random((k + 3, 3), np.float32)) for k in range(12)
    )
    found = decode_result(encode_result(MeshSet(meshes=meshes)))
    assert isinstance(found, MeshSet)
    for before, after in zip(meshes, found.meshes, strict=True):
        assert after.name == before.name
        np.testing.assert_array_equal(after.vertices, before.vertices)


@pytest.mark.parametrize("values", [[[0, 0, 0]], None, 5, "x"])
def test_what_is_to_be_an_array_comes_as_one(values: Any) -> None:
    with pytest.raises(BadInput, match="vertices is no array"):
        decode_result(message_bytes({"protocol": 1, "kind": "mesh", "vertices": values}))
    with pytest.raises(BadInput, match="image is no array"):
        decode_task(message_bytes({"protocol": 1, "kind": ImageToMesh.kind, "image": values}))


@pytest.mark.parametrize("name", ["report", "name"])
def test_what_is_to_be_no_array_comes_as_none(name: str) -> None:
    with pytest.raises(BadInput, match=f"{name} is an array"):
        decode_result(message_bytes({"protocol": 1, "kind": "mesh"}, **{name: empty(0)}))


@pytest.mark.parametrize(
    "wrong",
    [
        {"guidance": 10**400},
        {"steps": 10**400},
        {"seed": 10**400},
        {"origin": (10**400, 0, 0)},
        {"voxel_size": (10**400, 1, 1)},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_numbers_beyond_all_numbers_are_refused(wrong: dict[str, Any]) -> None:
    occupancy = np.zeros((8, 8, 8), bool)
    occupancy[2:4] = True
    with pytest.raises(BadInput):
        VoxelsToMesh(occupancy=occupancy, **wrong).validate()


def with_region(*sides: float) -> Shape:
    latent = np.zeros((16, 12, 12, 12), np.float32)
    return Shape(latent=latent, region=np.diag([*sides, 1.0]))


@pytest.mark.parametrize("unit", [1e-6, 1e-3, 1.0, 1e6])
def test_a_region_is_flat_in_any_unit_or_in_none(unit: float) -> None:
    decode_task(encode_task(with_region(0.1 * unit, 0.05 * unit, 0.01 * unit)))
    decode_task(encode_task(with_region(-unit, unit, unit)))
    for sides in ((unit, unit, 0.0), (unit, unit, 1e-7 * unit), (0.0, 0.0, 0.0)):
        with pytest.raises(BadInput, match="flat"):
            with_region(*sides).validate()


def test_a_skewed_region_without_volume_is_flat() -> None:
    region = np.eye(4)
    region[:3, 2] = region[:3, 0] + region[:3, 1]
    with pytest.raises(BadInput, match="flat"):
        Shape(latent=np.zeros((4, 12, 12, 12), np.float32), region=region).validate()


@pytest.mark.parametrize("channels", [1, 4, 16, 64])
def test_shapes_of_models_with_any_number_of_channels_are_gone_on_with(channels: int) -> None:
    latent = np.random.default_rng(0).normal(size=(channels, 12, 12, 12)).astype(np.float32)
    task = decode_task(encode_task(Shape(latent=latent, region=np.eye(4))))
    assert isinstance(task, Shape)
    np.testing.assert_array_equal(task.latent, latent)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((0, 12, 12, 12), np.float32),
        np.zeros((65, 12, 12, 12), np.float32),
        np.zeros((4, 12, 12, 13), np.float32),
        np.zeros((1, 4, 12, 12, 12), np.float32),
        np.zeros((12, 12, 12), np.float32),
        np.zeros((4, 12, 12, 12), np.int32),
        np.zeros((), np.float32),
        "latent",
    ],
)
def test_what_is_no_earlier_shape_is_refused(wrong: Any) -> None:
    with pytest.raises(BadInput, match="can go on with"):
        Shape(latent=wrong, region=np.eye(4)).validate()


def test_no_byte_of_a_task_can_do_harm() -> None:
    body = encode_task(with_region(1, 1, 1))
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(400):
        spoilt = bytearray(body)
        for at in rng.integers(0, 700, 3):
            spoilt[at] = rng.integers(0, 256)
        try:
            decode_task(bytes(spoilt))
        except FieldforgeError:
            refused += 1
    assert refused > 100
    assert isinstance(protocol.decode_task(body), Shape)


@pytest.mark.parametrize("prompt", ["a\0chair", "\ud800", "\x1b[2Jchair", " ", "x" * 1001])
def test_words_that_no_keyboard_types_are_refused(prompt: str) -> None:
    with pytest.raises(BadInput):
        TextToMesh(prompt=prompt).validate()


def test_words_of_any_language_and_line_ends_are_taken() -> None:
    TextToMesh(prompt="ein Stuhl,\n\t\u6905\u5b50 \U0001fa91").validate()
