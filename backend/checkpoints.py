"""Checkpoints of PyTorch (.ckpt, .pt, .pth): names and shapes first, the numbers when asked for.

A checkpoint is a zip with one pickle, which says what there is, and a file of raw numbers for each
storage. A pickle is a program, so it is never run by Python's machinery for real: here its words
for classes and functions stand for inert marks, no module is imported and nothing of it is called.
Numbers are then copied straight from the file, so that a checkpoint of any size needs the memory
of a tensor at most, and what is not asked for (states of optimisers) is never read.
"""

from __future__ import annotations

import io
import math
import pickle
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .errors import BadInput
from .tensor_files import PIECE_BYTES, SIZES, LazyTensor, TensorInfo

MAX_PICKLE_BYTES = 64 << 20
MAX_PICKLE_STEPS = 5_000_000
MAX_PICKLE_NAMES = 10_000
"""What the program of a checkpoint may take. The largest published ones have a few megabytes, some
hundred thousand steps and a few dozen names of classes."""

_STORAGES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
    "UntypedStorage": "U8",
}
_TORCH_DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}

# Functions and classes that honest checkpoints call to build plain data. They are not called here
# either; any other function makes the file one that does more than hold data.
_HARMLESS = {
    "_codecs.encode",
    "argparse.Namespace",
    "collections.Counter",
    "collections.defaultdict",
    "collections.deque",
    "copyreg._reconstructor",
    "datetime.datetime",
    "datetime.timedelta",
    "enum.Enum",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "numpy.ndarray",
    "pathlib.Path",
    "pathlib.PosixPath",
    "pathlib.PurePosixPath",
    "pathlib.WindowsPath",
    "torch.Size",
    "torch.device",
    "torch.serialization._get_layout",
    "torch._C._get_privateuse1_backend_name",
    "types.SimpleNamespace",
    "uuid.UUID",
}
_HARMLESS_MODULES = ("omegaconf", "typing", "numpy.dtypes")
_BUILT_IN_TYPES = {"set", "frozenset", "dict", "list", "tuple", "int", "float", "str", "bool"}
_BUILT_IN_TYPES |= {"bytes", "bytearray", "complex", "object", "slice", "range"}


@dataclass(frozen=True)
class Storage:
    """A file of raw numbers in the checkpoint. begin: where it begins there; crc: of its bytes."""

    dtype: str
    begin: int
    nbytes: int
    crc: int


@dataclass(frozen=True)
class StoredTensor:
    """A view of a storage; offset and strides in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str


# ------------------------------------------------------------------------------------------ reading


class Checkpoint:
    """An opened checkpoint.

    values: what the pickle holds: dictionaries, lists, tuples, plain values, StoredTensors, and
    `Inert` for anything else.
    """

    def __init__(self, path: Path) -> None:
        """Raises BadInput for a file that is cut off, no checkpoint, or holds code."""
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                self._read(archive)
        except (
            zipfile.BadZipFile,
            zlib.error,
            EOFError,
            RuntimeError,  # also for compressions and encryptions that are not known
            ValueError,
        ):
            raise _not_a_checkpoint(path) from None
        except OSError as error:
            raise BadInput(
                f"{path} cannot be read ({error.strerror or error}).",
                "Give the file of a checkpoint that you may read.",
            ) from None

    def _read(self, archive: zipfile.ZipFile) -> None:
        entries = {entry.filename: entry for entry in archive.infolist()}
        pickles = [name for name in entries if name.rpartition("/")[2] == "data.pkl"]
        if len(pickles) != 1:
            raise _not_a_checkpoint(self.path)
        root = pickles[0].removesuffix("data.pkl")
        order = entries.get(root + "byteorder")
        if order is not None:
            with archive.open(order) as text:  # of which a hostile file may have any number
                if text.read(6) != b"little":
                    raise BadInput(
                        f"{self.path.name} was written on a machine with another byte order.",
                        "Save it once more on an ordinary computer.",
                    )
        if entries[pickles[0]].file_size > MAX_PICKLE_BYTES:
            raise _damaged(self.path)
        size = self.path.stat().st_size
        with self.path.open("rb") as file:

            def storage(kind: str, key: str) -> Storage:
                entry = entries.get(f"{root}data/{key}")
                if entry is None or entry.compress_type != zipfile.ZIP_STORED:
                    raise _damaged(self.path)
                begin = _begin_of(file, entry)
                if begin + entry.file_size > size:
                    raise _damaged(self.path)
                return Storage(_STORAGES[kind], begin, entry.file_size, entry.CRC)

            program = archive.read(pickles[0])
            self.values = _Reader(self.path, program, storage).load_inert()

    def state_dict(self, name: str = "state_dict") -> dict[str, StoredTensor]:
        """The tensors of a state dict in it; for "state_dict" also a file that is nothing else.

        Raises BadInput when there is none.
        """
        values = self.values
        if isinstance(values, dict) and isinstance(values.get(name), dict):
            found = values[name]
        elif name == "state_dict" and isinstance(values, dict) and _is_state_dict(values):
            found = values
        else:
            has = ", ".join(map(str, values)) if isinstance(values, dict) else "no names"
            raise BadInput(
                f"{self.path.name} has no {name} (it has {has[:200]}).",
                "Give the checkpoint as its authors published it."
                if name == "state_dict"
                else "Convert it without --ema.",
            )
        return {str(key): value for key, value in found.items() if isinstance(value, StoredTensor)}

    def has(self, name: str) -> bool:
        """Whether there is a state dict of that name."""
        return isinstance(self.values, dict) and isinstance(self.values.get(name), dict)

    def lazy(self, tensor: StoredTensor, dtype: str | None = None) -> LazyTensor:
        """`tensor` for writing, as "F32", "BF16", "F16", or None for its own type.

        Its bytes raise BadInput when the file is damaged or a number is too large for the type.
        """
        wanted = dtype if dtype and tensor.dtype in _FLOATS else tensor.dtype
        info = TensorInfo(wanted, tensor.shape)
        return LazyTensor(info, lambda: _converted(self._pieces(tensor), tensor.dtype, wanted))

    def _pieces(self, tensor: StoredTensor) -> Iterator[bytes]:
        """The bytes of a tensor in C order."""
        with self.path.open("rb") as file:
            if _is_contiguous(tensor):
                yield from self._contiguous_pieces(file, tensor)
            else:
                yield from self._gathered_pieces(file, tensor)

    def _contiguous_pieces(self, file: Any, tensor: StoredTensor) -> Iterator[bytes]:
        storage = tensor.storage
        nbytes = math.prod(tensor.shape) * SIZES[tensor.dtype]
        file.seek(storage.begin + tensor.offset * SIZES[tensor.dtype])
        checksum, left = 0, nbytes
        while left:
            piece = file.read(min(left, PIECE_BYTES))
            if not piece:
                raise _damaged(self.path)
            checksum = zlib.crc32(piece, checksum)
            left -= len(piece)
            yield piece
        # A checksum covers the whole storage, and newer versions can leave it out (0).
        if nbytes == storage.nbytes and storage.crc not in (0, checksum):
            raise _damaged(self.path)

    def _gathered_pieces(self, file: Any, tensor: StoredTensor) -> Iterator[bytes]:
        if not all(tensor.shape):
            return
        # Mapped: a storage may be much larger than what is seen of it.
        width = SIZES[tensor.dtype]
        capacity = tensor.storage.nbytes // width
        flat = np.memmap(file, f"V{width}", "r", tensor.storage.begin, (capacity,))
        strides = [stride * width for stride in tensor.strides]
        view = np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.shape, strides)
        data = view.tobytes()
        for begin in range(0, len(data), PIECE_BYTES):
            yield data[begin : begin + PIECE_BYTES]


def _is_state_dict(values: dict[Any, Any]) -> bool:
    return bool(values) and all(isinstance(value, StoredTensor) for value in values.values())


def _begin_of(file: Any, entry: zipfile.ZipInfo) -> int:
    """Where the bytes of an entry begin: its local header may be longer than its central one."""
    file.seek(entry.header_offset)
    header = file.read(30)
    if len(header) != 30 or header[:4] != b"PK\x03\x04":
        raise zipfile.BadZipFile
    return (
        entry.header_offset
        + 30
        + int.from_bytes(header[26:28], "little")
        + int.from_bytes(header[28:30], "little")
    )


def _is_contiguous(tensor: StoredTensor) -> bool:
    expected = 1
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def _not_a_checkpoint(path: Path) -> BadInput:
    with path.open("rb") as file:
        start = file.read(8)
    if start[:4] == b"PK\x03\x04":
        return BadInput(
            f"{path.name} is cut off or damaged.", "Download or copy it again, and try again."
        )
    if start[:1] == b"\x80":
        return BadInput(
            f"{path.name} is in the format of PyTorch before version 1.6.",
            "Open it in a newer PyTorch that you trust it with, and save it again.",
        )
    return BadInput(
        f"{path.name} is no checkpoint of PyTorch.", "Give a file such as checkpoint.ckpt."
    )


def _damaged(path: Path) -> BadInput:
    return BadInput(f"{path.name} is damaged.", "Download or copy it again, and try again.")


# ------------------------------------------------------------------------------------------- pickle


class Inert:
    """What stands for an object that is not understood. It keeps nothing and does nothing."""

    def __new__(cls, *arguments: Any, **named: Any) -> Inert:
        return object.__new__(cls)

    def __init__(self, *arguments: Any, **named: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        pass

    def extend(self, values: Any) -> None:
        pass

    def add(self, value: Any) -> None:
        pass


class _Record(dict[Any, Any]):
    """A dictionary whose attributes (the version numbers of a state dict) are let go.

    Keys that are more than a word or a number are, too: to hash a tuple of tuples of tuples takes
    as long as its author wants, and large numbers can be chosen that all have one hash.
    """

    def __setitem__(self, key: Any, value: Any) -> None:
        if type(key) is str or (type(key) is int and abs(key) < 1 << 60):
            super().__setitem__(key, value)

    def __setstate__(self, state: Any) -> None:
        pass


class _Steps(dict[int, Callable[..., None]]):
    """The words of the stack machine, each use of which is counted."""

    left = MAX_PICKLE_STEPS

    def __getitem__(self, word: int) -> Callable[..., None]:
        self.left -= 1
        if self.left < 0:
            raise ValueError("too long a program")
        return super().__getitem__(word)


class _FoundCodeError(Exception):
    """The pickle calls something that holds no data."""


class _Uncallable(type):
    """Of classes that may be described in a pickle, but not called by it.

    Only a member of an enumeration looks like a call of a class, with its value alone.
    """

    def __call__(cls, *arguments: Any, **named: Any) -> Any:
        is_class = cls.__name__.rpartition(".")[2][:1].isupper()
        if is_class and not named and [type(a) for a in arguments] in ([str], [int]):
            return Inert()
        raise _FoundCodeError(cls.__name__)


# The machine written in Python: no registry of extensions is asked, and words that could take more
# time or memory than was read have another meaning here.
class _Reader(pickle._Unpickler):
    """Runs the stack machine of a pickle over inert marks."""

    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, path: Path, program: bytes, storage: Callable[[str, str], Storage]) -> None:
        super().__init__(io.BytesIO(program), encoding="utf-8", errors="replace")
        self._path = path
        self._storage_of = storage
        self._storages: dict[tuple[str, str], Storage] = {}
        self._names: dict[str, Any] = {}
        self.dispatch = _Steps(pickle._Unpickler.dispatch)  # type: ignore[misc]  # of the class
        self.dispatch[pickle.EMPTY_DICT[0]] = lambda reader: reader.append(_Record())
        self.dispatch[pickle.DICT[0]] = _Reader._load_record
        self.dispatch[pickle.EMPTY_SET[0]] = lambda reader: reader.append(Inert())
        self.dispatch[pickle.FROZENSET[0]] = _Reader._load_frozen_set
        self.dispatch[pickle.BUILD[0]] = _Reader._load_state
        # One takes the memory that is asked for before there is anything to put into it, the other
        # (only of protocol 0) stores under numbers of any size.
        del self.dispatch[pickle.BYTEARRAY8[0]], self.dispatch[pickle.PUT[0]]

    def _load_record(self) -> None:
        items = self.pop_mark()
        record = _Record()
        for key, value in zip(items[::2], items[1::2], strict=True):
            record[key] = value
        self.append(record)

    def _load_frozen_set(self) -> None:
        self.pop_mark()
        self.append(Inert())

    def _load_state(self) -> None:
        """The state of an object is let go: a tensor must stay as it was when it was checked."""
        self.stack.pop()

    def load_inert(self) -> Any:
        """The values of the pickle. Raises BadInput."""
        try:
            return self.load()
        except _FoundCodeError as error:
            raise BadInput(
                f"{self._path.name} contains code ({error}), which a file of weights must not. "
                "It was not run.",
                "Do not open this file with other programs either. Get the checkpoint from its "
                "authors.",
            ) from None
        except BadInput:
            raise
        except Exception:
            # Whatever a malformed program runs into: an empty stack, a wrong type, the end.
            raise _damaged(self._path) from None

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full not in self._names:
            if len(self._names) == MAX_PICKLE_NAMES:
                raise ValueError("too many names")
            self._names[full] = self._meaning(full, module, name)
        return self._names[full]

    def _meaning(self, full: str, module: str, name: str) -> Any:
        if full in _BUILDERS:
            return _BUILDERS[full]
        if module in ("builtins", "__builtin__"):
            if name not in _BUILT_IN_TYPES:
                raise _FoundCodeError(full)
            return _PLAIN.get(name, Inert)
        if module in ("torch", "torch.storage") and name in _STORAGES:
            return _Mark(name)
        if module == "torch" and name in _TORCH_DTYPES:
            return _Mark(_TORCH_DTYPES[name])
        if full in _HARMLESS or module.partition(".")[0] in _HARMLESS_MODULES:
            return Inert
        if module.partition(".")[0] in sys.stdlib_module_names:
            raise _FoundCodeError(full)
        return _Uncallable(full, (Inert,), {})

    def get_extension(self, code: int) -> None:
        raise _FoundCodeError(f"extension {code}")

    def persistent_load(self, pid: Any) -> Storage:
        word, kind, key, _place, _count = pid
        if word != "storage" or type(kind) is not _Mark or type(key) is not str:
            raise _damaged(self._path)
        at = (kind.name, key)
        if at not in self._storages:
            self._storages[at] = self._storage_of(*at)
        return self._storages[at]


@dataclass(frozen=True)
class _Mark:
    """The name of a storage or a number type."""

    name: str


def _tensor(
    storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_rest: Any
) -> StoredTensor:
    return _checked(StoredTensor(storage, offset, tuple(shape), tuple(strides), storage.dtype))


def _tensor_of_untyped(
    storage: Storage,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    _gradient: Any,
    _hooks: Any,
    dtype: _Mark,
    *_rest: Any,
) -> StoredTensor:
    return _checked(StoredTensor(storage, offset, tuple(shape), tuple(strides), dtype.name))


def _checked(tensor: StoredTensor) -> StoredTensor:
    """Raise ValueError unless every element lies in the storage."""
    sizes = (*tensor.shape, *tensor.strides, tensor.offset)
    if len(tensor.shape) != len(tensor.strides) or len(tensor.shape) > 16:
        raise ValueError
    if any(type(size) is not int or size < 0 for size in sizes):
        raise ValueError
    if all(tensor.shape):
        steps = zip(tensor.shape, tensor.strides, strict=True)
        last = tensor.offset + sum((size - 1) * stride for size, stride in steps)
        # A stride of 0 repeats elements: a few bytes could stand for any number of them.
        count = math.prod(tensor.shape)
        capacity = tensor.storage.nbytes // SIZES[tensor.dtype]
        if last >= capacity or count > capacity:
            raise ValueError
    return tensor


def _parameter(data: StoredTensor, *_rest: Any) -> StoredTensor:
    return data


def _from_type(_function: Any, _kind: Any, arguments: Any, _state: Any) -> StoredTensor:
    """A tensor with attributes of its own."""
    return _tensor(*arguments)


def _record() -> _Record:
    return _Record()


_BUILDERS: dict[str, Any] = {
    "collections.OrderedDict": _record,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_untyped,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _from_type,
}
_PLAIN: dict[str, Any] = {"dict": _record}


# ------------------------------------------------------------------------------------- number types

_FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def _converted(pieces: Iterator[bytes], have: str, want: str) -> Iterator[bytes | memoryview]:
    if have == want:
        yield from pieces
        return
    for piece in pieces:
        values = np.frombuffer(piece, _FLOATS[have])
        if have == "BF16":
            values = (values.astype("<u4") << 16).view("<f4")
        yield _encoded(values, want)


def _encoded(values: np.ndarray, want: str) -> bytes:
    with np.errstate(over="ignore"):
        encoded = values.astype("<f4" if want == "BF16" else _FLOATS[want])
    if (np.isinf(encoded) & np.isfinite(values)).any():
        small = want == "F16"
        raise BadInput(
            f"A weight of this model is too large for {'float16' if small else 'float32'}.",
            "Use --dtype bfloat16 or float32." if small else "Leave --dtype out.",
        )
    return (_bfloat16(encoded) if want == "BF16" else encoded).tobytes()


def _bfloat16(values: np.ndarray) -> np.ndarray:
    """float32 -> the upper halves of the bits, uint16, rounded to nearest, ties to even."""
    bits = values.view("<u4")
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(values), 0x7FC0, rounded).astype("<u2")


def renamed(
    tensors: Mapping[str, StoredTensor], clean: Callable[[str], str]
) -> dict[str, StoredTensor]:
    """Tensors under the names that `clean` makes; "" leaves one out. Raises BadInput for two of
    one name."""
    found: dict[str, StoredTensor] = {}
    for name, tensor in tensors.items():
        new = clean(name)
        if new in found:
            raise BadInput(
                f"The checkpoint has two weights named {new}.", "Get it from its authors again."
            )
        if new:
            found[new] = tensor
    return found
