"""Shapes as scenes: which there are, how they look, and the cameras around them.

A scene is a function of its shape, its variant and nothing else. The world has z up, the shape is
in the cube [-1, 1]^3, its longest side 1.8; what looks like Blender's front view is its front.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import BadInput
from .. import generated, packed, renders
from ..packed import Shape
from . import colours

SIDES = ("train", "validation", "test")
VIEWS = 24
"""Cameras of a scene: three rings of six, and six anywhere."""

_RINGS, _RING = 3, 6
_ELEVATIONS = ((-5.0, 15.0), (18.0, 38.0), (42.0, 65.0))
"""Degrees above the horizon between which each ring is."""
_BANDS = 3
_SAMPLES = 3
"""Rays along a side of a pixel: odd, so that one goes through its centre."""

Look = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Numbers of faces (N,), places and normals (N, 3) -> linear colours (N, 3) of what is there."""


@dataclass(frozen=True)
class Record:
    """A shape in one of its looks. variant 0 is as it is; others are stretched and recoloured."""

    shape: Shape
    variant: int = 0

    @property
    def name(self) -> str:
        """The same for the same scene."""
        return f"{self.shape.id} {self.variant}"


@dataclass(frozen=True, eq=False)
class Scene:
    """vertices: (V, 3) float32, z up; faces: (F, 3) int32; look: of them; light: of the world."""

    vertices: np.ndarray
    faces: np.ndarray
    look: Look
    light: Light


@dataclass(frozen=True, eq=False)
class Light:
    """towards: (3,) unit, where the key light comes from; key, fill: their strengths."""

    towards: np.ndarray
    key: float
    fill: float


@dataclass(frozen=True, eq=False)
class Rendered:
    """What a camera sees: picture (S, S, 4) uint8 sRGB with straight alpha, depth (S, S) float32
    along its axis through the centres of pixels, 0 where nothing is."""

    picture: np.ndarray
    depth: np.ndarray


class Catalogue:
    """The shapes of FOLDER/shapes.ffs with the colours of FOLDER/shapes.ffc, and generated ones.

    The side "reserved" is in none of these files.
    """

    def __init__(self, shapes: Path, painted: Path, generated_shapes: int) -> None:
        self._colours = colours.read(painted)
        self._packed = {
            shape.id: (shape, content)
            for shape, content in packed.read(shapes)
            if shape.id in self._colours
        }
        self._generated = generated_shapes

    def records(self, side: str, variants: int = 1) -> list[Record]:
        """The scenes of a side, in an order without rhyme, all plain ones first.

        variants: looks of each shape of the catalogues; those of other sides than "train" have one.
        """
        if side not in SIDES:
            raise BadInput(f"There is no side {side!r}.", f"Choose of {', '.join(SIDES)}.")
        shapes = [shape for shape, _ in self._packed.values() if shape.split == side]
        made = [generated.shape(number) for number in range(self._generated)]
        plain = [Record(shape) for shape in (*shapes, *made) if shape.split == side]
        more = range(1, variants if side == "train" else 1)
        others = [Record(shape, variant) for variant in more for shape in shapes]
        return [*_shuffled(plain), *_shuffled(others)]

    def scene(self, record: Record) -> Scene:
        """Raises ValueError for a generated shape that came out empty."""
        rng = generator_of(record.name)
        light = _light(rng)
        if record.shape.source == "generated":
            vertices, faces = generated.surface(int(record.shape.id.partition("#")[2]))
            return Scene(_z_up(vertices), faces, _invented(rng), light)
        vertices, faces = packed.decode(self._packed[record.shape.id][1])
        paint = self._colours[record.shape.id]
        if len(paint) != len(faces):
            raise BadInput("Colours and shapes are of different packages.", "Make both anew.")
        if record.variant:
            vertices, faces = generated.varied(vertices, faces, rng)
            paint = np.clip(paint[:, rng.permutation(3)] * rng.uniform(0.6, 1.3, 3), 0, 1)
        paint = paint.astype(np.float32)
        return Scene(_z_up(vertices), faces, lambda face, place, normal: paint[face], light)


def generator_of(*words: object) -> np.random.Generator:
    """A generator that belongs to these words and to nothing else."""
    digest = hashlib.sha256("\n".join(map(str, words)).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))


def _shuffled(records: list[Record]) -> list[Record]:
    return sorted(records, key=lambda record: hashlib.sha256(record.name.encode()).digest())


def _z_up(vertices: np.ndarray) -> np.ndarray:
    """From y up, front towards +z, to z up, front towards -y."""
    return np.stack([vertices[:, 0], -vertices[:, 2], vertices[:, 1]], axis=1)


# -------------------------------------------------------------------------------------------- looks


def _light(rng: np.random.Generator) -> Light:
    azimuth, elevation = rng.uniform(0, 2 * math.pi), math.radians(rng.uniform(20, 75))
    towards = np.array(
        [
            math.cos(elevation) * math.sin(azimuth),
            -math.cos(elevation) * math.cos(azimuth),
            math.sin(elevation),
        ]
    )
    return Light(towards, rng.uniform(0.35, 0.7), rng.uniform(0.35, 0.55))


def _invented(rng: np.random.Generator) -> Look:
    """Colours of a shape that has none: plain, in bands, or in blocks."""
    palette = rng.uniform(0.05, 0.9, (4, 3)).astype(np.float32)
    if rng.random() < 0.5:  # most things have muted colours
        palette = palette * 0.4 + palette.mean(axis=1, keepdims=True) * 0.6
    kind = rng.choice(["plain", "bands", "blocks", "sides"], p=[0.4, 0.25, 0.15, 0.2])
    if kind == "plain":
        return lambda face, place, normal: np.repeat(palette[:1], len(face), axis=0)
    axis = rng.normal(size=3)
    axis *= rng.uniform(1.0, 3.5) / np.linalg.norm(axis)
    shift = rng.uniform(0, 10, 3)
    if kind == "bands":
        return lambda face, place, normal: palette[
            np.floor(place @ axis + shift[0]).astype(int) % _BANDS
        ]
    if kind == "sides":
        return lambda face, place, normal: palette[np.abs(normal).argmax(axis=1)]
    cell = rng.uniform(0.35, 0.9)
    return lambda face, place, normal: palette[
        np.floor(place / cell + shift).astype(int).sum(axis=1) % 2
    ]


def rendered(scene: Scene, pose: np.ndarray, intrinsics: np.ndarray, size: int) -> Rendered:
    """What a camera with its principal point in the middle and square pixels sees."""
    focal = float(intrinsics[0]) / (size / 2)
    camera = renders.Camera(np.linalg.inv(pose.astype(np.float64)), focal)
    fine = size * _SAMPLES
    view, index = renders.render_faces(scene.vertices, scene.faces, camera, fine)
    shown = index >= 0
    linear = np.zeros((fine, fine, 3), np.float32)
    if shown.any():
        linear[shown] = _lit(scene, camera, view, index, shown)
    blocks = (size, _SAMPLES, size, _SAMPLES)
    cover = shown.reshape(blocks).mean(axis=(1, 3), dtype=np.float32)[..., None]
    mean = linear.reshape(*blocks, 3).mean(axis=(1, 3)) / np.maximum(cover, 1e-6)
    picture = np.concatenate([renders.srgb(np.clip(mean, 0, 1)), cover], axis=-1)
    depth = view.depth[_SAMPLES // 2 :: _SAMPLES, _SAMPLES // 2 :: _SAMPLES]
    return Rendered(
        np.rint(255 * picture).astype(np.uint8),
        np.where(np.isfinite(depth), depth, 0).astype(np.float32),
    )


def _lit(
    scene: Scene, camera: renders.Camera, view: renders.View, index: np.ndarray, shown: np.ndarray
) -> np.ndarray:
    """(N, 3) float32 linear light from the samples that show something."""
    rows, columns = np.nonzero(shown)
    fine = len(shown)
    depth = view.depth[shown]
    scale = depth / (camera.focal * fine / 2)
    seen = np.stack(
        [(columns + 0.5 - fine / 2) * scale, (fine / 2 - rows - 0.5) * scale, -depth], axis=1
    )
    to_camera = camera.to_camera
    places = (seen - to_camera[:3, 3]) @ to_camera[:3, :3]
    normals = view.normals[shown] @ to_camera[:3, :3].astype(np.float32)
    albedo = scene.look(index[shown], places, normals)
    fill = scene.light.fill * (0.8 + 0.2 * normals[:, 2])
    key = scene.light.key * np.maximum(normals @ scene.light.towards.astype(np.float32), 0)
    lit: np.ndarray = albedo * (fill + key)[:, None]
    return lit.astype(np.float32)


# ------------------------------------------------------------------------------------------ cameras


def cameras(rng: np.random.Generator, reach: float, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Poses (VIEWS, 4, 4) float32, camera to world, and intrinsics (VIEWS, 4) in pixels.

    All look at the middle with one lens. reach: of the shape from there; it is never cut off.
    """
    field = math.radians(rng.uniform(35, 50))
    distance = max(rng.uniform(1.2, 1.4), 1.03 * reach) / math.sin(field / 2)
    directions: list[tuple[float, float]] = []
    for low, high in _ELEVATIONS:
        elevation, start = rng.uniform(low, high), rng.uniform(0, 360)
        directions += [(start + 360 * k / _RING, elevation) for k in range(_RING)]
    for _ in range(VIEWS - _RINGS * _RING):
        directions.append((rng.uniform(0, 360), math.degrees(math.asin(rng.uniform(-0.9, 0.98)))))
    poses = np.stack([looking_in(azimuth, up, distance) for azimuth, up in directions])
    focal = size / 2 / math.tan(field / 2)
    lens = np.array([focal, focal, (size - 1) / 2, (size - 1) / 2], np.float32)
    return poses, np.tile(lens, (VIEWS, 1))


def looking_in(azimuth: float, elevation: float, distance: float) -> np.ndarray:
    """(4, 4) float32, camera to world, of a camera that looks at the middle; degrees. Azimuth 0 is
    Blender's front view, 90 is seen from +x."""
    a, e = math.radians(azimuth), math.radians(elevation)
    back = np.array([math.cos(e) * math.sin(a), -math.cos(e) * math.cos(a), math.sin(e)])
    right = np.array([math.cos(a), math.sin(a), 0.0])
    pose = np.eye(4)
    pose[:3, 0], pose[:3, 1], pose[:3, 2] = right, np.cross(back, right), back
    pose[:3, 3] = distance * back
    return pose.astype(np.float32)
