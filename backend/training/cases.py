"""Shapes that models are measured on: what is given of each, and the truth.

The truth is the closing TSDF of the shape at 256^3, which takes seconds; what is compared with it
is kept in FOLDER/evaluation/truths. What is given is in the frame of the shape, a scan of one side,
too: what comes back lies in that frame, wherever a pipeline moves it meanwhile.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from ..errors import BadInput
from ..geometry import tsdf
from ..geometry.transforms import apply_to_points
from ..protocol import (
    DepthToMesh,
    Generation,
    ImageToMesh,
    PointsToMesh,
    SketchToMesh,
    TextToMesh,
    VoxelsToMesh,
)
from ..protocol import Shape as AnyShape
from . import conditions, contact_sheets, packed, renders
from .conditions import Conditions
from .metrics import SAMPLES, Reference, Surface
from .packed import Shape
from .prepare import key_of

INPUTS = (
    "tree",
    "points",
    "noisy points",
    "one-sided points",
    "voxels",
    "image",
    "sketch",
    "depth",
)
PICTURES = {"image": "shaded", "sketch": "drawings", "depth": "depths"}
"""Kind of input -> the field of Conditions that holds such pictures."""

_CAMERA = 0
_PIXELS = 768


@dataclass(frozen=True, eq=False)
class Case:
    """A shape to be found again.

    content: as it is packed. truth: of its closing TSDF; portrait: its picture. seen: what is given
    of it. tree: the file of its wavelet tree.
    """

    shape: Shape
    content: bytes
    truth: Reference
    portrait: np.ndarray
    seen: Conditions
    tree: Path

    @cached_property
    def surface(self) -> Surface:
        """The shape as it is, in the cube."""
        return packed.decode(self.content)

    @cached_property
    def noisy(self) -> np.ndarray:
        """(P, 3) float32: as the noisy clouds of training, but where the shape is. Those fill the
        cube with their noise, so that the shape is up to 4 % smaller in them."""
        return conditions.noisy_points(self.shape.id, self.truth.points, self.truth.diagonal)

    @property
    def words(self) -> str:
        """The plainest that is said of it."""
        return conditions.captions(self.shape)[0]

    def mark(self, kind: str) -> str:
        """The same for the same shape and input of that kind, and for nothing else."""
        digest = hashlib.sha256(self.content)
        if kind == "tree":
            digest.update(self.tree.read_bytes())
        elif kind == "voxels":
            digest.update(self.seen.voxels[0].tobytes())
        elif kind in PICTURES:
            digest.update(self.seen.cameras[_CAMERA].tobytes())
            digest.update(getattr(self.seen, PICTURES[kind])[_CAMERA].tobytes())
        else:
            digest.update(points_of(self, kind).tobytes())
        return digest.hexdigest()[:16]


def cases(folder: Path, split: str = "test", most: int | None = None) -> Iterator[Case]:
    """Of the furniture that has trees and conditions in `folder`. Raises BadInput for none."""
    found = 0
    for shape, content in packed.read(folder / "shapes.ffs"):
        name = f"{key_of(shape.id)}.npz"
        tree, seen = folder / "trees" / name, folder / "conditions" / name
        if shape.split == split and found != most and tree.exists() and seen.exists():
            truth, portrait = _truth(content, folder / "evaluation" / "truths" / name)
            yield Case(shape, content, truth, portrait, Conditions.load(seen), tree)
            found += 1
    if not found:
        raise BadInput(f"{folder} has no shapes of the {split} side.", "Prepare them first.")


def file_of(folder: Path, sort: str, shape_id: str) -> Path:
    """The file of a shape. sort: "trees" or "conditions"."""
    return folder / sort / f"{key_of(shape_id)}.npz"


def _truth(content: bytes, path: Path) -> tuple[Reference, np.ndarray]:
    """The truth of a packed shape and its portrait, from `path` where it was found out before."""
    mark = hashlib.sha256(content).hexdigest()
    if path.exists():
        with np.load(path, allow_pickle=False) as kept:
            if str(kept["mark"]) == mark:
                inside = np.unpackbits(kept["inside"]).reshape(128, 128, 128).astype(bool)
                reference = Reference(inside, kept["points"], float(kept["diagonal"]))
                return reference, kept["portrait"]
    surface = conditions.surface_of_field(tsdf.closing_sdf(*packed.decode(content)))
    reference, portrait = Reference.of(surface, SAMPLES), contact_sheets.portrait(surface)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.stem + ".part.npz")
    np.savez_compressed(
        partial,
        mark=np.array(mark),
        inside=np.packbits(reference.inside),
        points=reference.points,
        diagonal=np.array(reference.diagonal),
        portrait=portrait,
    )
    partial.replace(path)
    return reference, portrait


# ------------------------------------------------------------------------------------ what is given


def points_of(case: Case, kind: str) -> np.ndarray:
    """(P, 3) float32 in the cube of the shape, without normals."""
    if kind == "one-sided points":
        frame = case.seen.scan_frames[0].astype(np.float64)
        return apply_to_points(frame, conditions.cloud_of(case.seen.scans[0])).astype(np.float32)
    if kind == "noisy points":
        return case.noisy
    return conditions.cloud_of(case.seen.clean)


def normals_of(case: Case, kind: str) -> np.ndarray | None:
    """(P, 3) float32 of the points: the true ones of clean ones; of a scan, fitted to neighbours
    and turned to the camera; None of noisy ones, where nothing tells the side."""
    if kind == "points":
        return case.seen.normals.astype(np.float32) / np.float32(127)
    if kind == "noisy points":
        return None
    points = points_of(case, kind).astype(np.float64)
    _, near = cKDTree(points).query(points, 16)
    around = points[near] - points[near].mean(axis=1, keepdims=True)
    _, vectors = np.linalg.eigh(around.transpose(0, 2, 1) @ around)
    normals = vectors[:, :, 0]
    row = case.seen.cameras[_CAMERA][:12].reshape(3, 4)
    eye = -row[:, :3].T @ row[:, 3]
    behind = np.einsum("ij,ij->i", normals, eye - points) < 0
    return np.where(behind[:, None], -normals, normals).astype(np.float32)


def task_of(case: Case, kind: str, model: str, *, refine: bool = False) -> Generation:
    """The task that an artist would set with such an input, y up."""
    if kind.endswith("points"):
        points = points_of(case, kind)
        return PointsToMesh(points=points, model=model, up_axis="y", refine=refine)
    if kind == "voxels":
        return VoxelsToMesh(
            occupancy=conditions.cells_of(case.seen.voxels[0]).astype(bool),
            origin=(-1.0, -1.0, -1.0),
            voxel_size=(0.125, 0.125, 0.125),
            model=model,
            up_axis="y",
            refine=refine,
        )
    view, rng = _seen(case), np.random.default_rng(0)
    if kind == "image":
        return ImageToMesh(image=renders.shaded(view, rng), model=model, up_axis="y")
    if kind == "sketch":
        return SketchToMesh(image=renders.line_drawing(view, rng), model=model, up_axis="y")
    return DepthToMesh(depth=view.depth, model=model, up_axis="y")


def free_task(words: str, model: str, seed: int) -> Generation:
    """Words, or nothing at all, to a shape."""
    if words:
        return TextToMesh(prompt=words, model=model, up_axis="y", seed=seed)
    return AnyShape(model=model, up_axis="y", seed=seed)


def _seen(case: Case) -> renders.View:
    row = case.seen.cameras[_CAMERA]
    to_camera = np.vstack([row[:12].reshape(3, 4), [0, 0, 0, 1]])
    return renders.render(*case.surface, renders.Camera(to_camera, float(row[12])), _PIXELS)


def picture_of(case: Case, kind: str) -> np.ndarray:
    """What was given, as a tile of a contact sheet."""
    if kind == "tree":
        return contact_sheets.portrait(case.surface)
    if kind == "voxels":
        return contact_sheets.cells_tile(conditions.cells_of(case.seen.voxels[0]) > 0)
    if kind in PICTURES:
        return contact_sheets.tile(getattr(case.seen, PICTURES[kind])[_CAMERA])
    return contact_sheets.points_tile(points_of(case, kind))
