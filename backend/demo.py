"""The main job on a real example: a scanned hen becomes a mesh, a .blend and a picture."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from .command_line import Report, follow, make_preview, write_mesh
from .errors import NotFound, StorageFailed
from .pipelines import Context, run
from .protocol import MeshResult
from .task_files import read_points_task

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "hen.ply"
# Where the whole job stands at the end of each part of it.
_MODEL_ENDS, _SCENE_ENDS = 0.5, 1.0


def run_demo(folder: Path, device: str, report: Report) -> list[tuple[Path, str]]:
    """Write demo.glb, demo.blend and demo.png to `folder`; returns (path, what it is) of each.

    Files of an earlier run are replaced only once all three are made.
    """
    if not EXAMPLE.is_file():
        raise NotFound(f"The example {EXAMPLE} is not there.", "Use a copy of the repository.")
    _make_folder(folder)
    with tempfile.TemporaryDirectory(prefix=".demo-", dir=folder) as place:
        made = [Path(place) / f"demo{suffix}" for suffix in (".glb", ".blend", ".png")]
        report("Reading the points", 0.0)
        shared = {"name": "Hen", "model": "wavelet-fit", "seed": 0, "resolution": 256}
        task = read_points_task(EXAMPLE, shared)
        steps = run(task, Context(device=device))
        result, numbers = follow(task, steps, lambda s, f: report(s, f * _MODEL_ENDS))
        assert isinstance(result, MeshResult)  # noqa: S101 - wavelet-fit makes one mesh
        glb, blend, png = made
        write_mesh(glb, result, task, report)
        report("Lighting and rendering in Blender", _MODEL_ENDS)
        make_preview(result, task, lambda s, f: report(s, _MODEL_ENDS), blend=blend, png=png)
        for path in made:
            shutil.move(path, folder / path.name)
    report("Done", _SCENE_ENDS)
    return [
        (folder / "demo.glb", f"{len(task.points):,} points -> {numbers['faces']:,} faces"),
        (folder / "demo.blend", "the points and the mesh in a lit scene, for Blender"),
        (folder / "demo.png", "a picture of that scene"),
    ]


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageFailed(
            f"The folder {folder} cannot be made ({error.strerror}).", "Choose another with -o."
        ) from error
