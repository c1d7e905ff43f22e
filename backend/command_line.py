"""The commands that need the backend's environment: run, demo, serve, bench."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np

from . import environment, pipelines
from .blender_process import preview
from .errors import BadInput, InternalError, NotFound, StorageFailed
from .protocol import MeshResult, PointsToMesh, Progress, Result, Task, VoxelsToMesh
from .terminal import ProgressBar

Report = Callable[[str, float], None]


# --------------------------------------------------------------------------------------------- run


def run(options: argparse.Namespace) -> int:
    """`run TASK INPUT -o OUTPUT`."""
    write = writer_for(options.output)
    with replaced_when_done(options.output) as partial, ProgressBar() as bar:
        bar.report("Reading", 0.0)
        task = read_task(options)
        result, report = work(task, options, bar.report)
        bar.report("Writing", 1.0)
        write(partial, result, task, bar.report)
    tell(options.output, result, report, as_json=options.json)
    return 0


def read_task(options: argparse.Namespace) -> Task:
    """The command line's options and the input file -> a task. Raises BadInput, NotFound."""
    if len(options.input) != 1:
        raise BadInput(
            f"{options.task} takes one file; {len(options.input)} were given.",
            "Run it once for each file.",
        )
    (path,) = options.input
    shared = {
        "name": path.stem[:255] or "Fieldforge",
        "model": options.model,
        "seed": options.seed,
        "resolution": options.resolution,
    }
    return READERS[options.task](path, shared)


def read_points_task(path: Path, shared: dict[str, Any]) -> PointsToMesh:
    from .geometry import mesh_files  # here, so that `serve` starts without its compiled code

    cloud = mesh_files.read_points(path)
    return PointsToMesh(points=cloud.points, normals=cloud.normals, colors=cloud.colors, **shared)


def read_voxels_task(path: Path, shared: dict[str, Any]) -> VoxelsToMesh:
    from .geometry import mesh_files

    voxels = mesh_files.read_voxels(path)
    return VoxelsToMesh(
        occupancy=voxels.occupancy,
        origin=_triple(voxels.origin),
        voxel_size=_triple(voxels.voxel_size),
        **shared,
    )


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z


READERS: dict[str, Callable[[Path, dict[str, Any]], Task]] = {
    PointsToMesh.kind: read_points_task,
    VoxelsToMesh.kind: read_voxels_task,
}


def work(
    task: Task, options: argparse.Namespace, report: Report
) -> tuple[MeshResult, dict[str, Any]]:
    """Do `task`, here or on a server. Returns the result and what --json prints of it."""
    if options.server:
        from . import remote

        token = options.token or os.environ.get("FIELDFORGE_TOKEN")
        steps = remote.run(task, options.server, token)
    else:
        steps = pipelines.run(task, pipelines.Context(device=options.device))
    with contextlib.closing(cast(Generator[Progress | Result, None, None], steps)):
        return follow(task, steps, report)


def follow(
    task: Task, steps: Iterator[Progress | Result], report: Report
) -> tuple[MeshResult, dict[str, Any]]:
    """Drain a pipeline: show its progress, return its result and the seconds of each stage."""
    begun = at = time.perf_counter()
    stage, seconds = "", dict[str, float]()
    result: Result | None = None
    for step in steps:
        now = time.perf_counter()
        seconds[stage] = seconds.get(stage, 0.0) + now - at
        at = now
        if isinstance(step, Progress):
            stage = step.stage
            report(stage, step.fraction)
        else:
            result = step
    if not isinstance(result, MeshResult):
        raise InternalError("The model ended without a result.", "Report this as a fault.")
    seconds.pop("", None)
    measured = {name: round(value, 3) for name, value in seconds.items()}
    return result, {
        "task": task.kind,
        "vertices": len(result.vertices),
        "faces": len(result.faces),
        "seconds": result.report.get("seconds", measured),
        "total_seconds": round(time.perf_counter() - begun, 3),
        "device": result.report.get("device", "cpu"),
        "model": task.model,
        "seed": task.seed,
    }


def tell(output: Path, result: Result, report: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"output": str(output), **report}))
        return
    print(
        f"{output}: {report['vertices']:,} vertices, {report['faces']:,} faces, "
        f"{report['total_seconds']:.1f} s ({report['model']}, {report['device']})"
    )


# ------------------------------------------------------------------------------------------ output

Writer = Callable[[Path, MeshResult, Task, Report], None]


def writer_for(output: Path) -> Writer:
    """How to write a file of this name; raises before any work is done when it cannot be."""
    suffix = output.suffix.lower()
    if suffix not in WRITERS:
        raise BadInput(
            f"The output {output.name!r} has a suffix that is not known.",
            f"Use one of {', '.join(WRITERS)}.",
        )
    if os.path.isdir(output):  # a name that cannot be is no folder either
        raise BadInput(f"{output} is a folder.", "Give the name of a file in it.")
    return WRITERS[suffix]


def write_mesh(path: Path, result: MeshResult, task: Task, report: Report) -> None:
    """.ply .obj .npz in the frame of the source, .glb turned to Y-up."""
    from .geometry import mesh_files

    mesh_files.write_mesh(path, result.vertices, result.faces, result.colors)


def write_blend(path: Path, result: MeshResult, task: Task, report: Report) -> None:
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
    ".npz": write_mesh,
    ".blend": write_blend,
}


@contextlib.contextmanager
def replaced_when_done(output: Path) -> Iterator[Path]:
    """A path to write to, of the same name in a new folder beside `output`; it becomes `output` at
    the end, or is removed.

    Raises NotFound or StorageFailed at once when nothing can be written there.
    """
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
    try:
        folder = tempfile.TemporaryDirectory(prefix=".fieldforge-", dir=output.parent)
    except OSError as error:
        raise StorageFailed(
            f"Nothing can be written to {output.parent} ({error.strerror}).",
            "Choose a folder of your own for the output.",
        ) from error
    with folder as place:
        partial = Path(place) / output.name
        yield partial
        try:
            os.replace(partial, output)
        except OSError as error:
            raise StorageFailed(
                f"{output} cannot be replaced ({error.strerror}).",
                "Close the program that uses it, or choose another name.",
            ) from error


# ------------------------------------------------------------------------------------------ others


def demo(options: argparse.Namespace) -> int:
    from .demo import run_demo

    with ProgressBar(always=True) as bar:
        made = run_demo(options.output, options.device, bar.report)
    for path, what in made:
        print(f"{path}  {what}")
    return 0


def serve(options: argparse.Namespace) -> int:
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
    from .bench_tables import BENCHES, table

    names = [options.only] if options.only else list(BENCHES)
    results = {}
    for name in names:
        rows = []
        for row in BENCHES[name]():
            rows.append(row)
            print(f"{name}: {len(rows)} measured", file=sys.stderr)
        results[name] = rows
        if not options.json:
            print(f"\n{name}\n{table(rows)}", flush=True)
    if options.json:
        print(json.dumps(results, default=float))
    return 0
