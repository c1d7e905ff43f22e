"""Files of tensors in the safetensors layout, read and written piece by piece.

Standard library only: a header is read without any tensor library, and a file of any size is
written with one tensor at a time in memory. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import BadInput

SIZES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "BF16": 2, "F16": 2, "I16": 2, "U8": 1, "I8": 1}
SIZES["BOOL"] = 1
MAX_HEADER_BYTES = 64 << 20
PIECE_BYTES = 8 << 20

_DTYPES = {
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


@dataclass(frozen=True)
class TensorInfo:
    """dtype: a key of SIZES; begin: where its bytes begin in the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int = 0

    @property
    def nbytes(self) -> int:
        return SIZES[self.dtype] * math.prod(self.shape)


@dataclass(frozen=True)
class LazyTensor:
    """A tensor whose bytes (little-endian, C order) are fetched when they are written."""

    info: TensorInfo
    pieces: Callable[[], Iterator[bytes | memoryview]]


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Names and shapes of the tensors in a .safetensors file.

    Raises BadInput for a file that is not one, is cut off, or whose tensors do not fit in it.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 0 < length <= min(MAX_HEADER_BYTES, size - 8):
            raise _damaged(path)
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            found = {name: _info(entry, 8 + length) for name, entry in header.items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise _damaged(path) from None
    if any(info.begin + info.nbytes > size for info in found.values()):
        raise _damaged(path)
    return found


def _info(entry: Any, start: int) -> TensorInfo:
    begin, end = entry["data_offsets"]
    info = TensorInfo(entry["dtype"], tuple(entry["shape"]), start + begin)
    whole = all(type(size) is int and size >= 0 for size in (*info.shape, begin))
    whole = whole and len(info.shape) <= 16
    if not whole or info.dtype not in SIZES or end - begin != info.nbytes:
        raise ValueError
    return info


def _damaged(path: Path) -> BadInput:
    return BadInput(
        f"{path} is damaged or is no file of tensors.", "Download or convert the model again."
    )


def write(
    path: Path, tensors: Mapping[str, Any], report: Callable[[float], None] | None = None
) -> str:
    """Write torch tensors, numpy arrays or LazyTensors; returns the SHA-256 of the file.

    report(fraction) is called between pieces; what it raises ends the writing. Raises OSError, and
    ValueError for a tensor that does not have the bytes it says.
    """
    lazy = {name: as_lazy(tensor) for name, tensor in tensors.items()}
    # Wide numbers first: so that each lies at a multiple of its size, as mapped files want it.
    lazy = dict(sorted(lazy.items(), key=lambda item: -SIZES[item[1].info.dtype]))
    total = sum(tensor.info.nbytes for tensor in lazy.values()) or 1
    digest = hashlib.sha256()
    done = 0
    with path.open("wb") as file:

        def put(piece: bytes | memoryview) -> None:
            file.write(piece)
            digest.update(piece)

        put(_header({name: tensor.info for name, tensor in lazy.items()}))
        for name, tensor in lazy.items():
            begun = done
            for piece in tensor.pieces():
                put(piece)
                done += len(piece)
                if report:
                    report(min(1.0, done / total))
            if done - begun != tensor.info.nbytes:
                raise ValueError(f"{name} has {done - begun} bytes, not {tensor.info.nbytes}")
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _header(infos: Mapping[str, TensorInfo]) -> bytes:
    header: dict[str, Any] = {}
    offset = 0
    for name, info in infos.items():
        end = offset + info.nbytes
        header[name] = {
            "dtype": info.dtype,
            "shape": list(info.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def as_lazy(tensor: Any) -> LazyTensor:
    """A torch tensor or a numpy array as what `write` takes; its bytes are fetched late."""
    if isinstance(tensor, LazyTensor):
        return tensor
    name = getattr(tensor.dtype, "name", str(tensor.dtype))  # numpy's says nothing of byte order
    dtype = _DTYPES.get(name.removeprefix("torch."))
    if dtype is None:
        raise ValueError(f"tensors of {tensor.dtype} are not written")
    return LazyTensor(TensorInfo(dtype, tuple(tensor.shape)), lambda: _pieces(tensor))


def _pieces(tensor: Any) -> Iterator[memoryview]:
    if hasattr(tensor, "detach"):  # torch, which this file does not import
        import torch

        flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        view = memoryview(flat.numpy())
    else:
        # tobytes, not a view: the array may be big-endian or not contiguous.
        view = memoryview(tensor.astype(tensor.dtype.newbyteorder("<"), copy=False).tobytes())
    for begin in range(0, len(view), PIECE_BYTES):
        yield view[begin : begin + PIECE_BYTES]


def file_hash(path: Path, report: Callable[[float], None] | None = None) -> str:
    """SHA-256 of a file, read piece by piece; report as for `write`."""
    digest, done = hashlib.sha256(), 0
    size = path.stat().st_size or 1
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            digest.update(piece)
            done += len(piece)
            if report:
                report(min(1.0, done / size))
    return digest.hexdigest()
