"""Latents of all rooms on disk, so that the autoencoder works once for each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..rooms.dataset import Rooms
from . import autoencoder

_EVERY = 64
"""Latents between two notes of how far it came."""
_ENCODING = ("encoder.", "quant_conv.", "analysis.")
"""What names of weights of encoders begin with: of a convolutional coder, of one of patches."""


def encoded(
    coder: Any,
    rooms: Rooms,
    numbers: Sequence[int],
    path: Path,
    device: torch.device,
    report: Callable[[str], None],
    *,
    layout: str = autoencoder.LAYOUT,
    height: int = 0,
    mirrored: bool = False,
) -> np.ndarray:
    """(N or 2 N, C, h, w) float16 of scale one, mapped from `path` (.npy): of the rooms of these
    numbers, then of their mirror images. What an earlier call made of the same is kept.
    """
    note = path.with_suffix(".json")
    chosen = [
        (number, side) for side in ((False, True) if mirrored else (False,)) for number in numbers
    ]
    count = len(chosen)
    first = _latent(coder, rooms, *chosen[0], device, layout, height)
    mark = {
        "coder": mark_of(coder),
        "shape": [count, *first.shape],
        "layout": layout,
        "first": numbers[0],
    }
    done = _done(note, mark) if path.exists() else 0
    shape = (count, *first.shape)
    kept = (
        np.load(path, mmap_mode="r+")
        if done
        else np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
    )
    for number in range(done, count):
        kept[number] = _latent(coder, rooms, *chosen[number], device, layout, height)
        if (number + 1) % _EVERY == 0 or number + 1 == count:
            kept.flush()
            note.write_text(json.dumps({**mark, "done": number + 1}), "utf-8")
            report(f"latents: {number + 1} of {count}")
    return np.load(path, mmap_mode="r")


def _latent(
    coder: Any,
    rooms: Rooms,
    number: int,
    mirrored: bool,
    device: torch.device,
    layout: str,
    height: int,
) -> np.ndarray:
    found = autoencoder.latent_of(
        coder,
        rooms,
        number,
        device,
        layout=layout,
        height=height,
        mirrored=mirrored,
    )
    return (found * coder.config.scaling_factor).cpu().numpy().astype(np.float16)


def _done(note: Path, mark: dict[str, Any]) -> int:
    try:
        found = json.loads(note.read_text("utf-8"))
    except (OSError, ValueError):
        return 0
    done = found.pop("done", 0)
    return int(done) if found == mark else 0


def mark_of(coder: Any) -> str:
    """The same for coders that make the same latents, however they make pictures of these."""
    digest = hashlib.sha256(repr(coder.config.scaling_factor).encode())
    for name, tensor in coder.state_dict().items():
        if name.startswith(_ENCODING):
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
