"""Checkpoints are read without running anything of them."""

from __future__ import annotations

import argparse
import collections
import contextlib
import enum
import io
import os
import pathlib
import pickle
import subprocess
import sys
import tempfile
import tracemalloc
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backend.checkpoints import _BUILDERS, Checkpoint, Inert, _Steps, renamed
from backend.errors import BadInput
from backend.tensor_files import read_header, write


def saved(path: Path, values: Any) -> Path:
    torch.save(values, path)
    return path


def as_torch(checkpoint: Checkpoint, path: Path, dtype: str | None = None) -> dict[str, Any]:
    """The state dict, written out and read back with the library of safetensors."""
    from safetensors.torch import load_file

    state = checkpoint.state_dict()
    write(path, {name: checkpoint.lazy(tensor, dtype) for name, tensor in state.items()})
    return load_file(path)


TENSORS = {
    "matrix": torch.randn(3, 5),
    "half": torch.randn(4).half(),
    "brain": torch.randn(4).bfloat16(),
    "double": torch.randn(4).double(),
    "whole": torch.arange(7),
    "yes": torch.tensor([True, False]),
    "scalar": torch.tensor(3.5),
    "empty": torch.zeros(0, 4),
    "transposed": torch.randn(6, 4).T,
    "every_other": torch.arange(12.0)[1::2],
    "channels_last": torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    "part": torch.arange(20.0)[5:9],
    "parameter": torch.nn.Parameter(torch.randn(2, 2)),
}


def test_every_kind_of_tensor_is_copied_exactly(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.ckpt", {"state_dict": collections.OrderedDict(TENSORS)})
    found = as_torch(Checkpoint(path), tmp_path / "a.safetensors")
    assert sorted(found) == sorted(TENSORS)
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


def test_a_tensor_larger_than_a_piece(tmp_path: Path) -> None:
    tensor = torch.arange(5_000_000, dtype=torch.float32)
    path = saved(tmp_path / "a.pt", {"t": tensor})
    assert torch.equal(as_torch(Checkpoint(path), tmp_path / "b")["t"], tensor)
    assert torch.equal(
        as_torch(Checkpoint(path), tmp_path / "c", "BF16")["t"], tensor.to(torch.bfloat16)
    )


@given(st.lists(st.floats(width=32, allow_nan=True), min_size=1, max_size=40))
def test_bfloat16_is_rounded_as_torch_does(values: list[float]) -> None:
    tensor = torch.tensor(values, dtype=torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Checkpoint(saved(Path(folder) / "a.ckpt", {"t": tensor}))
        lazy = checkpoint.lazy(checkpoint.state_dict()["t"], "BF16")
        bits = np.frombuffer(b"".join(map(bytes, lazy.pieces())), "<u2")
    expected = tensor.bfloat16()
    found = torch.from_numpy(bits.view("<i2").copy()).view(torch.bfloat16)
    assert torch.equal(found.isnan(), expected.isnan())
    assert torch.equal(found.nan_to_num(), expected.nan_to_num())


@pytest.mark.parametrize(("dtype", "torch_dtype"), [("F16", torch.float16), ("F32", torch.float32)])
@pytest.mark.parametrize("name", ["matrix", "half", "brain", "double", "transposed"])
def test_floats_become_the_wanted_type(
    tmp_path: Path, name: str, dtype: str, torch_dtype: torch.dtype
) -> None:
    path = saved(tmp_path / "a.ckpt", {name: TENSORS[name]})
    found = as_torch(Checkpoint(path), tmp_path / "b", dtype)[name]
    assert torch.equal(found, TENSORS[name].to(torch_dtype))


def test_whole_numbers_keep_their_type(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.ckpt", {"whole": TENSORS["whole"]})
    assert as_torch(Checkpoint(path), tmp_path / "b", "BF16")["whole"].dtype == torch.int64


def test_a_weight_too_large_for_float16_is_told(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.ckpt", {"t": torch.tensor([1.0, 1e6])})
    with pytest.raises(BadInput, match=r"too large for float16.*bfloat16"):
        as_torch(Checkpoint(path), tmp_path / "b", "F16")


class Settings(dict[str, Any]):
    """A class of whoever trained the model, which this program does not have."""


class Mode(enum.Enum):
    FAST = "fast"


class Choice:
    def __init__(self) -> None:
        self.weights = [1, 2]


def test_what_frameworks_put_beside_the_weights_is_skipped(tmp_path: Path) -> None:
    values = {
        "state_dict": {"t": TENSORS["matrix"]},
        "hyper_parameters": Settings(a=1, b=Choice()),
        "namespace": argparse.Namespace(learning_rate=1e-4),
        "number": np.float64(3.0),
        "array": np.arange(4),
        "path": pathlib.PurePosixPath("/somewhere"),
        "groups": collections.defaultdict(list, {"x": [1]}),
        "names": {"a", "b"},
        "mode": Mode.FAST,
        "dtype": torch.float32,
        "device": torch.device("cpu"),
        "size": torch.Size([1, 2]),
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}}],
        "epoch": 7,
    }
    checkpoint = Checkpoint(saved(tmp_path / "a.ckpt", values))
    assert list(checkpoint.state_dict()) == ["t"]
    assert checkpoint.values["epoch"] == 7
    assert type(checkpoint.values["hyper_parameters"]).__mro__[1] is Inert
    assert torch.equal(as_torch(checkpoint, tmp_path / "b")["t"], TENSORS["matrix"])


# -------------------------------------------------------------------------------------------- code


class Payload:
    """Runs `function(*arguments)` when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def _payloads(trace: Path) -> dict[str, Payload]:
    write_it = f"open({str(trace)!r}, 'w').close()"
    return {
        "shell": Payload(os.system, f"touch {trace}"),
        "exec": Payload(exec, write_it),
        "eval": Payload(eval, write_it),
        "open": Payload(open, str(trace), "w"),
        "process": Payload(subprocess.run, ["touch", str(trace)]),
        "attribute": Payload(getattr, trace, "touch"),
        "method": Payload(pathlib.Path(trace).touch),
        "import": Payload(__import__, "antigravity"),
        "class of others": Payload(Checkpoint, trace),
        "function of torch": Payload(torch.save, [1], str(trace)),
    }


@pytest.mark.parametrize("name", _payloads(Path("x")))
@pytest.mark.parametrize("place", ["beside", "within", "instead"])
def test_code_is_refused_and_not_run(tmp_path: Path, name: str, place: str) -> None:
    trace = tmp_path / "trace"
    payload = _payloads(trace)[name]
    weights = {"t": TENSORS["matrix"]}
    values = {
        "beside": {"state_dict": weights, "callbacks": [payload]},
        "within": {"state_dict": {**weights, "x": payload}},
        "instead": payload,
    }[place]
    path = saved(tmp_path / "evil.ckpt", values)
    with pytest.raises(BadInput, match=r"contains code .* It was not run") as caught:
        Checkpoint(path)
    assert "authors" in caught.value.remedy
    assert not trace.exists()


def test_the_payload_of_these_tests_works(tmp_path: Path) -> None:
    """Else the test above would prove nothing."""
    trace = tmp_path / "trace"
    pickle.loads(pickle.dumps(_payloads(trace)["exec"]))  # noqa: S301
    assert trace.exists()


def test_no_module_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("unseen")
    monkeypatch.setitem(sys.modules, "unseen", module)
    module.Thing = type("Thing", (), {"__module__": "unseen"})  # type: ignore[attr-defined]
    path = saved(tmp_path / "a.ckpt", {"state_dict": TENSORS, "x": module.Thing()})
    monkeypatch.delitem(sys.modules, "unseen")
    trace = tmp_path / "trace"
    (tmp_path / "unseen.py").write_text(
        f"open({str(trace)!r}, 'w').close()\nclass Thing:\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert sorted(Checkpoint(path).state_dict()) == sorted(TENSORS)
    assert not trace.exists()
    torch.load(path, weights_only=False)  # what would have happened
    assert trace.exists()


# ------------------------------------------------------------------------------------ damaged files


def test_a_file_that_was_cut_off(tmp_path: Path) -> None:
    whole = saved(tmp_path / "a.ckpt", {"t": torch.randn(1000)}).read_bytes()
    path = tmp_path / "cut.ckpt"
    for share in (0.05, 0.3, 0.6, 0.95, 0.999):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(BadInput, match="cut off or damaged"):
            Checkpoint(path)


def test_a_flipped_bit_in_a_weight(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.ckpt", {"t": torch.full((1000,), 1.5)})
    content = bytearray(path.read_bytes())
    content[content.find(b"\x00\x00\xc0\x3f" * 100) + 8] ^= 1
    path.write_bytes(content)
    with pytest.raises(BadInput, match="damaged"):
        as_torch(Checkpoint(path), tmp_path / "b")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no checkpoint"),
        (b"solid cube", "no checkpoint"),
        (pickle.dumps({"t": 1}), "before version 1.6"),
    ],
)
def test_what_is_no_checkpoint(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "a.ckpt"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=words):
        Checkpoint(path)


def test_another_zip(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(BadInput):
        Checkpoint(path)


def _with_pickle(path: Path, program: bytes, data: bytes = b"\0" * 64) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", program)
        archive.writestr("a/data/0", data)
    return path


def test_tensors_that_reach_out_of_the_file(tmp_path: Path) -> None:
    """64 bytes, 16 numbers: every view of more is refused."""
    for offset, shape, strides in [
        (0, (17,), (1,)),
        (1, (16,), (1,)),
        (0, (4, 4), (5, 1)),
        (0, (1 << 40,), (0,)),
        (-1, (2,), (1,)),
        (0, (2,), (-1,)),
    ]:
        program = _program(offset, shape, strides)
        with pytest.raises(BadInput, match="damaged"):
            Checkpoint(_with_pickle(tmp_path / "a.ckpt", program))
    good = Checkpoint(_with_pickle(tmp_path / "a.ckpt", _program(0, (4, 4), (4, 1))))
    assert good.state_dict()["t"].shape == (4, 4)


def _program(offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> bytes:
    """The pickle of {"t": a view of a/data/0}."""

    class Stored:
        pass

    class View:
        def __reduce__(self) -> Any:
            rest = (False, collections.OrderedDict())
            return torch._utils._rebuild_tensor_v2, (Stored(), offset, shape, strides, *rest)

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing: Any) -> Any:
            return (
                ("storage", torch.FloatStorage, "0", "cpu", 16) if type(thing) is Stored else None
            )

    buffer = io.BytesIO()
    Pickler(buffer, protocol=2).dump({"t": View()})
    return buffer.getvalue()


@given(st.binary(max_size=200))
def test_any_program_ends_in_words(program: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = _with_pickle(Path(folder) / "a.ckpt", b"\x80\x02" + program)
        with contextlib.suppress(BadInput):
            Checkpoint(path)


def test_names_are_cleaned_and_must_stay_different(tmp_path: Path) -> None:
    one = torch.ones(1)
    path = saved(tmp_path / "a.ckpt", {"state_dict": {"x.a": one, "y.a": one, "b": one}})
    state = Checkpoint(path).state_dict()
    assert list(renamed(state, lambda name: "" if name == "y.a" else name)) == ["x.a", "b"]
    with pytest.raises(BadInput, match="two weights named a"):
        renamed(state, lambda name: name[-1])


def test_a_state_dict_that_is_not_there(tmp_path: Path) -> None:
    checkpoint = Checkpoint(saved(tmp_path / "a.ckpt", {"epoch": 1, "state": {}}))
    with pytest.raises(BadInput, match=r"no state_dict \(it has epoch, state"):
        checkpoint.state_dict()
    checkpoint = Checkpoint(saved(tmp_path / "a.ckpt", {"state_dict": {"t": torch.ones(1)}}))
    with pytest.raises(BadInput, match="without --ema"):
        checkpoint.state_dict("state_dict_ema")


def test_headers_of_written_files_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write(path, {"t": np.zeros((2, 3), ">f4"), "u": torch.ones(4, dtype=torch.bfloat16)})
    header = read_header(path)
    assert {name: (info.dtype, info.shape) for name, info in header.items()} == {
        "t": ("F32", (2, 3)),
        "u": ("BF16", (4,)),
    }
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BadInput, match="damaged"):
        read_header(path)


# -------------------------------------------------------------------------------- hostile programs


def _read_apart(path: Path, memory: int = 1 << 30) -> str:
    """What comes of reading `path` in a process that may take little memory and 20 seconds."""
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from backend.checkpoints import Checkpoint\n"
        f"resource.setrlimit(resource.RLIMIT_AS, ({memory}, {memory}))\n"
        "try:\n    Checkpoint(Path(sys.argv[1])).state_dict(); print('read')\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    environ = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        timeout=20,
        env=environ,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


_NESTED = (
    b"K\x01"
    + b"\x94h\x00\x86"
    + b"".join(b"q" + bytes([k]) + b"h" + bytes([k]) + b"\x86" for k in range(1, 90))
)
"""A pair of a pair of a pair ..., each of one object twice: 2^90 leaves."""


_SAME_HASH = b"".join(
    b"\x8a\x0b" + (k * sys.hash_info.modulus).to_bytes(11, "little") + b"K\x00"
    for k in range(1, 100_001)
)
_PUT_SAME_HASH = b"".join(b"p%d\n" % (k * sys.hash_info.modulus) for k in range(1, 100_001))
"""Numbers that Python's dictionaries cannot tell apart quickly."""


@pytest.mark.parametrize(
    "program",
    [
        b"}" + _NESTED + b"K\x00s.",  # a key of a dictionary
        b"(" + _NESTED + b"K\x00d.",
        b"(" + _NESTED + b"\x91.",  # a member of a set
        b"\x8f(" + _NESTED + b"\x90.",
        b"cbuiltins\nfrozenset\n(" + _NESTED + b"t\x85R.",
        b"ccollections\nOrderedDict\n((" + _NESTED + b"K\x00tt\x85R.",
        b"\x96" + (1 << 36).to_bytes(8, "little") + b".",  # an array of 64 GiB
        b"\x8e" + (1 << 36).to_bytes(8, "little") + b".",
        b"}(" + _SAME_HASH + b"u.",
        b"K\x01" + _PUT_SAME_HASH + b".",
    ],
    ids=["key", "old key", "frozen", "set", "call", "pairs", "array", "bytes", "numbers", "memo"],
)
def test_a_small_program_takes_no_more_than_it_is_worth(tmp_path: Path, program: bytes) -> None:
    path = _with_pickle(tmp_path / "a.ckpt", b"\x80\x05" + program)
    assert _read_apart(path, 2 << 30).startswith("BadInput")


def test_a_program_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _with_pickle(tmp_path / "a.ckpt", b"\x80\x02}" + b"]0" * 1000 + b".")
    assert Checkpoint(path).values == {}
    monkeypatch.setattr(_Steps, "left", 2000)
    with pytest.raises(BadInput, match="damaged"):
        Checkpoint(path)


def test_many_names_of_classes_are_refused(tmp_path: Path) -> None:
    names = b"".join(b"ca\n%d\n0" % number for number in range(10_001))
    with pytest.raises(BadInput, match="damaged"):
        Checkpoint(_with_pickle(tmp_path / "a.ckpt", b"\x80\x02" + names + b"}."))


def test_an_entry_that_swells_is_not_unpacked(tmp_path: Path) -> None:
    path = _with_pickle(tmp_path / "a.ckpt", b"\x80\x02}.")
    with (
        zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive,
        archive.open("a/byteorder", "w") as entry,
    ):
        entry.write(b"little")
        for _ in range(8):
            entry.write(bytes(16 << 20))
    tracemalloc.start()
    assert Checkpoint(path).values == {}
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def test_a_tensor_cannot_be_changed_after_it_was_checked(tmp_path: Path) -> None:
    """Attributes that a program sets would lead out of the file, and into other memory."""
    whole = _program(0, (4,), (1,))
    at = whole.rindex(b"R")  # where the tensor has been made
    change = pickle.dumps({"shape": (1 << 30,), "strides": (3,)}, protocol=2)[2:-1]
    path = _with_pickle(tmp_path / "a.ckpt", whole[: at + 1] + change + b"b" + whole[at + 1 :])
    with contextlib.suppress(BadInput):
        assert Checkpoint(path).state_dict()["t"].shape == (4,)
    for word in (b"ctorch\nFloatStorage\n", b"ctorch._utils\n_rebuild_tensor_v2\n"):
        program = b"\x80\x02" + word + pickle.dumps({"name": "LongStorage"}, 2)[2:-1] + b"b."
        Checkpoint(_with_pickle(tmp_path / "b.ckpt", program))
    assert not vars(_BUILDERS["torch._utils._rebuild_tensor_v2"])


def test_a_view_of_a_part_of_a_large_storage_reads_that_part(tmp_path: Path) -> None:
    everything = torch.arange(60_000.0).reshape(200, 300)
    path = saved(tmp_path / "a.ckpt", {"t": everything[3:7, 10:14].T})
    found = as_torch(Checkpoint(path), tmp_path / "b")
    assert torch.equal(found["t"], everything[3:7, 10:14].T)


@pytest.mark.parametrize(("want", "words"), [("F16", "float16"), ("BF16", "float32")])
def test_a_number_beyond_the_wanted_type(tmp_path: Path, want: str, words: str) -> None:
    path = saved(tmp_path / "a.ckpt", {"t": torch.tensor([1e300], dtype=torch.float64)})
    with pytest.raises(BadInput, match=f"too large for {words}"):
        as_torch(Checkpoint(path), tmp_path / "b", want)


def test_a_zip_that_is_encrypted_or_damaged_is_told_in_words(tmp_path: Path) -> None:
    path = _with_pickle(tmp_path / "a.ckpt", b"\x80\x02}.")
    content = bytearray(path.read_bytes())
    begin = content.index(b"PK\x01\x02")
    for at, value in ((8, 1), (10, 99)):  # encrypted; a compression that nobody knows
        changed = bytearray(content)
        changed[begin + at] = value
        path.write_bytes(changed)
        with pytest.raises(BadInput):
            Checkpoint(path)
    with pytest.raises(BadInput, match="cannot be read"):
        Checkpoint(tmp_path)
