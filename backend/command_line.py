"""The commands that need the backend's environment: run, demo, serve, bench."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from . import device as devices
from . import (
    environment,
    field_files,
    fields_commands,
    panorama_commands,
    pipelines,
    views_commands,
)
from .blender_process import preview
from .errors import BadInput, InternalError, NotFound, StorageFailed
from .protocol import (
    FIELDS,
    MAX_VARIATIONS,
    PANORAMAS,
    MeshResult,
    PointsToMesh,
    Preview,
    Progress,
    Result,
    Shape,
    Task,
    meshes_of,
)
from .protocol import Report as TaskReport
from .task_files import read_task
from .terminal import ProgressBar

Report = Callable[[str, float], None]


# --------------------------------------------------------------------------------------------- run


def run(options: argparse.Namespace) -> int:
    """`run TASK INPUT -o OUTPUT`."""
    if options.task in PANORAMAS:
        return run_panorama(options)
    if options.task in views_commands.MADE:
        return run_views(options)
    if options.task in FIELDS:
        return run_fields(options)
    write = writer_for(options.output, options.task)
    outputs = outputs_of(options)
    _check_place(options)
    with replaced_when_done(outputs) as partials, ProgressBar() as bar:
        bar.report("Reading", 0.0)
        task = read_task(options)
        result, report = work(task, options, bar.report)
        bar.report("Writing", 1.0)
        for partial, mesh in zip(partials, meshes_of(result), strict=True):
            if len(mesh.vertices) or len(partials) == 1:
                write(partial, mesh, task, bar.report)
    tell([path for path in outputs if path.exists()], report, as_json=options.json)
    if options.preview is not None and not report.get("previews"):
        print(
            "No preview was cheap enough this time. What was learned of the model shows every step"
            " of the next run.",
            file=sys.stderr,
        )
    return 0


def run_panorama(options: argparse.Namespace) -> int:
    """`run TASK INPUT -o OUTPUT` of tasks about panoramas."""
    panorama_commands.check_output(options)
    outputs = panorama_commands.outputs_of(options)
    _check_place(options)
    with replaced_when_done(outputs) as partials, ProgressBar() as bar:
        bar.report("Reading", 0.0)
        task = read_task(options)
        result, report = work(task, options, bar.report)
        bar.report("Writing", 1.0)
        notes = panorama_commands.write(partials, result, bar.report)
    if notes:
        report = {**report, "notes": [*report.get("notes", ()), *notes]}
    panorama_commands.tell(outputs, result, report, as_json=options.json)
    return 0


def run_views(options: argparse.Namespace) -> int:
    """`run TASK INPUT -o FOLDER` of tasks that make views."""
    views_commands.check_output(options)
    _check_place(options)
    with ProgressBar() as bar:
        bar.report("Reading", 0.0)
        task = read_task(options)
        result, measured = work(task, options, bar.report)
        report = {key: measured[key] for key in measured if key not in ("vertices", "faces")}
        bar.report("Writing", 1.0)
        views_commands.write(options.output, result, report)
    views_commands.tell(options.output, result, report, as_json=options.json)
    return 0


def run_fields(options: argparse.Namespace) -> int:
    """`run TASK INPUT -o OUTPUT` of tasks about neural fields and what moves."""
    fields_commands.check_output(options)
    _check_place(options)
    with ProgressBar() as bar:
        bar.report("Reading", 0.0)
        task = read_task(options)
        task.validate()  # before it is said how many files there will be
        outputs = fields_commands.outputs_of(options.output, task)
        with replaced_when_done(outputs) as partials:
            result, measured = work(task, options, bar.report)
            bar.report("Writing", 1.0)
            fields_commands.write(partials, result, task)
            written = [partial.exists() for partial in partials]
    report = {**measured, **fields_commands.facts(result)}
    outputs = [path for path, there in zip(outputs, written, strict=True) if there]
    fields_commands.tell(outputs, report, as_json=options.json)
    return 0


def outputs_of(options: argparse.Namespace) -> list[Path]:
    """One file, or one for each variation: chair-1.glb, chair-2.glb, ..."""
    path: Path = options.output
    if options.variations <= 1:
        return [path]
    numbers = range(1, min(options.variations, MAX_VARIATIONS) + 1)
    return [path.with_name(f"{path.stem}-{number}{path.suffix}") for number in numbers]


def _check_place(options: argparse.Namespace) -> None:
    """Raise BadInput for what a server decides by itself, and for a device that is not here."""
    if not options.server:
        if options.device == "cuda":
            devices.pick("cuda")  # told now, whatever the task
        return
    if options.device is not None:
        raise BadInput(
            "--device was given together with --server, but the server decides where it works.",
            "Leave --device out, or start the server with it.",
        )
    if options.preview is not None:
        raise BadInput(
            "--preview was given together with --server, which shows previews to Blender only.",
            "Leave --preview out, or leave --server out.",
        )


def work(task: Task, options: argparse.Namespace, report: Report) -> tuple[Result, dict[str, Any]]:
    """Do `task`, here or on a server. Returns the result and what --json prints of it."""
    if options.server:
        from . import remote

        token = options.token or os.environ.get("FIELDFORGE_TOKEN")
        steps = remote.run(task, options.server, token)
    else:
        steps = pipelines.run(task, pipelines.Context(device=options.device or "auto"))
    with contextlib.closing(cast(Generator[Progress | Result, None, None], steps)):
        return follow(task, steps, report, options.preview)


def follow(
    task: Task,
    steps: Iterator[Progress | Result],
    report: Report,
    previews: Path | None = None,
) -> tuple[Result, dict[str, Any]]:
    """Drain a pipeline: show its progress, return its result and the seconds of each stage.

    previews: a folder for what forms meanwhile.
    """
    begun = at = time.perf_counter()
    stage, seconds, shown = "", dict[str, float](), 0
    result: Result | None = None
    for step in steps:
        now = time.perf_counter()
        seconds[stage] = seconds.get(stage, 0.0) + now - at
        at = now
        if isinstance(step, Progress):
            stage = step.stage.partition(",")[0]  # after the comma: the step
            report(step.stage, step.fraction)
            if previews is not None and (isinstance(step, Preview) or step.picture is not None):
                shown += 1
                write_forming(previews, shown, step)
        else:
            result = step
    if result is None or isinstance(result, TaskReport):
        raise InternalError("The model ended without a result.", "Report this as a fault.")
    seconds.pop("", None)
    measured = {name: round(value, 3) for name, value in seconds.items()}
    meshes = meshes_of(result)
    return result, {
        "task": task.kind,
        "vertices": sum(len(mesh.vertices) for mesh in meshes) or result.report.get("vertices", 0),
        "faces": sum(len(mesh.faces) for mesh in meshes) or result.report.get("faces", 0),
        "seconds": result.report.get("seconds", measured),
        "total_seconds": round(time.perf_counter() - begun, 3),
        "device": result.report.get("device", "cpu"),
        "model": result.report.get("model", task.model),
        "seed": task.seed,
        **{name: result.report[name] for name in GENERATION_FACTS if name in result.report},
    }


GENERATION_FACTS = (
    *("steps", "guidance", "variations", "precision", "as_published", "notes"),
    *("previews", "preview_seconds", "preview_share"),
    *("width", "edges", "missing", "depth_model", "interocular", "holes"),
    *("views", "given", "size", "batches", "prompt"),
    *("views_used", "depth", "outlines", "coverage", "noise", "texture_size", "warnings"),
    *("iou", "bytes", "source_bytes", "effort", "mixed", "nearest", "nearest_distance"),
)


def write_forming(folder: Path, number: int, step: Progress) -> None:
    """What a step shows: FOLDER/preview-003.ply, .png of a picture. Raises StorageFailed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageFailed(
            f"The folder {folder} cannot be made ({error.strerror}).", "Choose another one."
        ) from error
    if step.picture is not None:
        panorama_commands.write_picture(folder / f"preview-{number:03}.png", step.picture)
    if isinstance(step, Preview):
        write_previews(folder, number, step.meshes)


def write_previews(folder: Path, number: int, meshes: Sequence[MeshResult]) -> None:
    """FOLDER/preview-003.ply, or preview-003-2.ply of several variations."""
    from .geometry import mesh_files

    for index, mesh in enumerate(meshes, 1):
        name = f"preview-{number:03}" + (f"-{index}" if len(meshes) > 1 else "")
        if len(mesh.vertices):
            mesh_files.write_mesh(folder / f"{name}.ply", mesh.vertices, mesh.faces)


def tell(outputs: list[Path], report: dict[str, Any], *, as_json: bool) -> None:
    """Say on stdout what was written: a line for people, or one of JSON."""
    names = [str(path) for path in outputs]
    if as_json:
        several = {"outputs": names} if len(names) > 1 else {}
        print(json.dumps({"output": names[0], **several, **report}))
        return
    print(
        f"{', '.join(names)}: {report['vertices']:,} vertices, {report['faces']:,} faces, "
        f"{report['total_seconds']:.1f} s ({report['model']}, {report['device']})"
    )
    for warning in report.get("warnings", ()):
        print(warning, file=sys.stderr)


# ------------------------------------------------------------------------------------------ output

Writer = Callable[[Path, MeshResult, Task, Report], None]


def writer_for(output: Path, task: str = Shape.kind) -> Writer:
    """How to write a file of this name; raises before any work is done when it cannot be."""
    suffix = output.suffix.lower()
    if suffix == field_files.SUFFIX and task != Shape.kind:
        raise BadInput(
            f"{task} makes no neural field.",
            f"Write it as .glb; mesh-to-field then makes a {suffix} file of it.",
        )
    if suffix not in WRITERS:
        raise BadInput(
            f"The output {output.name!r} has a suffix that is not known.",
            f"Use one of {', '.join(WRITERS)}.",
        )
    if os.path.isdir(output):  # a name that cannot be is no folder either
        raise BadInput(f"{output} is a folder.", "Give the name of a file in it.")
    return WRITERS[suffix]


def write_mesh(path: Path, result: MeshResult, task: Task, report: Report) -> None:
    """.ply .obj in the frame of the source, .glb turned to Y-up."""
    from .geometry import mesh_files

    texture = {"uv": result.uv, "texture": result.texture}
    mesh_files.write_mesh(path, result.vertices, result.faces, result.colors, **texture)


def write_arrays(path: Path, result: MeshResult, task: Task, report: Report) -> None:
    """.npz: the mesh, the way from the models' cube, and what a generated shape was decoded from,
    which --keep needs."""
    from .geometry import mesh_files

    if not len(result.vertices):
        raise BadInput("There is nothing to write: the mesh is empty.", "Check the source.")
    names = ("vertices", "faces", "colors", "to_source", "latent", "uv", "texture")
    arrays = {name: getattr(result, name) for name in names}
    present = {name: array for name, array in arrays.items() if array is not None}
    mesh_files.write_bytes(path, mesh_files.npz_bytes(present))


def write_field(path: Path, result: MeshResult, task: Task, report: Report) -> None:
    """.ffield: the neural field that the mesh is the surface of."""
    from .geometry import mesh_files

    if result.neural is None:
        raise BadInput(
            "This model makes meshes, not neural fields.",
            "Write it as .glb, or choose a model of the family hyperdiffusion.",
        )
    mesh_files.write_bytes(path, field_files.to_bytes(result.neural, result.name))


def write_blend(path: Path, result: MeshResult, task: Task, report: Report) -> None:
    """.blend: the mesh lit in a scene, made by Blender."""
    report("Starting Blender", 1.0)
    make_preview(result, task, report, blend=path)


def make_preview(result: MeshResult, task: Task, report: Report, **outputs: Path) -> None:
    """blend=, png=: the result lit in a scene, with the points it was made of beside it."""
    arrays = {"vertices": result.vertices, "faces": result.faces, "name": np.array(result.name)}
    if result.colors is not None:
        arrays["colors"] = result.colors
    if isinstance(task, PointsToMesh) and "png" in outputs:
        arrays["points"] = task.points
        if task.colors is not None:
            arrays["point_colors"] = task.colors
    with tempfile.TemporaryDirectory(prefix="fieldforge-") as folder:
        path = Path(folder) / "result.npz"
        np.savez(path, **arrays)  # type: ignore[arg-type]
        preview(path, lambda stage, fraction, line: report(stage, fraction), **outputs)


WRITERS: dict[str, Writer] = {
    ".glb": write_mesh,
    ".obj": write_mesh,
    ".ply": write_mesh,
    ".npz": write_arrays,
    ".blend": write_blend,
    field_files.SUFFIX: write_field,
}


@contextlib.contextmanager
def replaced_when_done(outputs: list[Path]) -> Iterator[list[Path]]:
    """Paths to write to, of the same names in a new folder beside the outputs (which lie in one
    folder); they become `outputs` at the end, or are removed. Of several, some may stay unwritten.

    Raises NotFound or StorageFailed at once when nothing can be written there.
    """
    for output in outputs:
        _check_name(output)
    parent = outputs[0].parent
    try:
        folder = tempfile.TemporaryDirectory(prefix=".fieldforge-", dir=parent)
    except OSError as error:
        raise StorageFailed(
            f"Nothing can be written to {parent} ({error.strerror}).",
            "Choose a folder of your own for the output.",
        ) from error
    with folder as place:
        partials = [Path(place) / output.name for output in outputs]
        yield partials
        for partial, output in zip(partials, outputs, strict=True):
            if partial.exists() or len(outputs) == 1:
                _put_in_place(partial, output)
        # What belongs to them: the materials and the texture of an .obj.
        for extra in sorted(Path(place).iterdir()):
            _put_in_place(extra, parent / extra.name)


def _check_name(output: Path) -> None:
    if not os.path.isdir(output.parent):
        raise NotFound(f"There is no folder {output.parent}.", "Make it, or choose another one.")
    try:
        os.stat(output)  # a name that no file can have is told now, not after the work
    except (FileNotFoundError, PermissionError):
        pass
    except OSError as error:
        raise BadInput(
            f"{output.name} cannot be the name of a file ({error.strerror}).", "Choose another."
        ) from None


def _put_in_place(partial: Path, output: Path) -> None:
    try:
        os.replace(partial, output)
    except OSError as error:
        raise StorageFailed(
            f"{output} cannot be replaced ({error.strerror}).",
            "Close the program that uses it, or choose another name.",
        ) from error


# ------------------------------------------------------------------------------------------ others


def demo(options: argparse.Namespace) -> int:
    """`demo`: make meshes of the examples and pictures of them."""
    from .demo import run_demo

    with ProgressBar(always=True) as bar:
        made = run_demo(options.output, options.device, bar.report)
    for path, what in made:
        print(f"{path}  {what}")
    return 0


def serve(options: argparse.Namespace) -> int:
    """`serve`: answer Blender until told to end; see `server.serve`."""
    from . import server

    return server.serve(
        host=options.host,
        port=options.port,
        token=options.token,
        data=options.data or environment.home() / "data",
        workers=options.workers,
        device=options.device,
        parent_pid=options.parent_pid,
        exit_with_stdin=options.exit_with_stdin,
    )


def bench(options: argparse.Namespace) -> int:
    """Run the benchmarks; a table for each, or one JSON line of all."""
    from .bench_tables import BENCHES, ON_DEVICE, table

    names = [options.only] if options.only else list(BENCHES)
    results = {}
    for name in names:
        rows = []
        work = partial(ON_DEVICE[name], options.device) if name in ON_DEVICE else BENCHES[name]
        for row in work():
            rows.append(row)
            print(f"{name}: {len(rows)} measured", file=sys.stderr)
        results[name] = rows
        if not options.json:
            print(f"\n{name}\n{table(rows)}", flush=True)
    if options.json:
        print(json.dumps(results, default=float))
    return 0
