"""What models are told about a shape in training: points, voxels, pictures, words.

Everything goes through the same functions of `backend.conditions` that prepare an artist's input,
so that a model sees in training what it sees in use. The same shape and seed, the same bytes.

Points and voxels come from the closed surface that the wavelet tree of the shape stands for, which
has no hidden walls; pictures from the shape itself, which has its sharp edges.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from PIL import Image
from scipy.spatial import cKDTree

from ..conditions import depths, images, sketches, voxels
from ..conditions.cameras import view_cameras
from ..conditions.framing import SIDE
from ..conditions.points import model_points
from ..errors import BadInput, FieldforgeError
from ..geometry.isosurface import marching_cubes
from ..geometry.transforms import apply_to_points, inverse
from ..geometry.voxels import occupancy_of_sdf, surface_cells
from . import renders
from .metrics import Surface, sample_surface
from .packed import Shape
from .parallel import each
from .renders import Camera, View

VIEW_CAMERAS = (3, 6, 10, 26, 49, 50)
"""WaLa's numbers of the views that its models of several pictures were trained on."""

_OVERSAMPLED = 2
"""Points per point that is kept: the kept ones lie evenly enough, and finding them costs a third
of what it does with the five times as many that pipelines ask for."""

_GRID = 64
_MOST_NOISE = 0.01
_SEEN_REACH = 1.24
"""How far from the origin random cameras see everything."""

_POSE_DISTANCE, _POSE_FIELD_OF_VIEW = 4.9, 38.0


@dataclass(frozen=True)
class Amounts:
    """How much of each is made. points: of each cloud. side: of the pictures kept, a divisor of
    224; they are prepared at 224 and reduced."""

    points: int = 8192
    cameras: int = 6
    scans: int = 2
    side: int = 112


@dataclass(frozen=True, eq=False)
class Conditions:
    """Of one shape; P points, C random cameras, S pixels along a side, 6 views.

    Clouds hold int16 coordinates, 32767 being 1, framed as `model_points` does.
    clean (P, 3) with normals (P, 3) int8, 127 being 1, out of the surface;
    noisy (P, 3), of noise up to 1 % of the diagonal; scans (scans, P, 3): one-sided, of what the
    first cameras see, and scan_frames (scans, 4, 4) float32, from the cube of a scan, in which its
    own box is centred, to the cube of the shape.
    voxels (2, 512) uint8, bits of 16^3 cells: of the solid, and of its surface only.
    shaded (C, S, S, 3), drawings (C, S, S), depths (C, S, S) uint8, on black, white, black.
    cameras (C, 13) float64: the upper rows of `to_camera`, then `focal`.
    views (6, S, S, 3), view_depths (6, S, S) uint8: of VIEW_CAMERAS, framed alike.
    """

    clean: np.ndarray
    normals: np.ndarray
    noisy: np.ndarray
    scans: np.ndarray
    scan_frames: np.ndarray
    voxels: np.ndarray
    shaded: np.ndarray
    drawings: np.ndarray
    depths: np.ndarray
    cameras: np.ndarray
    views: np.ndarray
    view_depths: np.ndarray

    def save(self, path: Path) -> None:
        """Written whole or not at all."""
        partial = path.with_name(path.stem + ".part.npz")
        np.savez_compressed(
            partial, **{field.name: getattr(self, field.name) for field in fields(self)}
        )
        partial.replace(path)

    @staticmethod
    def load(path: Path) -> Conditions:
        """Raises BadInput for a file that is none."""
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
                return Conditions(
                    **{field.name: arrays[field.name] for field in fields(Conditions)}
                )
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise BadInput(
                f"{path.name} holds no conditions ({error}).", "Prepare them again."
            ) from None


def cloud_of(stored: np.ndarray) -> np.ndarray:
    """int16 coordinates as they are stored -> float32."""
    return stored.astype(np.float32) / np.float32(32767)


def cells_of(stored: np.ndarray) -> np.ndarray:
    """(..., 512) uint8 -> (..., 16, 16, 16) float32 of 0 and 1."""
    return np.unpackbits(stored, axis=-1).reshape(*stored.shape[:-1], 16, 16, 16).astype(np.float32)


def make(
    shape_id: str, shape: Surface, field: np.ndarray, seed: int = 0, amounts: Amounts | None = None
) -> Conditions:
    """All conditions of a shape.

    shape: its surface in the cube, as it is. field: (n, n, n) float32, its TSDF.
    """
    amounts = amounts or Amounts()
    truth = surface_of_field(field)
    cameras = [
        _far_enough(renders.random_camera(_rng(shape_id, seed, f"camera {k}")), shape[0])
        for k in range(amounts.cameras)
    ]
    seen = [renders.render(*shape, camera, 2 * SIDE) for camera in cameras]
    salt = int(_rng(shape_id, seed, "points").integers(2**31))
    rng = _rng(shape_id, seed, "samples")
    points, directions = sample_surface(*truth, 2 * _OVERSAMPLED * amounts.points, rng)
    half = len(points) // 2
    clean, normals = _clean(points[:half], directions[:half], salt, amounts.points)
    noisy = _noisy(points[half:], truth[0], rng, salt, amounts.points)
    scanned = [_scan(*truth, cameras[k], rng, salt, amounts.points) for k in range(amounts.scans)]
    views, view_depths = _numbered_views(shape, shape_id, seed, amounts.side)
    return Conditions(
        clean=_stored(clean),
        normals=np.rint(127 * normals).astype(np.int8),
        noisy=_stored(noisy),
        scans=np.array([_stored(points) for points, _ in scanned], np.int16),
        scan_frames=np.array([frame for _, frame in scanned], np.float32),
        voxels=np.stack([_bits(grid) for grid in _grids(field)]),
        shaded=np.stack(
            [_shaded(view, shape_id, seed, k, amounts.side) for k, view in enumerate(seen)]
        ),
        drawings=np.stack(
            [_drawn(view, shape_id, seed, k, amounts.side) for k, view in enumerate(seen)]
        ),
        depths=np.stack(
            [_reduced(depths.prepare(view.depth, "metres").picture, amounts.side)[..., 0]
             for view in seen]
        ),
        cameras=np.stack([np.append(camera.to_camera[:3], camera.focal) for camera in cameras]),
        views=views,
        view_depths=view_depths,
    )  # fmt: skip


def _rng(shape_id: str, seed: int, what: str) -> np.random.Generator:
    """Of each thing its own, so that none changes when more of another is made."""
    digest = hashlib.sha256(f"{shape_id}\n{seed}\n{what}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))


def _far_enough(camera: Camera, vertices: np.ndarray) -> Camera:
    """The camera, further back where a corner of the shape might not be in the picture."""
    reach = float(np.linalg.norm(vertices, axis=1).max())
    to_camera = camera.to_camera.copy()
    to_camera[2, 3] *= max(1.0, reach / _SEEN_REACH)
    return Camera(to_camera, camera.focal)


def surface_of_field(field: np.ndarray) -> Surface:
    """Vertices (V, 3) float32 in the cube and faces (F, 3) int32 of a TSDF, outward."""
    vertices, faces = marching_cubes(field, closed=True)
    if not len(faces):
        raise BadInput("The shape has no surface.", "Leave it out of the data.")
    return vertices * np.float32(2 / len(field)) - np.float32(1), faces


# ------------------------------------------------------------------------------------------- points


def _clean(
    points: np.ndarray, normals: np.ndarray, salt: int, count: int
) -> tuple[np.ndarray, np.ndarray]:
    chosen, to_source = model_points(points, "y", salt, count)
    _, nearest = cKDTree(points).query(apply_to_points(to_source, chosen))
    return chosen, normals[nearest]


def _noisy(
    points: np.ndarray, vertices: np.ndarray, rng: np.random.Generator, salt: int, count: int
) -> np.ndarray:
    diagonal = float(np.linalg.norm(np.ptp(vertices, axis=0)))
    return model_points(_with_noise(points, diagonal, rng), "y", salt, count)[0]


def _with_noise(points: np.ndarray, diagonal: float, rng: np.random.Generator) -> np.ndarray:
    noise = rng.normal(0, rng.uniform(0.001, _MOST_NOISE) * diagonal, points.shape)
    return (points + noise).astype(np.float32)


def noisy_points(
    shape_id: str, surface: np.ndarray, diagonal: float, count: int = Amounts.points
) -> np.ndarray:
    """(count, 3) float32 in the frame of the shape: noisy, and as even as clouds of training are.

    surface: points (N, 3) on the shape, at least twice as many, of which some are taken. diagonal:
    of its box. The same shape, the same points.
    """
    rng = _rng(shape_id, 0, "noisy points")
    taken = surface[rng.permutation(len(surface))[: _OVERSAMPLED * count]]
    salt = int(rng.integers(2**31))
    chosen, to_source = model_points(_with_noise(taken, diagonal, rng), "y", salt, count)
    return apply_to_points(to_source, chosen).astype(np.float32)


def _scan(
    vertices: np.ndarray,
    faces: np.ndarray,
    camera: Camera,
    rng: np.random.Generator,
    salt: int,
    count: int,
) -> tuple[np.ndarray, np.ndarray]:
    """What one camera sees, a little noisy in depth; and the way back to the shape's cube."""
    view = renders.render(vertices, faces, camera, 2 * SIDE)
    points = seen_points(view, camera)
    if len(points) > _OVERSAMPLED * count:
        points = points[rng.choice(len(points), _OVERSAMPLED * count, replace=False)]
    points = points + rng.normal(0, rng.uniform(0, 0.004), points.shape)
    return model_points(points.astype(np.float32), "y", salt, count)


def seen_points(view: View, camera: Camera) -> np.ndarray:
    """(N, 3) float64 in the world: a point for each pixel that shows something."""
    rows, columns = np.nonzero(np.isfinite(view.depth))
    size = len(view.depth)
    depth = view.depth[rows, columns].astype(np.float64)
    x = ((columns + 0.5) / size * 2 - 1) / camera.focal * depth
    y = (1 - (rows + 0.5) / size * 2) / camera.focal * depth
    return apply_to_points(inverse(camera.to_camera), np.stack([x, y, -depth], axis=1))


def _stored(points: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(points, -1, 1) * 32767).astype(np.int16)


# ------------------------------------------------------------------------------------------- voxels


def _grids(field: np.ndarray) -> list[np.ndarray]:
    """(16, 16, 16) cells: of the solid, and of its surface."""
    solid = occupancy_of_sdf(field, _GRID)
    if not solid.any():
        # Thinner than the cells everywhere: those that its surface passes through.
        solid = occupancy_of_sdf(field - np.float32(1 / _GRID), _GRID)
    corner, size = np.full(3, -1.0), np.full(3, 2 / _GRID)
    return [
        voxels.model_voxels(grid, corner, size, "y")[0] for grid in (solid, surface_cells(solid))
    ]


def _bits(cells: np.ndarray) -> np.ndarray:
    return np.packbits(cells.astype(bool).ravel())


# ----------------------------------------------------------------------------------------- pictures


def _shaded(view: View, shape_id: str, seed: int, number: int, side: int) -> np.ndarray:
    picture = renders.shaded(view, _rng(shape_id, seed, f"light {number}"))
    return _reduced(images.prepare(picture).picture, side)


def _drawn(view: View, shape_id: str, seed: int, number: int, side: int) -> np.ndarray:
    drawing = renders.line_drawing(view, _rng(shape_id, seed, f"pen {number}"))
    return _reduced(sketches.prepare(drawing).picture, side)[..., 0]


def _numbered_views(
    shape: Surface, shape_id: str, seed: int, side: int
) -> tuple[np.ndarray, np.ndarray]:
    """Shaded pictures and depths of VIEW_CAMERAS, lit alike."""
    seen = [renders.render(*shape, camera, 2 * SIDE) for camera in numbered_cameras()]
    shaded = [renders.shaded(view, _rng(shape_id, seed, "light of views")) for view in seen]
    pictures = images.prepare_views(shaded)
    deep = depths.prepare_views([view.depth for view in seen], "metres")
    return (
        np.stack([_reduced(view.picture, side) for view in pictures]),
        np.stack([_reduced(view.picture, side)[..., 0] for view in deep]),
    )


def numbered_cameras() -> list[Camera]:
    """Those of VIEW_CAMERAS, far enough to see the whole cube of the shapes."""
    focal = 1 / math.tan(math.radians(_POSE_FIELD_OF_VIEW) / 2)
    cameras = []
    for pose in view_cameras(VIEW_CAMERAS):
        pose[:3, 3] *= _POSE_DISTANCE
        cameras.append(Camera(inverse(pose), focal))
    return cameras


def _reduced(picture: np.ndarray, side: int) -> np.ndarray:
    """(224, 224, 3) -> (side, side, 3), by the means of whole blocks."""
    return np.asarray(Image.fromarray(picture).reduce(SIDE // side))


# -------------------------------------------------------------------------------------------- words


def captions(shape: Shape) -> tuple[str, ...]:
    """Ways to say what a shape is, the plainest first; all lower case."""
    words = shape.caption.lower()
    if shape.source == "generated":
        plain = words
        return tuple(dict.fromkeys([plain, _bare(plain), f"a 3d model of {plain}"]))
    name, *tags = (word.strip() for word in words.split(","))
    phrases = [_with_article(name), name, f"a 3d model of {_with_article(name)}", words]
    phrases += [f"{name}, {tag}" for tag in tags]
    return tuple(dict.fromkeys(phrase for phrase in phrases if phrase))


def _bare(phrase: str) -> str:
    article, _, rest = phrase.partition(" ")
    return rest if article in ("a", "an", "the") and rest else phrase


def _with_article(name: str) -> str:
    if not name or name.split()[0] in ("a", "an", "the") or name.endswith("s"):
        return name
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


# -------------------------------------------------------------------------------------------- files


def prepare_conditions(
    jobs: Sequence[tuple[str, bytes | int, Path, Path]],
    workers: int,
    report: Callable[[str, float], None],
    seed: int = 0,
    amounts: Amounts | None = None,
) -> None:
    """Files of conditions for all jobs that have none yet. Raises FieldforgeError.

    jobs: id of the shape, what its surface is made of (`prepare.Recipe`), its tree, its file.
    """
    missing = [(*job, seed, amounts or Amounts()) for job in jobs if not job[3].exists()]
    for number, failure in enumerate(each(_make_file, missing, workers), 1):
        report("Making conditions", number / len(missing))
        if failure:
            raise FieldforgeError(failure, "Delete the tree of this shape and prepare again.")


def _make_file(job: tuple[str, bytes | int, Path, Path, int, Amounts]) -> str:
    """Returns why it failed, or nothing."""
    from . import prepare, trees

    shape_id, recipe, tree, path, seed, amounts = job
    try:
        field = trees.field_of(trees.SparseTree.load(tree).packed()[None])[0].numpy()
        make(shape_id, prepare.surface_of(recipe), field, seed, amounts).save(path)
    except (FieldforgeError, ValueError, OSError, BadZipFile) as error:
        return f"{shape_id}: {error}"
    return ""
