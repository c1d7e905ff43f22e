"""The main jobs on real examples: a scanned hen, and a picture of a locker, become meshes."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from .command_line import Report, follow, make_preview, write_mesh
from .conditions.picture_files import read_image
from .errors import NotFound, StorageFailed
from .pipelines import Context, run
from .protocol import ImageToMesh, MeshResult, Task
from .task_files import read_points_task

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
EXAMPLE, PICTURE = EXAMPLES / "hen.ply", EXAMPLES / "locker.png"
# Where the whole job stands at the end of each part of it.
_SCAN_ENDS, _SCENE_ENDS, _PICTURE_ENDS, _END = 0.4, 0.7, 0.8, 1.0


def run_demo(folder: Path, device: str, report: Report) -> list[tuple[Path, str]]:
    """Write the files of the demo to `folder`; returns (path, what it is) of each.

    Files of an earlier run are replaced only once all are made.
    """
    for example in (EXAMPLE, PICTURE):
        if not example.is_file():
            raise NotFound(f"The example {example} is not there.", "Use a copy of the repository.")
    _make_folder(folder)
    names = ("demo.glb", "demo.blend", "demo.png", "demo-picture.glb", "demo-picture.png")
    with tempfile.TemporaryDirectory(prefix=".demo-", dir=folder) as place:
        glb, blend, png, second_glb, second_png = made = [Path(place) / name for name in names]
        report("Reading the points", 0.0)
        shared = {"name": "Hen", "model": "wavelet-fit", "seed": 0, "resolution": 256}
        scan = read_points_task(EXAMPLE, shared)
        result = _mesh(scan, glb, device, _part(report, 0.0, _SCAN_ENDS))
        report("Lighting and rendering in Blender", _SCAN_ENDS)
        in_blender = _part(report, _SCAN_ENDS, _SCENE_ENDS)
        make_preview(result, scan, in_blender, blend=blend, png=png)

        picture = ImageToMesh(name="Locker", image=read_image(PICTURE))
        guessed = _mesh(picture, second_glb, device, _part(report, _SCENE_ENDS, _PICTURE_ENDS))
        make_preview(guessed, picture, _part(report, _PICTURE_ENDS, _END), png=second_png)
        for path in made:
            shutil.move(path, folder / path.name)
    report("Done", _END)
    words = (
        f"{len(scan.points):,} points -> {len(result.faces):,} faces",
        "the points and the mesh in a lit scene, for Blender",
        "a picture of that scene",
        f"one picture, {PICTURE.name} -> {len(guessed.faces):,} faces",
        "a picture of that shape",
    )
    return [(folder / name, said) for name, said in zip(names, words, strict=True)]


def _mesh(task: Task, path: Path, device: str, report: Report) -> MeshResult:
    result, _ = follow(task, run(task, Context(device=device)), report)
    assert isinstance(result, MeshResult)  # noqa: S101 - without variations it is one mesh
    write_mesh(path, result, task, report)
    return result


def _part(report: Report, begin: float, end: float) -> Report:
    """Reports of a part of the job, which takes from `begin` to `end` of the whole."""
    return lambda stage, fraction: report(stage, begin + fraction * (end - begin))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageFailed(
            f"The folder {folder} cannot be made ({error.strerror}).", "Choose another with -o."
        ) from error
