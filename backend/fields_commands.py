"""`run` for neural fields and what moves: meshes and sequences of them in, .ffield and .glb out."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import field_files, moving_meshes
from .errors import BadInput, NotFound, TooLarge
from .neural_fields import NeuralField, check_fps, playable_fps
from .protocol import (
    MAX_NAME_LENGTH,
    MAX_VARIATIONS,
    Animation,
    AnimationResult,
    FieldResult,
    FieldToMesh,
    MeshToField,
    Result,
    Task,
    animations_of,
    turned_up,
)

Fields = dict[str, Any]

RESOLUTION = 128
_NETWORKS = (".pth", ".pt")  # of one field, as HyperDiffusion saves them
_MESHES = (".obj", ".ply")  # of which there is one for each frame
_SUFFIXES = {
    MeshToField.kind: (field_files.SUFFIX, ".glb", ".npz", *_MESHES),
    FieldToMesh.kind: (".glb", ".npz", field_files.SUFFIX, *_MESHES),
    Animation.kind: (".glb", ".npz", field_files.SUFFIX, *_MESHES),
}


# ------------------------------------------------------------------------------------------- input


def read_mesh_to_field(options: argparse.Namespace, fields: Fields) -> MeshToField:
    """One mesh; the file or the folder of a sequence; or several files, one for each frame."""
    paths = _files_of(options)
    if options.fps is not None:
        check_fps(options.fps)  # before all of them are read
    frames, total, name = _frames(paths, options.frames)
    return MeshToField(
        name=name,
        model=fields["model"] or MeshToField.model,
        seed=fields["seed"],
        **moving_meshes.joined(frames),
        # Some of all frames take the time of all.
        fps=playable_fps(24.0 * len(frames) / total) if options.fps is None else options.fps,
        loop=options.loop,
        effort=options.effort,
        half=options.half,
        up_axis=fields["up_axis"],
        **_surface(options, len(frames) > 1),
    )


def _files_of(options: argparse.Namespace) -> list[Path]:
    paths = [Path(name) for name in options.input]
    if len(paths) == 1 and paths[0].is_dir():
        from .geometry.mesh_files import MESH_READERS

        inside = [path for path in paths[0].iterdir() if path.suffix.lower() in MESH_READERS]
        if not inside:
            raise BadInput(
                f"The folder {paths[0]} holds no meshes.",
                "Give one with a mesh for each frame: walk-001.obj, walk-002.obj, ..",
            )
        return sorted(inside, key=_in_order)
    if not paths:
        raise BadInput(
            "mesh-to-field takes a mesh; none was given.",
            "Give chair.obj, walk.anime, or a file for each frame.",
        )
    return paths


def _in_order(path: Path) -> list[Any]:
    """walk-9 before walk-10."""
    return [
        (0, int(part), "") if part.isdecimal() else (1, 0, part)
        for part in re.split(r"(\d+)", path.name)
        if part
    ]


def _frames(paths: Sequence[Path], wanted: int) -> tuple[list[moving_meshes.Mesh], int, str]:
    """The frames that are wanted, of how many, and a name. Raises TooLarge before frames are read
    that do not fit into a field."""
    name = paths[0].stem[:MAX_NAME_LENGTH] or "Mesh"
    if len(paths) == 1 and paths[0].suffix.lower() == ".anime":
        from .geometry import anime
        from .models.hyperdiffusion.occupancy import frame_numbers

        total = anime.frame_count(paths[0])
        numbers = frame_numbers(total, wanted or 16)
        _check_frame_count(len(numbers))
        found = anime.read(paths[0], numbers)
        return [(vertices, found.faces) for vertices in found.vertices], total, name
    from .geometry import mesh_files

    total = len(paths)
    if wanted and wanted < total:
        chosen = np.linspace(0, len(paths), wanted, endpoint=False).astype(int)
        paths = [paths[number] for number in chosen]
    _check_frame_count(len(paths))
    frames = []
    for path in paths:
        mesh = mesh_files.read_mesh(path)
        if not len(mesh.faces):
            raise BadInput(
                f"{path.name} has points but no faces.",
                "Make a mesh of them first: run points-to-mesh.",
            )
        frames.append((mesh.points.astype(np.float32), mesh.faces))
        moving_meshes.check_together(
            sum(len(vertices) for vertices, _ in frames), sum(len(faces) for _, faces in frames)
        )
    return frames, total, name


def _check_frame_count(count: int) -> None:
    if count > moving_meshes.MAX_FRAMES:
        raise TooLarge(
            f"{count} frames are more than the {moving_meshes.MAX_FRAMES} that one field holds.",
            "Take some of them, spread evenly over all: --frames 16",
        )


def read_field_to_mesh(options: argparse.Namespace, fields: Fields) -> FieldToMesh:
    """One .ffield file, or two to mix."""
    paths = [Path(name) for name in options.input]
    if not 1 <= len(paths) <= 2:
        raise BadInput(
            f"field-to-mesh takes one field, or two to mix; {len(paths)} were given.",
            "Give chair.ffield, or chair.ffield table.ffield --between 9",
        )
    found = [_field_of(path) for path in paths]
    return FieldToMesh.of(
        *[neural for neural, _ in found],
        amounts=_amounts(options, len(paths)),
        name=" to ".join(name for _, name in found)[:MAX_NAME_LENGTH],
        model=fields["model"] or FieldToMesh.model,
        seed=fields["seed"],
        **_surface(options, found[0][0].moves and options.amounts is None and len(paths) == 1),
    )


def _field_of(path: Path) -> tuple[NeuralField, str]:
    if path.suffix.lower() in _NETWORKS:
        return _network_of(path), path.stem[:MAX_NAME_LENGTH] or "Field"
    if path.suffix.lower() != field_files.SUFFIX:
        raise BadInput(
            f"{path.name} is no neural field.",
            "Give a .ffield file, or a .pth that HyperDiffusion saved of one shape.",
        )
    return field_files.read(path)


def _network_of(path: Path) -> NeuralField:
    """A state dict of one field. Nothing in the file is run."""
    import torch

    from .checkpoints import Checkpoint
    from .models.hyperdiffusion.model import FRAMES
    from .models.hyperdiffusion.weights_vector import field_of, flatten

    if not path.is_file():
        raise NotFound(f"There is no file {path}.", "Check its name.")
    checkpoint = Checkpoint(path)
    tensors = {}
    for name, stored in checkpoint.state_dict().items():
        data = bytearray().join(checkpoint.lazy(stored, "F32").pieces())
        tensors[name] = torch.from_numpy(np.frombuffer(data, "<f4").reshape(stored.shape).copy())
    config = field_of(tensors)
    return NeuralField(
        weights=flatten(config, tensors).numpy(),
        dimensions=config.dimensions,
        frequencies=config.frequencies,
        hidden=config.hidden,
        frame_count=FRAMES if config.dimensions == 4 else 1,
    )


def _amounts(options: argparse.Namespace, fields: int) -> np.ndarray:
    if options.amounts is not None and options.between is not None:
        raise BadInput("Both --amounts and --between were given.", "Give one of them.")
    if options.amounts is not None:
        try:
            return np.array([float(part) for part in options.amounts.split(",")], np.float32)
        except ValueError:
            raise BadInput(
                f"The amounts {options.amounts!r} are no numbers.",
                "Give numbers from 0 to 1 with commas between: --amounts 0,0.5,1",
            ) from None
    if fields == 1:
        return np.zeros(1, np.float32)
    between = 9 if options.between is None else options.between
    if between < 1:
        raise BadInput(f"{between} shapes between two cannot be made.", "Use 1 or more.")
    return np.linspace(0, 1, between + 2, dtype=np.float32)


def read_animation(options: argparse.Namespace, fields: Fields) -> Animation:
    """No input at all."""
    if options.input:
        raise BadInput(
            "animation takes no input.", "Leave the file out; --choice says what shall move."
        )
    return Animation(
        name=options.choice[:MAX_NAME_LENGTH] or "Animation",
        **{name: fields[name] for name in ("model", "seed", "steps", "variations", "up_axis")},
        choice=options.choice,
        frames=options.frames,
        fps=0.0 if options.fps is None else options.fps,
        **_surface(options, moves=True),
    )


def _surface(options: argparse.Namespace, moves: bool) -> Fields:
    """One mesh with morph targets is what programs play best, so a .glb has that where it can."""
    topology = options.topology
    if topology is None:
        topology = "one" if moves and options.output.suffix.lower() == ".glb" else "frames"
    resolution = RESOLUTION if options.resolution is None else options.resolution
    return {"resolution": resolution, "topology": topology}


# ------------------------------------------------------------------------------------------ output


def check_output(options: argparse.Namespace) -> None:
    """Raise before any work is done where the output cannot be."""
    output: Path = options.output
    known = _SUFFIXES[options.task]
    if output.suffix.lower() not in known:
        raise BadInput(
            f"{options.task} makes no {output.suffix or 'file without a suffix'}.",
            f"Use one of {', '.join(known)}.",
        )
    if output.is_dir():
        raise BadInput(f"{output} is a folder.", "Give the name of a file in it.")
    if options.variations != 1 and options.task != Animation.kind:
        raise BadInput(
            f"{options.task} has no variations.", "Leave --variations out, and change --seed."
        )
    if options.preview is not None:
        raise BadInput(f"{options.task} has no previews.", "Leave --preview out.")
    if options.task == FieldToMesh.kind and output.suffix.lower() == field_files.SUFFIX:
        _check_one_shape(options)


def _check_one_shape(options: argparse.Namespace) -> None:
    """A .ffield file has room for one of the shapes between two."""
    count = len(_amounts(options, len(options.input)))
    if len(options.input) == 2 and count != 1:
        raise BadInput(
            f"A {field_files.SUFFIX} file holds one field, not {count} shapes between two.",
            "Choose one of them: --amounts 0.5",
        )


def outputs_of(output: Path, task: Task) -> list[Path]:
    """One file; one for each variation, NAME-1; for each frame of an .obj or .ply, NAME-001."""
    names = [output]
    if isinstance(task, Animation) and task.variations > 1:
        numbers = range(1, min(task.variations, MAX_VARIATIONS) + 1)
        names = [output.with_name(f"{output.stem}-{k}{output.suffix}") for k in numbers]
    count = _mesh_count(task)
    if output.suffix.lower() not in _MESHES or count == 1:
        return names
    return [
        name.with_name(f"{name.stem}-{k:03}{name.suffix}")
        for name in names
        for k in range(1, count + 1)
    ]


def _mesh_count(task: Task) -> int:
    """How many meshes an animation of the result has at most."""
    if isinstance(task, MeshToField):
        return task.frame_count
    if isinstance(task, FieldToMesh):
        frames = task.frame_count if task.frames is None else len(task.frames)
        return len(task.amounts) * frames
    return (task.frames or 16) if isinstance(task, Animation) else 1


def write(partials: list[Path], result: Result, task: Task) -> None:
    """Write what `outputs_of` named; frames with nothing in them are left out.

    Raises BadInput where a result has no field or no mesh, StorageFailed.
    """
    animations = animations_of(result)
    if not animations:
        raise BadInput("The result holds nothing that moves.", "Update the backend.")
    share = len(partials) // len(animations)
    for number, animation in enumerate(animations):
        neural = result.neural if isinstance(result, FieldResult) else animation.neural
        own = partials[number * share : (number + 1) * share]
        WRITERS[own[0].suffix.lower()](own, animation, neural)


def _write_field(paths: list[Path], animation: AnimationResult, neural: NeuralField | None) -> None:
    from .geometry.mesh_files import write_bytes

    if neural is None:
        raise BadInput(
            "What lies between two fields by their surfaces is no field.",
            "Write it as .glb, or mix two fields that were made alike.",
        )
    write_bytes(paths[0], field_files.to_bytes(neural, animation.name))


def _write_glb(paths: list[Path], animation: AnimationResult, neural: NeuralField | None) -> None:
    from .geometry import gltf
    from .geometry.mesh_files import write_bytes

    name, fps = animation.name, animation.fps
    animation = _z_up(animation)
    if animation.one_topology:
        body = gltf.morphing_glb_bytes(
            animation.vertices, animation.faces, fps, loop=animation.loop, name=name
        )
    else:
        body = gltf.stepping_glb_bytes(animation.meshes(), fps, name=name)
    write_bytes(paths[0], body)


def _z_up(animation: AnimationResult) -> AnimationResult:
    """With z up, as the writers of .glb take meshes: what stands along y is turned."""
    if int(np.abs(animation.to_source[:3, 1]).argmax()) != 1:
        return animation
    turn = turned_up("z")[:3, :3].T.astype(np.float32)
    return dataclasses.replace(animation, vertices=animation.vertices @ turn)


def _write_arrays(
    paths: list[Path], animation: AnimationResult, neural: NeuralField | None
) -> None:
    from .geometry.mesh_files import npz_bytes, write_bytes

    names = ("vertices", "faces", "vertex_counts", "face_counts", "amounts", "to_source")
    arrays = {name: getattr(animation, name) for name in names}
    arrays["fps"] = np.array(animation.fps)
    if neural is not None:
        arrays["weights"] = neural.weights
    present = {name: array for name, array in arrays.items() if array is not None}
    write_bytes(paths[0], npz_bytes(present))


def _write_meshes(
    paths: list[Path], animation: AnimationResult, neural: NeuralField | None
) -> None:
    from .geometry import mesh_files

    for path, (vertices, faces) in zip(paths, animation.meshes(), strict=False):
        if len(faces):
            mesh_files.write_mesh(path, vertices, faces)


Writer = Callable[[list[Path], AnimationResult, NeuralField | None], None]
WRITERS: dict[str, Writer] = {
    field_files.SUFFIX: _write_field,
    ".glb": _write_glb,
    ".npz": _write_arrays,
    **dict.fromkeys(_MESHES, _write_meshes),
}


def facts(result: Result) -> Fields:
    """What a report says of the meshes: all of them together, and how many frames each has."""
    animations = animations_of(result)
    return {
        "vertices": sum(int(one.vertices.shape[-2]) for one in animations),
        "faces": sum(len(one.faces) for one in animations),
        "frames": max(len(one.meshes()) for one in animations),
        "one_topology": all(one.one_topology for one in animations),
    }


def tell(outputs: list[Path], report: Fields, *, as_json: bool) -> None:
    """Say on stdout what was written, and on stderr what an artist should know of it."""
    names = [str(path) for path in outputs]
    if as_json:
        several = {"outputs": names} if len(names) > 1 else {}
        print(json.dumps({"output": names[0], **several, **report}, default=float))
        return
    words = [f"{report['frames']} frames"] if report["frames"] > 1 else []
    if "iou" in report:
        words.append(f"{report['bytes'] / 1e3:.0f} KB of {report['source_bytes'] / 1e3:,.0f} KB")
        words.append(f"IoU {report['iou']:.3f}")
    words.append(f"{report['faces']:,} faces")
    shown = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
    print(
        f"{shown}: {', '.join(words)}, {report['total_seconds']:.1f} s"
        f" ({report['model']}, {report['device']})"
    )
    for note in report.get("notes", ()):
        print(note, file=sys.stderr)
