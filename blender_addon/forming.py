"""Watch it form: objects that show what running jobs have formed so far. Main thread only.

Shapes show as meshes, panoramas as pictures that stand upright in the middle of the scene.

The previews are no part of the work: they cannot be selected, are not rendered and never saved
(runtime data). Undo brings some of them back and takes others away, as it does with everything;
`Forming` then puts things right, and so it keeps no reference to any of them, only their names.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import bpy
import numpy as np
from mathutils import Matrix

from .compose import PlacedMesh
from .history import Job
from .importing import fill_mesh, home_of, matrices_of
from .panorama.arrival import FormingPicture

MARK = "fieldforge_forming"
PREFIX = "Forming: "
MATERIAL_NAME = "Fieldforge Forming"
COLOR = (0.16, 0.48, 1.0, 1.0)
BUDGET = 0.02
PICTURE_WIDTH = 2.0  # in the scene
UPRIGHT = np.array([[1, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]], float)


# The lowest and highest x in the world of what a job's row stands beside, if anything.
Beside = Callable[[Job], tuple[float, float] | None]


@dataclass(frozen=True, eq=False)
class Wanted:
    """One preview. mark: what its object is known by, whatever its name."""

    mark: str
    name: str
    job: Job
    shape: PlacedMesh | FormingPicture
    matrix_world: np.ndarray


class Forming:
    """Keeps the scene's previews in line with what the jobs have formed."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._shapes: dict[str, PlacedMesh | FormingPicture] = {}
        self._matrices: dict[str, bytes] = {}
        self._unsure = False
        self.used = False

    def distrust(self) -> None:
        """The scene was changed by undo or a new file: look at everything again."""
        self._unsure = True
        self._shapes.clear()
        self._matrices.clear()

    @property
    def idle(self) -> bool:
        """True when there is nothing to take away."""
        return not self._names and not self._unsure

    def update(self, jobs: list[Job], beside: Beside, budget: float = BUDGET) -> bool:
        """Show what `jobs` have formed, and nothing else; False when time ran out before the end.

        budget: seconds after which no other mesh is begun; one is always done.
        """
        limit = time.perf_counter() + budget
        wanted = [each for job in jobs for each in _wanted(job, beside)]
        self._remove_all_but({each.mark for each in wanted})
        filled = 0
        for each in wanted:
            item = self._find(each.mark)
            changed = item is None or self._shapes.get(each.mark) is not each.shape
            if changed and filled and time.perf_counter() > limit:
                return False
            item = item or self._make(each)
            self._put(item, each)
            if changed:
                _fill(item, each)
                self._shapes[each.mark] = each.shape
                filled += 1
        return True

    def clear(self) -> None:
        """Take every preview away, those of a crash or another session too."""
        self.distrust()
        self._remove_all_but(set())

    def _find(self, mark: str) -> bpy.types.Object | None:
        item = bpy.data.objects.get(self._names.get(mark, ""))
        if item is not None and item.get(MARK) == mark:
            return item
        if mark in self._names:  # renamed or deleted
            return next((item for item in _marked(bpy.data.objects) if item[MARK] == mark), None)
        return None

    def _make(self, wanted: Wanted) -> bpy.types.Object:
        item = bpy.data.objects.new(wanted.name, _data_of(wanted))
        _mark(item, wanted)
        if item.type == "EMPTY":
            item.empty_display_type, item.empty_display_size = "IMAGE", PICTURE_WIDTH
        item.color = COLOR
        item.hide_render = item.hide_select = True
        item.show_name = True
        # What it is to replace lies in the same place.
        item.show_in_front = wanted.job.destination.replaces
        _, collection = home_of(wanted.job.destination)
        collection.objects.link(item)
        self.used = True
        self._names[wanted.mark] = item.name
        self._shapes.pop(wanted.mark, None)
        self._matrices.pop(wanted.mark, None)
        return item

    def _put(self, item: bpy.types.Object, wanted: Wanted) -> None:
        """Shear, which a preview can do without, is lost."""
        now = wanted.matrix_world.tobytes()
        if self._matrices.get(wanted.mark) != now:
            item.matrix_world = Matrix(wanted.matrix_world.tolist())
            self._matrices[wanted.mark] = now

    def _remove_all_but(self, marks: set[str]) -> None:
        if self._unsure:
            self._look_again()
        gone = [mark for mark in self._names if mark not in marks]
        for mark in gone:
            item = self._find(mark)
            if item is not None:
                _remove(item)
            for known in (self._names, self._shapes, self._matrices):
                known.pop(mark, None)
        if gone and not self._names:
            _remove_unused()

    def _look_again(self) -> None:
        self._unsure = False
        self._names = {}
        for item in list(_marked(bpy.data.objects)):
            if item[MARK] in self._names:
                _remove(item)
            else:
                self._names[item[MARK]] = item.name
        if not self._names:
            _remove_unused()


def _wanted(job: Job, beside: Beside) -> Iterator[Wanted]:
    """The previews of a job that runs. Of several in one place only the first."""
    if not job.active or not job.forming:
        return
    formed = job.forming[:1] if job.destination.layout == "COLLECTION" else job.forming
    numbered = [(number, shape) for number, shape in enumerate(formed) if shape is not None]
    if not numbered:
        return
    if isinstance(numbered[0][1], FormingPicture):
        picture = numbered[0][1]
        yield Wanted(f"{job.key}/picture", PREFIX + job.name, job, picture, UPRIGHT)
        return
    matrices = matrices_of([mesh for _, mesh in numbered], job.destination, beside(job))
    for (number, mesh), matrix in zip(numbered, matrices, strict=True):
        suffix = f", seed {job.seed + number}" if job.variations > 1 else ""
        yield Wanted(f"{job.key}/{number}", PREFIX + job.name + suffix, job, mesh, matrix)


def _mark(each: bpy.types.ID, wanted: Wanted) -> None:
    each[MARK] = wanted.mark
    each.is_runtime_data = True


def _data_of(wanted: Wanted) -> bpy.types.Mesh | None:
    """What the object of a preview holds: a mesh without geometry, or nothing yet."""
    if isinstance(wanted.shape, FormingPicture):
        return None
    mesh = bpy.data.meshes.new(wanted.name)
    mesh.materials.append(_material())
    _mark(mesh, wanted)
    return mesh


def _fill(item: bpy.types.Object, wanted: Wanted) -> None:
    """Have `item` show what was formed."""
    if isinstance(wanted.shape, PlacedMesh):
        item.data.clear_geometry()
        fill_mesh(item.data, wanted.shape)
        return
    height, width, _ = wanted.shape.pixels.shape
    image = item.data
    if image is None or tuple(image.size) != (width, height):
        item.data = bpy.data.images.new(wanted.name, width, height)
        _mark(item.data, wanted)
        if image is not None:
            bpy.data.images.remove(image)
        image = item.data
    image.pixels.foreach_set(wanted.shape.pixels.ravel())
    image.update()


def _marked(collection) -> Iterator[bpy.types.ID]:
    return (each for each in collection if MARK in each)


def _remove(item: bpy.types.Object) -> None:
    data = item.data
    bpy.data.objects.remove(item)
    if data is not None and data.users == 0:
        bpy.data.batch_remove([data])


def _remove_unused() -> None:
    """Meshes and pictures of previews that a person deleted, and the material of all."""
    for data in [*_marked(bpy.data.meshes), *_marked(bpy.data.images)]:
        if data.users == 0:
            bpy.data.batch_remove([data])
    material = bpy.data.materials.get(MATERIAL_NAME)
    if material is not None and MARK in material:
        bpy.data.materials.remove(material)


def _material() -> bpy.types.Material:
    """The colour of previews in Solid and in Material Preview."""
    found = bpy.data.materials.get(MATERIAL_NAME)
    if found is not None and found.get(MARK):
        return found
    material = bpy.data.materials.new(MATERIAL_NAME)
    material[MARK] = "material"
    material.is_runtime_data = True
    material.diffuse_color = COLOR
    return material
