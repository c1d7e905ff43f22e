"""`run` for the tasks that make views: a folder of pictures with transforms.json, or one .npz."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .errors import BadInput, FieldforgeError, NotFound, StorageFailed
from .protocol import (
    ImageToViews,
    Result,
    TextToViews,
    ViewsResult,
    ViewsToScene,
    ring_poses,
)

MADE = (ImageToViews.kind, TextToViews.kind)
"""The kinds of tasks that make views."""
REPORT = "views.json"
"""Beside transforms.json, how they were made; so a folder of ours is known."""
_LONGEST = 1024
"""Pixels: larger pictures are reduced when they are read."""
_USUAL_SIDE = 256
"""Pixels of views by a model that only a server knows."""

Fields = dict[str, Any]


# ------------------------------------------------------------------------------------------- input


def read_image_to_views(options: argparse.Namespace, fields: Fields) -> ImageToViews:
    """One picture; or views with known cameras (a transforms.json or its folder), to which further
    cameras are added: those of --poses, or a ring."""
    paths = [Path(name) for name in options.input]
    if len(paths) != 1:
        raise BadInput(
            f"image-to-views takes one picture, or one folder of views; {len(paths)} were given.",
            "Give photo.png, or a folder with transforms.json.",
        )
    path = paths[0]
    shared = {**_shared(options, fields), "name": path.stem[:255] or "Views"}
    words = {"prompt": options.prompt or "", "background": options.background}
    if path.is_dir() or path.suffix.lower() == ".json":
        return ImageToViews(**{**shared, **words, **_with_cameras(path, options)})
    from .conditions import picture_files

    image = picture_files.read_image(path)
    if options.poses is None:
        return ImageToViews(images=image[None], **shared, **words, **_ring(options))
    height, width = image.shape[:2]
    poses, intrinsics = _cameras_of(options.poses, width, height, options.field)
    lens: Fields = {"poses": poses, "intrinsics": intrinsics}
    return ImageToViews(images=image[None], **shared, **words, **lens)


def _with_cameras(path: Path, options: argparse.Namespace) -> Fields:
    """Given views and the cameras to add."""
    from . import posed_images

    posed = posed_images.read_transforms(path, field=options.field or None, longest=_LONGEST)
    height, width = posed.images.shape[1:3]
    if options.poses is not None:
        added, lenses = _cameras_of(options.poses, width, height, options.field)
    else:
        center = np.array(_center(options), np.float32)
        reach = float(np.linalg.norm(posed.poses[:, :3, 3] - center, axis=1).mean())
        elevation = 20.0 if options.elevation is None else options.elevation
        added = ring_poses(
            max(options.views or 10, 1),
            elevation,
            options.distance or reach,
            options.start,
            caps=options.caps,
        )
        added[:, :3, 3] += center
        lenses = np.repeat(posed.intrinsics[:1], len(added), axis=0)
    return {
        "images": posed.images,
        "poses": np.concatenate([posed.poses, added]),
        "intrinsics": np.concatenate([posed.intrinsics, lenses]),
    }


def read_text_to_views(options: argparse.Namespace, words: str, fields: Fields) -> TextToViews:
    """Words, and a ring or --poses."""
    shared = _shared(options, fields)
    name = " ".join(words.split())[:255] or "Text"
    if options.poses is None:
        return TextToViews(name=name, prompt=words, **shared, **_ring(options))
    side = options.size or _side_of(fields["model"])
    poses, intrinsics = _cameras_of(options.poses, side, side, options.field)
    return TextToViews(
        name=name,
        prompt=words,
        **{**shared, "size": side, "poses": poses, "intrinsics": intrinsics},
    )


def _side_of(name: str) -> int:
    """Pixels of the views of a model, "" for the best one, as far as this computer knows it."""
    from . import pipelines

    try:
        if name:
            size = {model.id: model.view_size for model in pipelines.models()}.get(name)
        else:
            size = pipelines.model_for(TextToViews(prompt="a thing")).view_size
    except FieldforgeError:  # there may be one on a server
        size = 0
    return size or _USUAL_SIDE


def read_views_to_scene(options: argparse.Namespace, fields: Fields) -> ViewsToScene:
    """A transforms.json, or the folder that has it."""
    from . import posed_images

    if len(options.input) != 1:
        raise BadInput(
            f"views-to-scene takes one folder of views; {len(options.input)} were given.",
            "Give a transforms.json, or the folder that has it.",
        )
    path = Path(options.input[0])
    posed = posed_images.read_transforms(path, field=options.field or None, longest=_LONGEST)
    return ViewsToScene(
        name=(path.parent if path.suffix else path).resolve().name[:255] or "Views",
        model=fields["model"],
        seed=fields["seed"],
        images=posed.images,
        depths=posed.depths,
        poses=posed.poses,
        intrinsics=posed.intrinsics,
        background=options.background,
        center=_center(options),
        extent=options.extent or 0.0,
        resolution=256 if options.resolution is None else options.resolution,
        texture=not options.no_texture,
        texture_size=options.texture_size,
    )


def _shared(options: argparse.Namespace, fields: Fields) -> Fields:
    """What both tasks have."""
    known = {name: fields[name] for name in ("model", "seed", "steps", "guidance", "preview")}
    return {
        **known,
        "center": _center(options),
        "extent": options.extent or 2.0,
        "size": options.size,
        "path": options.path,
    }


def _ring(options: argparse.Namespace) -> Fields:
    return {
        "views": options.views,
        "elevation": options.elevation,
        "radius": options.distance,
        "start": options.start,
        "caps": options.caps,
        "field": options.field,
    }


def _center(options: argparse.Namespace) -> tuple[float, float, float]:
    try:
        x, y, z = (float(part) for part in options.center.split(","))
    except ValueError:
        raise BadInput(
            f"The middle {options.center!r} is no place.", "Give three numbers: --center 0,0,1"
        ) from None
    return x, y, z


def _cameras_of(path: Path, width: int, height: int, field: float) -> tuple[np.ndarray, np.ndarray]:
    """Poses and intrinsics of a transforms.json, as of pictures of width x height."""
    from . import posed_images

    return posed_images.read_cameras(path, width, height, field=field or None)


# ------------------------------------------------------------------------------------------ output


def check_output(options: argparse.Namespace) -> None:
    """Raise before any work is done where the output cannot be."""
    output: Path = options.output
    if options.variations != 1:
        raise BadInput(
            "Views are made of one seed at a time.", "Leave --variations out, and change --seed."
        )
    if output.suffix.lower() == ".npz":
        if output.is_dir():
            raise BadInput(f"{output} is a folder.", "Give the name of a file in it.")
    elif output.suffix and not output.is_dir():
        raise BadInput(
            f"{options.task} makes no {output.suffix} file.",
            "Give a folder, which gets the pictures and transforms.json, or a .npz file.",
        )
    elif output.is_dir() and (other := _not_ours(output)):
        raise BadInput(
            f"The folder {output} has other files in it ({other}), which would be lost.",
            "Give an empty one, or a new name.",
        )
    elif output.exists() and not output.is_dir():
        raise BadInput(f"{output} is a file.", "Give the name of a folder.")
    if not output.absolute().parent.is_dir():
        raise NotFound(
            f"There is no folder {output.absolute().parent}.", "Make it, or choose another one."
        )


def _not_ours(folder: Path) -> str:
    """The first file in it, if any, that is none of earlier views, which may be replaced."""
    ours: set[str] = set()
    if (folder / REPORT).is_file():
        ours = {REPORT, "transforms.json", "images", "depths"}
    for place, suffix in ((folder, ""), (folder / "images", ".png"), (folder / "depths", ".npy")):
        for path in sorted(place.iterdir()) if place.is_dir() else ():
            if path.name in (".DS_Store", "Thumbs.db"):  # which file managers leave behind
                continue
            numbered = path.stem.isdecimal() and path.suffix == suffix
            if not (numbered if suffix and ours else path.name in ours):
                return str(path.relative_to(folder))
    return ""


def write(output: Path, result: Result, report: Fields) -> None:
    """A folder of pictures with transforms.json, or a .npz of all arrays; whole or not at all."""
    if not isinstance(result, ViewsResult):
        raise BadInput("The result is no set of views.", "Update the backend.")
    if output.suffix.lower() == ".npz":
        from .geometry import mesh_files

        mesh_files.write_bytes(output, mesh_files.npz_bytes(_arrays(result)))
        return
    from . import posed_images

    with _replaced_folder(output) as folder:
        posed = posed_images.PosedImages(
            result.images,
            result.poses,
            result.intrinsics,
            tuple(f"{number:03d}" for number in range(len(result.images))),
            result.depths,
        )
        posed_images.write_transforms(folder, posed)
        facts = {"given": result.given, "view_kind": result.view_kind, "cameras": result.cameras}
        text = json.dumps({**facts, **report}, indent=1, default=float)
        (folder / REPORT).write_text(text + "\n", encoding="utf-8")


def _arrays(result: ViewsResult) -> dict[str, np.ndarray]:
    arrays = {
        "images": result.images,
        "poses": result.poses,
        "intrinsics": result.intrinsics,
        "given": np.array(result.given),
    }
    return arrays if result.depths is None else {**arrays, "depths": result.depths}


@contextlib.contextmanager
def _replaced_folder(output: Path) -> Iterator[Path]:
    """A new folder beside `output` that takes its place at the end, or is removed."""
    output = output.absolute()
    try:
        partial = Path(tempfile.mkdtemp(prefix=".fieldforge-", dir=output.parent))
        try:
            yield partial
            partial.chmod(0o755)  # mkdtemp keeps others out
            if output.is_dir():  # of ours, or empty: see check_output
                old = Path(tempfile.mkdtemp(prefix=".fieldforge-", dir=output.parent))
                os.replace(output, old / "old")
                os.replace(partial, output)
                shutil.rmtree(old, ignore_errors=True)
            else:
                os.replace(partial, output)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise StorageFailed(
            f"The views cannot be written to {output} ({error.strerror or error}).",
            "Choose a folder of your own for the output.",
        ) from error


def tell(output: Path, result: Result, report: Fields, *, as_json: bool) -> None:
    """Say on stdout what was written, and on stderr what an artist should know of it."""
    if as_json:
        print(json.dumps({"output": str(output), **report}, default=float))
        return
    assert isinstance(result, ViewsResult)  # noqa: S101 - it was just written
    count, height, width = result.images.shape[:3]
    print(
        f"{output}: {count} views of {width} x {height}, {report['total_seconds']:.1f} s"
        f" ({report['model']}, {report['device']})"
    )
    for note in report.get("notes", ()):
        print(note, file=sys.stderr)
