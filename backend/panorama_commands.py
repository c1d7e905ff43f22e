"""`run` for the tasks about panoramas: which files they may become, and how these are written."""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .depth_meanings import DepthMeaning, radii
from .errors import BadInput
from .protocol import (
    PanoramaResult,
    PanoramaToDepth,
    PanoramaToSphere,
    PanoramaToStereo,
    Result,
    SphereResult,
    StereoResult,
    TextToPanorama,
    encode_result,
)

Report = Callable[[str, float], None]

SUFFIXES: dict[str, tuple[str, ...]] = {
    PanoramaToSphere.kind: (".glb", ".blend", ".npz"),
    PanoramaToStereo.kind: (".png",),
    PanoramaToDepth.kind: (".exr", ".npy", ".npz", ".png"),
    TextToPanorama.kind: (".glb", ".blend", ".npz", ".png"),
}


def check_output(options: argparse.Namespace) -> None:
    """Raise BadInput for a file that the task cannot become, before any work is done."""
    suffixes = SUFFIXES[options.task]
    if options.output.suffix.lower() not in suffixes:
        raise BadInput(
            f"{options.task} makes no {options.output.suffix or 'file without a suffix'}.",
            f"Use one of {', '.join(suffixes)}.",
        )
    if options.output.is_dir():
        raise BadInput(f"{options.output} is a folder.", "Give the name of a file in it.")


def outputs_of(options: argparse.Namespace) -> list[Path]:
    """Which files come about: two for separate eyes, and for a picture of which depth is known."""
    path: Path = options.output
    if options.task == PanoramaToStereo.kind and options.eyes == "separate":
        return [path.with_name(f"{path.stem}-{side}{path.suffix}") for side in ("left", "right")]
    if options.task == TextToPanorama.kind and path.suffix.lower() == ".png":
        return [path, path.with_name(f"{path.stem}-depth{path.suffix}")]
    return [path]


def write(paths: list[Path], result: Result, report: Report) -> list[str]:
    """Write a result to the files of `outputs_of`. Returns what a person should know of it."""
    suffix = paths[0].suffix.lower()
    if isinstance(result, SphereResult):
        _write_sphere(paths[0], suffix, result, report)
    elif isinstance(result, StereoResult):
        _write_stereo(paths, result)
    elif isinstance(result, PanoramaResult):
        _write_panorama(paths, suffix, result)
    else:
        raise BadInput("The result is no panorama.", "Update the backend.")
    return _losses(suffix, result)


def _losses(suffix: str, result: Result) -> list[str]:
    """What the kind of file has no place for."""
    if suffix != ".png" or not isinstance(result, PanoramaResult) or result.depth is None:
        return []
    from .conditions import panoramas

    share = panoramas.beyond_levels(result.depth, result.meaning)
    if not share:
        return []
    return [
        f"{max(share, 0.001):.1%} of the depth is farther than {panoramas.FARTHEST:.1f} metres,"
        " where a .png of whole millimetres ends: it was written as that far. To keep it, write"
        " .exr or .npz."
    ]


def _write_sphere(path: Path, suffix: str, sphere: SphereResult, report: Report) -> None:
    if suffix == ".blend":
        from .blender_process import save_sphere

        report("Starting Blender", 1.0)
        with tempfile.TemporaryDirectory(prefix="fieldforge-") as folder:
            body = Path(folder) / "sphere.bin"
            body.write_bytes(encode_result(sphere))
            save_sphere(body, lambda stage, fraction, line: report(stage, fraction), blend=path)
        return
    from .geometry import mesh_files, sphere_files

    as_bytes = sphere_files.glb_bytes if suffix == ".glb" else sphere_files.npz_bytes
    mesh_files.write_bytes(path, as_bytes(sphere))


def _write_stereo(paths: list[Path], stereo: StereoResult) -> None:
    """Two files, or one with the left eye above the right one."""
    if len(paths) == 2:
        write_picture(paths[0], stereo.left)
        write_picture(paths[1], stereo.right)
    else:
        write_picture(paths[0], np.concatenate([stereo.left, stereo.right]))


def _write_panorama(paths: list[Path], suffix: str, panorama: PanoramaResult) -> None:
    from .geometry import mesh_files

    depth = panorama.depth
    if depth is None:
        raise BadInput("There is no depth to write.", "Choose another model.")
    if len(paths) == 2:
        image = panorama.image
        write_picture(paths[0], image if image.dtype == np.uint8 else _shown(image))
        _write_levels(paths[1], depth, panorama.meaning)
    elif suffix == ".png":
        _write_levels(paths[0], depth, panorama.meaning)
    elif suffix == ".exr":
        from .conditions.exr_writing import exr_bytes

        metres = radii(depth, panorama.meaning)  # the file has no place for what values mean
        metres = np.where(np.isfinite(depth), metres, depth)  # sky is not far away, it has none
        mesh_files.write_bytes(paths[0], exr_bytes(metres))
    elif suffix == ".npy":
        buffer = io.BytesIO()
        np.save(buffer, depth)
        mesh_files.write_bytes(paths[0], buffer.getvalue())
    else:
        meaning = np.array(json.dumps(panorama.meaning.to_dict()))
        arrays = {"image": panorama.image, "depth": depth, "meaning": meaning}
        mesh_files.write_bytes(paths[0], mesh_files.npz_bytes(arrays))


def _shown(light: np.ndarray) -> np.ndarray:
    from .geometry.panorama_views import as_bytes

    return as_bytes(light[..., :3], light)


def _write_levels(path: Path, depth: np.ndarray, meaning: DepthMeaning) -> None:
    """Depth as a .png of 16 bits that says what it means."""
    from .conditions import panoramas

    text = {panoramas.DEPTH_TEXT: json.dumps(meaning.to_dict())}
    write_picture(path, panoramas.depth_levels(depth, meaning), text)


def write_picture(path: Path, image: np.ndarray, text: dict[str, str] | None = None) -> None:
    """image: (H, W) uint16, (H, W, 3 or 4) uint8. A .png file, with `text` in it."""
    from PIL import Image, PngImagePlugin

    from .geometry import mesh_files

    buffer = io.BytesIO()
    info = PngImagePlugin.PngInfo()
    for keyword, words in (text or {}).items():
        info.add_text(keyword, words)
    picture = Image.fromarray(np.ascontiguousarray(image))
    picture.save(buffer, "PNG", compress_level=4, pnginfo=info)
    mesh_files.write_bytes(path, buffer.getvalue())


def tell(outputs: list[Path], result: Result, report: dict[str, Any], *, as_json: bool) -> None:
    """Say on stdout what was written, and on stderr what an artist should know of it."""
    names = [str(path) for path in outputs]
    if as_json:
        several = {"outputs": names} if len(names) > 1 else {}
        print(json.dumps({"output": names[0], **several, **report}, default=float))
        return
    print(
        f"{', '.join(names)}: {_size(result)}, {report['total_seconds']:.1f} s"
        f" ({report['model']}, {report['device']})"
    )
    for note in report.get("notes", ()):
        print(note, file=sys.stderr)


def _size(result: Result) -> str:
    if isinstance(result, SphereResult):
        vertices = sum(len(layer.values) for layer in result.layers)
        faces = sum(layer.quads + layer.triangles for layer in result.layers)
        layers = " + ".join(layer.layer for layer in result.layers)
        return f"{vertices:,} vertices, {faces:,} faces ({layers})"
    if isinstance(result, StereoResult):
        height, width = result.left.shape[:2]
        return f"{width} x {height} for each eye"
    assert isinstance(result, PanoramaResult)  # noqa: S101 - the others were told above
    height, width = result.image.shape[:2]
    return f"{width} x {height}"
