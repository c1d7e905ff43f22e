"""The command line's options and input files -> a task.

Imported by the command line, not by the server: what reads a kind of file is imported when such a
file is read.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from . import fields_commands, pipelines, views_commands
from .errors import BadInput, NotFound
from .protocol import (
    MAX_NAME_LENGTH,
    Animation,
    DepthMeaning,
    DepthToMesh,
    FieldToMesh,
    ImageToMesh,
    ImageToViews,
    MeshToField,
    PanoramaToDepth,
    PanoramaToSphere,
    PanoramaToStereo,
    PointsToMesh,
    Shape,
    SketchToMesh,
    Task,
    TextToMesh,
    TextToPanorama,
    TextToViews,
    ViewsToMesh,
    ViewsToScene,
    VoxelsToMesh,
    is_latent,
)

Fields = dict[str, Any]

_DEPTH_SUFFIXES = (".exr", ".npy")  # pictures of these can be nothing but depth


def read_task(options: argparse.Namespace) -> Task:
    """Raises BadInput, NotFound, TooLarge."""
    return READERS[options.task](options, _shared(options))


def _shared(options: argparse.Namespace) -> Fields:
    """The fields of every task."""
    fields: Fields = {
        "seed": options.seed,
        "steps": options.steps,
        "guidance": options.guidance,
        "variations": options.variations,
        "preview": options.preview is not None,
        "as_published": options.as_published,
        "up_axis": options.up_axis,
        **_region(options),
    }
    fields["model"] = options.model or ""  # the default for the task, whatever it is
    return fields


def _region(options: argparse.Namespace) -> Fields:
    if options.keep is None and options.region is None:
        return {}
    if options.keep is None or options.region is None:
        raise BadInput(
            "--keep and --region belong together: an earlier result, and the box in it to make"
            " anew.",
            "Give both, for example: --keep chair.npz --region -1,-1,0,1,1,1",
        )
    return {"latent": read_latent(options.keep), "region": box_matrix(options.region)}


def read_latent(path: Path) -> np.ndarray:
    """What the shape in a result (.npz) was decoded from, (C, 12, 12, 12) float32."""
    if not path.is_file():
        raise NotFound(f"There is no file {path}.", "Give a result that was written as .npz.")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            latent = arrays["latent"] if "latent" in arrays.files else None
    except (OSError, ValueError, EOFError, AttributeError, KeyError) as error:
        raise BadInput(
            f"{path.name} cannot be read as a result: {error}.",
            "Give a result that was written as .npz.",
        ) from None
    if latent is None or not is_latent(latent):
        raise BadInput(
            f"{path.name} is no generated shape.",
            "Give a result of a model that generates, written as .npz.",
        )
    return latent.astype(np.float32)


def box_matrix(text: str) -> np.ndarray:
    """ "x0,y0,z0,x1,y1,z1" -> (4, 4) float64 from the box [-1, 1]^3 to that box."""
    try:
        numbers = np.array([float(part) for part in text.split(",")])
    except ValueError:
        numbers = np.zeros(0)
    if numbers.shape != (6,) or not np.isfinite(numbers).all():
        raise BadInput(
            f"The region {text!r} is not a box.",
            "Give two corners as six numbers: --region x0,y0,z0,x1,y1,z1",
        )
    low, high = np.minimum(numbers[:3], numbers[3:]), np.maximum(numbers[:3], numbers[3:])
    matrix = np.diag([*(high - low) / 2, 1.0])
    matrix[:3, 3] = (low + high) / 2
    return matrix


# ----------------------------------------------------------------------------------------- by task


def read_points(options: argparse.Namespace, fields: Fields) -> PointsToMesh:
    """A file of points; see `mesh_files.read_points`."""
    return read_points_task(_one_file(options), {**fields, **_solved(options)})


def read_points_task(path: Path, fields: Fields) -> PointsToMesh:
    """The points of a file as a task of its name."""
    from .geometry import mesh_files  # here, so that `serve` starts without its compiled code

    cloud = mesh_files.read_points(path)
    return PointsToMesh(
        points=cloud.points,
        normals=cloud.normals,
        colors=cloud.colors,
        **{"name": _named(path), **fields},
    )


def read_voxels(options: argparse.Namespace, fields: Fields) -> VoxelsToMesh:
    """A file of voxels; see `mesh_files.read_voxels`."""
    from .geometry import mesh_files

    path = _one_file(options)
    voxels = mesh_files.read_voxels(path)
    return VoxelsToMesh(
        name=_named(path),
        occupancy=voxels.occupancy,
        origin=_triple(voxels.origin),
        voxel_size=_triple(voxels.voxel_size),
        **fields,
        **_solved(options),
    )


def read_image(options: argparse.Namespace, fields: Fields) -> ImageToMesh:
    """A picture of any kind that Pillow reads."""
    from .conditions import picture_files

    path = _one_file(options)
    image = picture_files.read_image(path)
    return ImageToMesh(name=_named(path), image=image, background=options.background, **fields)


def read_sketch(options: argparse.Namespace, fields: Fields) -> SketchToMesh:
    """A picture of a drawing."""
    from .conditions import picture_files

    path = _one_file(options)
    return SketchToMesh(name=_named(path), image=picture_files.read_image(path), **fields)


def read_depth(options: argparse.Namespace, fields: Fields) -> DepthToMesh:
    """A depth picture; what its numbers mean is guessed unless an option says it."""
    path = _one_file(options)
    depth, encoding = _depth_of(path, options)
    return DepthToMesh(name=_named(path), depth=depth, encoding=encoding, **fields)


def read_views(options: argparse.Namespace, fields: Fields) -> ViewsToMesh:
    """One file for each view, from --cameras, or in the order of the cameras of the model."""
    paths = [Path(name) for name in options.input]
    if not paths:
        raise BadInput("views-to-mesh takes several files.", "Give one file for each view.")
    fields = {"name": _named(paths[0]), "cameras": view_numbers(options.cameras), **fields}
    if _are_depths(paths, options):
        found = [_depth_of(path, options) for path in paths]
        encodings = {encoding for _, encoding in found}
        if len(encodings) > 1:
            raise BadInput(
                f"The depth pictures seem to be of several kinds: {', '.join(sorted(encodings))}.",
                "Say which with --depth-encoding.",
            )
        depths = _stacked([depth for depth, _ in found], paths)
        return ViewsToMesh(depths=depths, encoding=encodings.pop(), **fields)
    from .conditions import picture_files

    images = [_with_alpha(picture_files.read_image(path)) for path in paths]
    if all(image[..., 3].min() == 255 for image in images):
        images = [image[..., :3] for image in images]
    return ViewsToMesh(
        images=_stacked(images, paths),
        background=options.background,
        texture=not options.no_texture,
        texture_size=options.texture_size,
        **fields,
    )


def view_numbers(text: str | None) -> tuple[int, ...] | None:
    """ "3,10" -> (3, 10)."""
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise BadInput(
            f"The cameras {text!r} are no numbers.",
            "Name one for each view, with commas between: --cameras 3,10,49",
        ) from None


def read_text(options: argparse.Namespace, fields: Fields) -> TextToMesh:
    """The words, as --prompt or in place of a file."""
    words = _words(options)
    return TextToMesh(name=_short(words), prompt=words, **fields)


def read_nothing(options: argparse.Namespace, fields: Fields) -> Shape:
    """No input at all."""
    if options.input:
        raise BadInput("shape takes no input.", "Leave the file out, or choose another task.")
    return Shape(name="Shape", **fields)


def read_panorama(options: argparse.Namespace, fields: Fields) -> Task:
    """A panorama: picture and, unless a model shall tell it, depth."""
    from .conditions import panoramas

    if options.task == PanoramaToDepth.kind:
        path = _one_file(options)
        image = panoramas.read_picture(path)
        return PanoramaToDepth(image=image, **_surroundings(options, path))
    path, depth_path = _picture_and_depth(options)
    if depth_path is None and panoramas.has_depth(path):
        depth_path = path
    depth, stated = None, None
    if depth_path is not None:
        depth, stated = panoramas.read_told_depth(depth_path)
    meaning = _meaning(options, depth, stated)
    if depth is not None and meaning.meaning == "metric":
        depth = panoramas.metric_levels_in_metres(depth)
    fields = {
        **_surroundings(options, path),
        "model": options.model or PanoramaToSphere.model,
        "image": panoramas.read_picture(path),
        "depth": depth,
        "depth_model": options.depth_model,
        "meaning": meaning,
        "width": options.width,
        "edges": options.edges,
    }
    if options.task == PanoramaToStereo.kind:
        return PanoramaToStereo(interocular=options.interocular, **fields)
    return PanoramaToSphere(**fields)


def read_panorama_text(options: argparse.Namespace, fields: Fields) -> TextToPanorama:
    """Words for a panorama; a picture as output leaves it at that."""
    words = _words(options)
    return TextToPanorama(
        name=_short(words),
        prompt=words,
        negative=options.negative,
        **{name: fields[name] for name in ("model", "seed", "steps", "guidance", "preview")},
        sphere=options.output.suffix.lower() != ".png",
        width=options.picture_width,
        height=options.picture_height,
        meaning=_told_meaning(options),
        mesh_width=options.width,
        edges=options.edges,
    )


def read_text_to_views(options: argparse.Namespace, fields: Fields) -> Task:
    """See `views_commands.read_text_to_views`."""
    return views_commands.read_text_to_views(options, _words(options), fields)


READERS: dict[str, Callable[[argparse.Namespace, Fields], Task]] = {
    PointsToMesh.kind: read_points,
    VoxelsToMesh.kind: read_voxels,
    ImageToMesh.kind: read_image,
    SketchToMesh.kind: read_sketch,
    DepthToMesh.kind: read_depth,
    ViewsToMesh.kind: read_views,
    TextToMesh.kind: read_text,
    Shape.kind: read_nothing,
    PanoramaToSphere.kind: read_panorama,
    PanoramaToStereo.kind: read_panorama,
    PanoramaToDepth.kind: read_panorama,
    TextToPanorama.kind: read_panorama_text,
    ImageToViews.kind: views_commands.read_image_to_views,
    TextToViews.kind: read_text_to_views,
    ViewsToScene.kind: views_commands.read_views_to_scene,
    MeshToField.kind: fields_commands.read_mesh_to_field,
    FieldToMesh.kind: fields_commands.read_field_to_mesh,
    Animation.kind: fields_commands.read_animation,
}


# ------------------------------------------------------------------------------------------- parts


def _one_file(options: argparse.Namespace) -> Path:
    if len(options.input) != 1:
        given = f"{len(options.input)} were given" if options.input else "none was given"
        raise BadInput(f"{options.task} takes one file; {given}.", "Run it once for each file.")
    return Path(options.input[0])


def _picture_and_depth(options: argparse.Namespace) -> tuple[Path, Path | None]:
    """The panorama, and the file of its depth: --depth or the second input, if any."""
    paths = [Path(name) for name in options.input]
    if options.depth is not None:
        paths.append(options.depth)
    if not 1 <= len(paths) <= 2:
        given = f"{len(paths)} files were given" if paths else "no file was given"
        raise BadInput(
            f"{options.task} takes a panorama and its depth; {given}.",
            "Give the picture, then the depth: room.jpg --depth room.exr",
        )
    return paths[0], paths[1] if len(paths) == 2 else None


def _surroundings(options: argparse.Namespace, path: Path) -> Fields:
    """What all tasks about a panorama have."""
    return {
        "name": _named(path),
        "model": options.model,
        "seed": options.seed,
        "aspect": options.aspect,
        "field_of_view": options.field_of_view,
    }


def _meaning(
    options: argparse.Namespace, depth: np.ndarray | None, stated: DepthMeaning | None
) -> DepthMeaning:
    """What the depth's values mean: as the options say, the rest as its file states, or else as its
    numbers look."""
    from .conditions import panoramas

    if stated is not None:
        return dataclasses.replace(stated, **_told(options))
    guessed = DepthMeaning() if depth is None else panoramas.guessed_meaning(depth)
    if options.depth_meaning is None and (options.near or options.far):
        guessed = DepthMeaning(meaning="inverse")
    return dataclasses.replace(guessed, **_told(options))


def _told_meaning(options: argparse.Namespace) -> DepthMeaning | None:
    """None when the options say nothing."""
    told = _told(options)
    return DepthMeaning(**told) if told else None


def _told(options: argparse.Namespace) -> Fields:
    given = {
        "meaning": options.depth_meaning,
        "inverted": options.inverted or None,
        "near": options.near,
        "far": options.far,
        "radius": options.radius,
        "strength": options.strength,
        "scale": options.depth_scale,
        "offset": options.depth_offset,
    }
    return {name: value for name, value in given.items() if value is not None}


def _words(options: argparse.Namespace) -> str:
    """The text of a task, given as --prompt or in place of files."""
    if options.prompt is not None and options.input:
        raise BadInput(
            "The text was given twice, as --prompt and without.", "Give it once, in quotes."
        )
    return " ".join(options.input) if options.prompt is None else options.prompt


def _short(words: str) -> str:
    return " ".join(words.split())[:MAX_NAME_LENGTH] or "Text"


def _named(path: Path) -> str:
    return path.stem[:MAX_NAME_LENGTH] or "Fieldforge"


def _solved(options: argparse.Namespace) -> Fields:
    resolution = 256 if options.resolution is None else options.resolution
    return {"resolution": resolution, "refine": options.refine}


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z


def _depth_of(path: Path, options: argparse.Namespace) -> tuple[np.ndarray, str]:
    from .conditions import picture_files

    depth, encoding = picture_files.read_depth(path)
    return depth, options.depth_encoding or encoding


def _are_depths(paths: list[Path], options: argparse.Namespace) -> bool:
    """By the option, the files, and then the model that will look at them."""
    if options.depth_encoding or all(path.suffix.lower() in _DEPTH_SUFFIXES for path in paths):
        return True
    able = [model for model in pipelines.models() if ViewsToMesh.kind in model.tasks]
    if options.model:
        chosen = [model for model in able if model.id == options.model]
    else:
        chosen = [model for model in able if ViewsToMesh.kind in model.default_for]
    return bool(chosen) and all(model.view_kind == "depth" for model in chosen)


def _with_alpha(image: np.ndarray) -> np.ndarray:
    if image.shape[2] == 4:
        return image
    return np.concatenate([image, np.full_like(image[..., :1], 255)], axis=2)


def _stacked(views: list[np.ndarray], paths: list[Path]) -> np.ndarray:
    first = views[0].shape[:2]
    for view, path in zip(views, paths, strict=True):
        if view.shape[:2] != first:
            raise BadInput(
                f"{path.name} has {view.shape[1]} x {view.shape[0]} pixels, {paths[0].name}"
                f" {first[1]} x {first[0]}.",
                "Give views of one size.",
            )
    return np.stack(views)
