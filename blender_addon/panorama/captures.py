"""What was captured of a panorama -> tasks for the backend. No bpy; runs in a thread."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...backend.errors import BadInput, FieldforgeError, TooLarge
from ...backend.protocol import (
    DepthMeaning,
    PanoramaToSphere,
    PanoramaToStereo,
    Task,
    TextToPanorama,
    check_panorama_size,
)
from ..compose import Choices, PictureCapture, Placement, srgb_from_linear

ROWS = 256  # of a large picture that are worked on at once
DEPTH_NAMES = ("depth", "distance", "radial", "arr_0")  # arrays of an .npz file, in this order


@dataclass(frozen=True, eq=False)
class Pixels:
    """values: (H, W, C) float32 as Blender gives them, row 0 at the bottom; is_bytes: each is a
    whole number of 0..255, divided by 255; linear: colours are scene-linear."""

    values: np.ndarray
    is_bytes: bool
    linear: bool = False


@dataclass(frozen=True, eq=False)
class PanoramaCapture(PictureCapture):
    """picture, depth: of images; depth_file: of numbers, or None; without either a model tells the
    depth. stereo: pictures for two eyes instead of a sphere; fields: of the task."""

    name: str
    picture: Pixels
    meaning: DepthMeaning
    depth: Pixels | None = None
    depth_file: Path | None = None
    stereo: bool = False
    fields: dict[str, Any] = field(default_factory=dict)

    def task(self, choices: Choices) -> tuple[Task, Placement]:
        kind = PanoramaToStereo if self.stereo else PanoramaToSphere
        task = kind(
            name=self.name,
            model=choices.model,
            seed=choices.seed,
            image=colors_of(self.picture),
            depth=self._depth(),
            meaning=self.meaning,
            **self.fields,
        )
        return task, Placement()

    def _depth(self) -> np.ndarray | None:
        if self.depth_file is not None:
            return read_depth(self.depth_file)
        return None if self.depth is None else depth_of(self.depth)


@dataclass(frozen=True, eq=False)
class TextPanoramaCapture(PictureCapture):
    name: str
    prompt: str
    negative: str = ""
    sphere: bool = True
    fields: dict[str, Any] = field(default_factory=dict)

    def task(self, choices: Choices) -> tuple[Task, Placement]:
        task = TextToPanorama(
            name=self.name,
            model=choices.model,
            seed=choices.seed,
            prompt=self.prompt,
            negative=self.negative,
            sphere=self.sphere,
            **self.fields,
        )
        return task, Placement()


def colors_of(picture: Pixels) -> np.ndarray:
    """(H, W, 3), row 0 at the top: uint8 sRGB of bytes, float32 linear of what may be brighter than
    white."""
    height, width, channels = picture.values.shape
    as_float = picture.linear and not picture.is_bytes
    result = np.empty((height, width, 3), np.float32 if as_float else np.uint8)
    for start in range(0, height, ROWS):
        part = picture.values[start : start + ROWS]
        part = part[..., :3] if channels >= 3 else part[..., :1]
        target = result[height - start - len(part) : height - start]
        if as_float:
            target[:] = part[::-1]
        else:
            known = np.nan_to_num(part[::-1], nan=0, posinf=1, neginf=0)
            values = srgb_from_linear(known) if picture.linear else np.clip(known, 0, 1)
            target[:] = np.rint(255 * values)
    return result


def depth_of(picture: Pixels) -> np.ndarray:
    """(h, w) uint8 or float32, row 0 at the top, of a grey picture."""
    values = picture.values[::-1, :, 0]
    return (
        np.rint(255 * values).astype(np.uint8) if picture.is_bytes else np.ascontiguousarray(values)
    )


def read_depth(path: Path) -> np.ndarray:
    """(h, w) uint8, uint16 or float32 of a .npy or .npz file. Raises BadInput."""
    try:
        with path.open("rb") as file:  # numpy leaves files open that it cannot read
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.lib.npyio.NpzFile):
                with loaded:
                    loaded = loaded[_name_of_depth(loaded, path)]
    except FileNotFoundError:
        raise BadInput(
            f"The depth file is not there: {path}", "Choose it once more where it is now."
        ) from None
    except MemoryError:
        raise TooLarge(f"{path.name} is too large to be read.", "Scale the depth down.") from None
    except FieldforgeError:
        raise
    except (OSError, ValueError, EOFError, KeyError, SyntaxError) as error:
        raise _unreadable(path, str(error)) from None
    except Exception as error:  # zipfile and zlib have errors of their own for damaged files
        raise _unreadable(path, f"{type(error).__name__}: {error}") from None
    return _as_depth(np.squeeze(loaded), path)


def _name_of_depth(arrays: np.lib.npyio.NpzFile, path: Path) -> str:
    named = [name for name in DEPTH_NAMES if name in arrays.files]
    if named or len(arrays.files) == 1:
        return (named or arrays.files)[0]
    raise BadInput(
        f"{path.name} has several arrays, none named depth: {', '.join(arrays.files)[:200]}.",
        'Save it with the name "depth".',
    )


def _as_depth(values: np.ndarray, path: Path) -> np.ndarray:
    if values.ndim != 2 or values.dtype.kind not in "uif":
        shape = " x ".join(map(str, values.shape))
        raise BadInput(
            f"{path.name} holds {shape or 'one'} {values.dtype}, which is no depth.",
            "Save the depth as rows and columns of numbers.",
        )
    check_panorama_size(values.shape[1], values.shape[0])
    if values.dtype in (np.uint8, np.uint16):
        return values
    return values.astype(np.float32)


def _unreadable(path: Path, detail: str) -> BadInput:
    return BadInput(
        f"{path.name} cannot be read as a .npy or .npz file: {detail[:200].rstrip('.')}.",
        "It may be cut off. Save it once more, or use an EXR as an image.",
    )
