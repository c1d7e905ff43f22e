"""Files of neural fields: what is written comes back, what is none is told apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load

from backend import field_files
from backend.errors import BadInput, FieldforgeError, NotFound, VersionMismatch
from backend.models.hyperdiffusion.config import FieldConfig
from backend.models.hyperdiffusion.field import OccupancyField, evaluate
from backend.neural_fields import NeuralField, weight_count
from backend.protocol import pack, unpack
from tests.exact_fields import PLACE, circling, moving, octahedron


def same(before: NeuralField, after: NeuralField) -> None:
    np.testing.assert_array_equal(before.weights, after.weights)
    assert before.weights.dtype == after.weights.dtype
    np.testing.assert_array_equal(before.to_source, after.to_source)
    assert before.layout == after.layout
    for name in ("level", "fps", "loop", "start"):
        assert getattr(before, name) == getattr(after, name)


@settings(max_examples=60, deadline=None)
@given(
    dimensions=st.sampled_from([3, 4]),
    frequencies=st.integers(0, 3),
    hidden=st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple),
    half=st.booleans(),
    level=st.floats(-5, 5),
    name=st.text(min_size=1, max_size=20),
    loop=st.booleans(),
    cycle=st.booleans(),
)
def test_any_field_comes_back(
    dimensions: int,
    frequencies: int,
    hidden: tuple[int, ...],
    half: bool,
    level: float,
    name: str,
    loop: bool,
    cycle: bool,
) -> None:
    period = 7 if cycle and dimensions == 4 else 0
    count = weight_count(dimensions, frequencies, hidden, period)
    field = NeuralField(
        weights=np.linspace(-1, 1, count).astype(np.float16 if half else np.float32),
        dimensions=dimensions,
        frequencies=frequencies,
        hidden=hidden,
        period=period,
        level=level,
        loop=loop,
        frame_count=1 if dimensions == 3 else 7,
        to_source=PLACE,
        start="somewhere",
    )
    body = field_files.to_bytes(field, name)
    found, called = field_files.from_bytes(body)
    same(field, found)
    assert called == name
    assert field_files.to_bytes(found, called) == body


def test_the_network_is_there_for_every_program_that_reads_safetensors() -> None:
    """The tensors are those of the published network: it can be loaded and asked."""
    field = octahedron(0.3)
    tensors = load(field_files.to_bytes(field))
    config = FieldConfig(3, 0, (6,))
    network = OccupancyField(config)
    network.load_state_dict({name: torch.from_numpy(array) for name, array in tensors.items()})
    points = torch.tensor([[0.0, 0, 0], [0.29, 0, 0], [0.31, 0, 0]])
    with torch.no_grad():
        logits = network(points)[:, 0]
    torch.testing.assert_close(logits, 50 * torch.tensor([0.3, 0.01, -0.01]), atol=1e-4, rtol=0)
    vectors = torch.from_numpy(field.weights)[None]
    torch.testing.assert_close(evaluate(config, vectors, points)[0], logits)


def test_a_published_field_at_half_precision_is_75_kilobytes() -> None:
    whole = NeuralField(weights=np.zeros(36_737, np.float32))
    half = NeuralField(weights=np.zeros(36_737, np.float16))
    assert len(field_files.to_bytes(whole)) < 149_000
    assert len(field_files.to_bytes(half)) < 75_500


def changed(change: Any) -> bytes:
    arrays, message = unpack(field_files.to_bytes(moving(0.3), "fish"))
    change(arrays, message)
    return pack(arrays, message)


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays, message: message.pop("format"),
        lambda arrays, message: message.update(format="other"),
        lambda arrays, message: message.pop("level"),
        lambda arrays, message: message.update(level="high"),
        lambda arrays, message: message.update(hidden=[7]),
        lambda arrays, message: message.update(hidden=[6, 6]),
        lambda arrays, message: message.update(hidden="6"),
        lambda arrays, message: message.update(hidden=[10**12]),
        lambda arrays, message: message.update(dimensions=3, frame_count=1),
        lambda arrays, message: message.update(frame_count=0),
        lambda arrays, message: message.update(frequencies=None),
        lambda arrays, message: message.update(period=3),
        lambda arrays, message: message.update(period=True),
        lambda arrays, message: message.update(period=message["frame_count"]),
        lambda arrays, message: message.update(to_source=[[1, 2], [3]]),
        lambda arrays, message: message.update(to_source=[[0] * 4] * 4),
        lambda arrays, message: message.update(fps=1e400),
        lambda arrays, message: arrays.pop("layers.0.bias"),
        lambda arrays, message: arrays.update(more=arrays["layers.0.bias"]),
        lambda arrays, message: arrays.update(
            {"layers.0.weight": arrays["layers.0.weight"].reshape(4, 6)}
        ),
        lambda arrays, message: arrays.update(
            {"layers.0.bias": arrays["layers.0.bias"].astype(np.float16)}
        ),
        lambda arrays, message: arrays.update(
            {"layers.0.bias": arrays["layers.0.bias"] * np.float32(np.nan)}
        ),
        lambda arrays, message: arrays.update(
            {name: array.astype(np.int32) for name, array in arrays.items()}
        ),
    ],
)
def test_what_is_no_whole_field_is_refused(change: Any) -> None:
    assert field_files.from_bytes(changed(lambda arrays, message: None))[1] == "fish"
    with pytest.raises(BadInput) as caught:
        field_files.from_bytes(changed(change), "fish.ffield")
    assert caught.value.remedy


def test_only_what_is_new_makes_a_file_of_the_new_version() -> None:
    """So that an earlier Fieldforge reads what it knows, and says that it is old otherwise."""
    for field, version in ((moving(0.3), 1), (circling(0.2, 0.1), 2)):
        _, message = unpack(field_files.to_bytes(field))
        assert message["version"] == version
        assert ("period" in message) == (version == 2)


def test_a_later_version_is_told_apart() -> None:
    with pytest.raises(VersionMismatch, match=r"fish\.ffield"):
        field_files.from_bytes(changed(lambda a, message: message.update(version=3)), "fish.ffield")


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_bytes_that_were_cut_or_changed_never_do_harm(data: st.DataObject) -> None:
    body = bytearray(field_files.to_bytes(octahedron(0.3)))
    if data.draw(st.booleans()):
        body = body[: data.draw(st.integers(0, len(body) - 1))]
    else:
        body[data.draw(st.integers(0, len(body) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        field, _ = field_files.from_bytes(bytes(body))
    except FieldforgeError:
        return
    field.check()


def test_files_that_are_not_there_or_no_files_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NotFound):
        field_files.read(tmp_path / "none.ffield")
    with pytest.raises(BadInput, match="cannot be read"):
        field_files.read(tmp_path)
    path = tmp_path / "a.ffield"
    path.write_bytes(field_files.to_bytes(octahedron(0.3), "a"))
    assert field_files.read(path)[1] == "a"
    monkeypatch.setattr(field_files, "MAX_BYTES", 100)
    with pytest.raises(BadInput, match="too large"):
        field_files.read(path)
