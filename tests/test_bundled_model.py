"""The model in the box: there, whole, attributed, the default, and it makes shapes."""

import re
import subprocess
import sys

import numpy as np
import pytest
import trimesh

from backend import pipelines, weights
from backend.conditions.picture_files import read_image
from backend.demo import PICTURE
from backend.geometry.voxels import iou, occupancy_of_mesh
from backend.pipelines import Context, run
from backend.pipelines.generate import config_of
from backend.protocol import ImageToMesh, MeshResult, Shape, TextToMesh, VoxelsToMesh
from tests.bundled import only_bundled  # noqa: F401 - a fixture

ID = "fieldforge-small"
TASKS = {
    "voxels-to-mesh",
    "points-to-mesh",
    "image-to-mesh",
    "sketch-to-mesh",
    "depth-to-mesh",
    "views-to-mesh",
    "text-to-mesh",
    "shape",
}
"""What it was found to do well."""


pytestmark = pytest.mark.usefixtures("only_bundled")


def test_it_is_small_and_whole():
    model = weights.installed()[ID]
    assert model.bundled
    assert set(model.tasks) == TASKS
    sizes = [path.stat().st_size for path in model.files]
    assert max(sizes) <= 50 << 20
    assert sum(sizes) <= 120 << 20
    weights.verify(model)


def test_it_is_offered_beside_what_is_exact():
    """A grid may be finer than the 16^3 that the model reads: wavelet-fit keeps all of it."""
    own = {model.id for model in pipelines.models() if model.ready}
    bundled = {name for name, model in weights.installed().items() if model.bundled}
    assert own == {model.id for model in pipelines.BUILT_IN} | bundled
    assert {"wavelet-fit", ID} <= own
    assert {model.id for model in weights.ranked("voxels-to-mesh")} == {ID}
    assert next(m.id for m in pipelines.models() if "voxels-to-mesh" in m.tasks) == "wavelet-fit"


def test_every_maker_is_named():
    folder = weights.installed()[ID].folder
    text = (folder / "ATTRIBUTION.md").read_text("utf-8")
    licences = re.findall(r"^## (\S+):", text, re.MULTILINE)
    assert set(licences) == {"CC0-1.0", "CC-BY-3.0", "CC-BY-3.0-US"}
    card = (folder / "README.md").read_text("utf-8")
    shapes = int(re.search(r"(\d+) shapes for training", card)[1])
    assert text.count("\n- ") == shapes
    for words in ("## Data", "## Training", "## Quality", "## Limits"):
        assert words in card


def a_bench() -> np.ndarray:
    """A seat on two sides, of cells (16, 16, 16), z up."""
    cells = np.zeros((16, 16, 16), np.uint8)
    cells[1:15, 4:12, 7:10] = 1
    cells[1:4, 4:12, 1:8] = 1
    cells[12:15, 4:12, 1:8] = 1
    return cells


def test_voxels_become_their_shape():
    cells = a_bench()
    task = VoxelsToMesh(occupancy=cells, voxel_size=(1.0, 1.0, 1.0), model=ID, seed=1)
    *_, result = run(task, Context("cpu"))
    assert isinstance(result, MeshResult)
    found = occupancy_of_mesh(result.vertices, result.faces, (16,) * 3, np.zeros(3), np.ones(3))
    assert iou(found, cells.astype(bool)) > 0.5
    *_, again = run(task, Context("cpu"))
    assert again.vertices.tobytes() == result.vertices.tobytes()


def test_a_picture_becomes_its_shape():
    """A locker, which the model never saw: upright, deep as it is wide, full."""
    task = ImageToMesh(image=read_image(PICTURE), up_axis="z", seed=0)
    *_, result = run(task, Context("cpu"))
    assert isinstance(result, MeshResult)
    assert result.report["model"] == ID
    width, depth, height = np.ptp(result.vertices, axis=0)
    assert height > 1.4 * max(width, depth)
    assert 0.6 < width / depth < 1.7
    mesh = trimesh.Trimesh(result.vertices, result.faces)
    assert mesh.is_watertight
    assert 0.6 < mesh.volume / (width * depth * height) < 1


def test_another_picture_becomes_another_shape():
    """A picture of a low, long thing: the locker on its side."""
    lying = np.rot90(read_image(PICTURE))
    *_, result = run(ImageToMesh(image=lying, up_axis="z", seed=0), Context("cpu"))
    width, depth, height = np.ptp(result.vertices, axis=0)
    assert height < max(width, depth)


def test_words_become_what_they_name():
    """Of two seeds each: tables are lower than long and hollow, bookcases high and shallow."""

    def made(prompt):
        task = TextToMesh(prompt=prompt, up_axis="z", variations=2, seed=0)
        *_, result = run(task, Context("cpu"))
        assert result.report["model"] == ID
        return result.meshes

    for mesh in made("a bookcase"):
        width, depth, height = np.ptp(mesh.vertices, axis=0)
        assert height > 0.7 * width > depth
    for mesh in made("a table"):
        width, depth, height = np.ptp(mesh.vertices, axis=0)
        assert height < max(width, depth)
        solid = trimesh.Trimesh(mesh.vertices, mesh.faces)
        assert solid.volume < 0.6 * width * depth * height


def test_of_nothing_comes_something_that_has_a_name():
    *_, result = run(Shape(seed=3), Context("cpu"))
    assert isinstance(result, MeshResult)
    assert result.report["model"] == ID
    (note,) = result.report["notes"]
    assert (
        note.removeprefix("The model chose: ")[:-1]
        in config_of(weights.installed()[ID]).joint.imagined.names
    )


@pytest.mark.skipif(sys.platform == "win32", reason="peak memory is read from the kernel")
def test_pictures_take_seconds_and_little_memory():
    """In a process of its own: the second job is warm."""
    code = """
import resource, sys, time
from backend.conditions.picture_files import read_image
from backend.demo import PICTURE
from backend.pipelines import Context, run
from backend.protocol import ImageToMesh
for _ in range(2):
    begun = time.perf_counter()
    *_, result = run(ImageToMesh(image=read_image(PICTURE)), Context("cpu"))
def peak():  # rusage also counts what the process that started this one took before
    if sys.platform != "linux":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0])
print(time.perf_counter() - begun, peak() / 1e6)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True
    )
    seconds, gigabytes = map(float, done.stdout.split())
    # A machine that runs other tests at the same time is given twice what an artist's may take.
    assert seconds < 40
    assert gigabytes < (3.0 if sys.platform == "linux" else 3e3)
