"""What a finished job about panoramas brought back, ready for the scene. No bpy: it runs in a
thread."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...backend.errors import BadInput, StorageFailed
from ...backend.protocol import (
    DepthMeaning,
    PanoramaResult,
    Result,
    SphereLayer,
    SphereResult,
    StereoResult,
    radii,
)
from .textures import Texture, texture_of

METRES = DepthMeaning()
CHUNK = 1 << 16  # vertices that are worked on at once: they fit the cache of a processor


@dataclass(frozen=True, eq=False)
class LayerArrival:
    """positions: (V, 3) float32; starts: (F,) int32, the first corner of each face; texture: of its
    own, None for that of the sphere."""

    layer: SphereLayer
    positions: np.ndarray
    starts: np.ndarray
    texture: Texture | None


@dataclass(frozen=True, eq=False)
class SphereArrival:
    """layers: the front first. meaning: of the values of front and backing."""

    layers: list[LayerArrival]
    texture: Texture
    meaning: DepthMeaning
    report: dict[str, Any] = field(default_factory=dict)

    @property
    def faces(self) -> int:
        return sum(len(each.starts) for each in self.layers)


@dataclass(frozen=True, eq=False)
class PanoramaArrival:
    """depth: None where there is none."""

    texture: Texture
    depth: Texture | None
    meaning: DepthMeaning
    report: dict[str, Any] = field(default_factory=dict)
    faces: int = 0


@dataclass(frozen=True, eq=False)
class StereoArrival:
    """textures: what is added to the name of the picture, and the picture."""

    textures: dict[str, Texture]
    report: dict[str, Any] = field(default_factory=dict)
    faces: int = 0


Arrived = SphereArrival | PanoramaArrival | StereoArrival


@dataclass(frozen=True, eq=False)
class FormingPicture:
    """What a job has formed so far. pixels: (h, w, 4) float32 sRGB, row 0 at the bottom."""

    pixels: np.ndarray


def forming_picture(result: Result) -> FormingPicture | None:
    """The picture that a panorama shows while it forms; None of another result."""
    if not isinstance(result, PanoramaResult) or result.image.dtype != np.uint8:
        return None
    height, width, _ = result.image.shape
    pixels = np.ones((height, width, 4), np.float32)
    np.divide(result.image[::-1, :, :3], np.float32(255), out=pixels[..., :3])
    return FormingPicture(pixels) if pixels.size else None


def where_it_is(came: Arrived) -> str:
    """Where to look for a result that is no object in the scene; "" for one that is."""
    match came:
        case PanoramaArrival(depth=None):
            return "The picture is chosen in the source Panorama"
        case PanoramaArrival():
            return "The picture and its depth are chosen in the source Panorama"
        case StereoArrival():
            return f"An Image Editor shows it: {' and '.join(came.textures)}"
        case _:
            return ""


def arrived(result: Result, name: str, options: dict[str, Any]) -> Arrived | None:
    """What `result` puts into the file; None where it is not about panoramas. Raises BadInput.

    options: `Destination.panorama`; pictures go to its folder where it has one.
    """
    if isinstance(result, SphereResult):
        return _sphere(result, name, options)
    if isinstance(result, PanoramaResult):
        return _panorama(result, name, options)
    if isinstance(result, StereoResult):
        return _stereo(result, name, options)
    return None


def _sphere(result: SphereResult, name: str, options: dict[str, Any]) -> SphereArrival:
    layers = sorted(result.layers, key=lambda layer: layer.layer != "front")
    if not layers or layers[0].layer != "front" or not len(layers[0].corners):
        raise BadInput(
            "The sphere that came back shows nothing.",
            "Check the depth: it may be sky, or missing, everywhere.",
        )
    prepared = [_layer(layer, result, name, options) for layer in layers if len(layer.corners)]
    # Where the picture of the file is taken as it is, this one only stands in, should that be gone.
    texture = _kept(texture_of(result.image), name, {} if options.get("image") else options)
    return SphereArrival(prepared, texture, result.meaning, result.report)


def _layer(layer: SphereLayer, result: SphereResult, name: str, options: dict) -> LayerArrival:
    meaning = METRES if layer.layer == "sky" else result.meaning
    positions = np.empty_like(layer.directions)
    place(layer.directions, layer.values, meaning, positions)
    quads, corners = layer.quads, len(layer.corners)
    starts = np.empty(quads + layer.triangles, np.int32)
    starts[:quads] = np.arange(0, 4 * quads, 4, dtype=np.int32)
    starts[quads:] = np.arange(4 * quads, corners, 3, dtype=np.int32)
    own = None
    if layer.image is not None:
        own = _kept(texture_of(layer.image), f"{name} {layer.layer}", options)
    return LayerArrival(layer, positions, starts, own)


def place(
    directions: np.ndarray, values: np.ndarray, meaning: DepthMeaning, positions: np.ndarray
) -> None:
    """Write positions (V, 3): directions (V, 3) times the radii that values (V,) mean."""
    radius = np.empty(min(CHUNK, len(values)), np.float32)
    for start in range(0, len(values), CHUNK):
        part = slice(start, start + CHUNK)
        found = radii(values[part], meaning, out=radius[: len(values[part])])
        for axis in range(3):  # along an axis of three numbers, numpy is slow
            np.multiply(directions[part, axis], found, out=positions[part, axis])


def _panorama(result: PanoramaResult, name: str, options: dict[str, Any]) -> PanoramaArrival:
    if not result.image.size:
        raise BadInput("The panorama that came back is empty.", "Generate it once more.")
    depth = None
    if result.depth is not None:
        numbers = np.asarray(result.depth, np.float32)
        depth = _kept(texture_of(numbers), f"{name} depth", options)
    texture = _kept(texture_of(result.image), name, {} if options.get("image") else options)
    return PanoramaArrival(texture, depth, result.meaning, result.report)


def _stereo(result: StereoResult, name: str, options: dict[str, Any]) -> StereoArrival:
    left, right = result.left, result.right
    if left.shape != right.shape or not left.size:
        raise BadInput("The pictures of the two eyes do not fit.", "Generate them once more.")
    if options.get("stereo") == "EYES":
        pictures = {"left": left, "right": right}
    else:
        pictures = {"top-bottom": np.concatenate([left, right])}  # the left eye's above
    textures = {
        suffix: _kept(texture_of(picture), f"{name} {suffix}", options)
        for suffix, picture in pictures.items()
    }
    return StereoArrival(textures, result.report)


def _kept(texture: Texture, name: str, options: dict[str, Any]) -> Texture:
    """The texture, written into the folder of `options` when there is one."""
    folder = options.get("folder") or ""
    if not folder:
        return texture
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        return replace(texture, path=_written(Path(folder), name, texture))
    except OSError as error:
        raise StorageFailed(
            f"The picture cannot be written to {folder}: {error.strerror or error}.",
            "Choose Packed for the picture, then Fetch Again in the history.",
        ) from None


def _written(folder: Path, name: str, texture: Texture) -> Path:
    """A new file: none that is there is overwritten, whatever else writes there now."""
    stem = "".join(letter if letter.isalnum() or letter in " -_." else "_" for letter in name)
    number = 1
    while True:
        ending = f"-{number}" if number > 1 else ""
        path = folder / f"{stem.strip(' .') or 'panorama'}{ending}{texture.suffix}"
        try:
            with path.open("xb") as file:
                file.write(texture.data)
        except FileExistsError:
            number += 1
        else:
            return path
