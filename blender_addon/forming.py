"""Watch it form: objects that show what running jobs have formed so far. Main thread only.

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

MARK = "fieldforge_forming"
PREFIX = "Forming: "
MATERIAL_NAME = "Fieldforge Forming"
COLOR = (0.16, 0.48, 1.0, 1.0)
BUDGET = 0.02


# The lowest and highest x in the world of what a job's row stands beside, if anything.
Beside = Callable[[Job], tuple[float, float] | None]


@dataclass(frozen=True, eq=False)
class Wanted:
    """One preview. mark: what its object is known by, whatever its name."""

    mark: str
    name: str
    job: Job
    mesh: PlacedMesh
    matrix_world: np.ndarray


class Forming:
    """Keeps the scene's previews in line with what the jobs have formed."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._meshes: dict[str, PlacedMesh] = {}
        self._matrices: dict[str, bytes] = {}
        self._unsure = False
        self.used = False

    def distrust(self) -> None:
        """The scene was changed by undo or a new file: look at everything again."""
        self._unsure = True
        self._meshes.clear()
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
            changed = item is None or self._meshes.get(each.mark) is not each.mesh
            if changed and filled and time.perf_counter() > limit:
                return False
            item = item or self._make(each)
            self._put(item, each)
            if changed:
                item.data.clear_geometry()
                fill_mesh(item.data, each.mesh)
                self._meshes[each.mark] = each.mesh
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
        name = wanted.name
        mesh = bpy.data.meshes.new(name)
        mesh.materials.append(_material())
        item = bpy.data.objects.new(name, mesh)
        for each in (item, mesh):
            each[MARK] = wanted.mark
            each.is_runtime_data = True
        item.color = COLOR
        item.hide_render = item.hide_select = True
        item.show_name = True
        # What it is to replace lies in the same place.
        item.show_in_front = wanted.job.destination.replaces
        _, collection = home_of(wanted.job.destination)
        collection.objects.link(item)
        self.used = True
        self._names[wanted.mark] = item.name
        self._meshes.pop(wanted.mark, None)
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
            for known in (self._names, self._meshes, self._matrices):
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
    numbered = [(number, mesh) for number, mesh in enumerate(formed) if mesh is not None]
    if not numbered:
        return
    matrices = matrices_of([mesh for _, mesh in numbered], job.destination, beside(job))
    for (number, mesh), matrix in zip(numbered, matrices, strict=True):
        suffix = f", seed {job.seed + number}" if job.variations > 1 else ""
        yield Wanted(f"{job.key}/{number}", PREFIX + job.name + suffix, job, mesh, matrix)


def _marked(collection) -> Iterator[bpy.types.ID]:
    return (each for each in collection if MARK in each)


def _remove(item: bpy.types.Object) -> None:
    mesh = item.data
    bpy.data.objects.remove(item)
    if mesh is not None and mesh.users == 0:
        bpy.data.meshes.remove(mesh)


def _remove_unused() -> None:
    """Meshes of previews that a person deleted, and the material of all."""
    for mesh in list(_marked(bpy.data.meshes)):
        if mesh.users == 0:
            bpy.data.meshes.remove(mesh)
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
