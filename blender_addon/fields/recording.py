"""An object, read in one frame after the other, while Blender stays usable. Main thread only.

A timer goes to one frame of the timeline per call and reads what the depsgraph makes of the object
there: modifiers, armatures, shape keys, any change of topology. Between two calls a person can
work on, move the timeline, or cancel; at the end the timeline is where it was.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import bpy
import numpy as np

from ...backend.errors import BadInput, FieldforgeError
from ...backend.protocol import check_together
from .. import session
from .captures import Frame

log = logging.getLogger(__name__)

PAUSE = 0.005  # seconds between two frames: what a person did meanwhile is taken in
WAIT = 0.2


class Recording:
    """One object over some frames; `done` is called with what was read."""

    def __init__(
        self,
        context,
        item: bpy.types.Object,
        frames: list[float],
        done: Callable[[list[Frame]], None],
    ) -> None:
        self.name = item.name
        self.frames = frames
        self.read: list[Frame] = []
        self._uid = item.session_uid
        self._scene, self._scene_uid = context.scene.name, context.scene.session_uid
        self._done = done
        self._home = _place_of(context.scene)
        self._set: tuple[int, float] | None = None
        self._timer = self.tick  # one bound method, as Blender knows timers by identity

    @property
    def fraction(self) -> float:
        return len(self.read) / len(self.frames)

    def begin(self) -> None:
        bpy.app.timers.register(self._timer, first_interval=PAUSE, persistent=True)

    def tick(self) -> float | None:
        """Read the next frame; the seconds until the next call, None at the end."""
        from ..jobs import redraw, why_not_touched

        if _now.get("recording") is not self:
            return None
        if why_not_touched():
            return WAIT
        try:
            self._read_next()
        except Exception as error:  # a timer that raises is never called again
            self.stop()
            _tell(self.name, error)
            return None
        redraw()
        if len(self.read) < len(self.frames):
            return PAUSE
        self.stop()
        try:
            check_faces(self.name, self.read, _words(self.frames))
            self._done(self.read)
        except Exception as error:
            _tell(self.name, error)
        return None

    def stop(self) -> None:
        """End here, and have the timeline where it was."""
        if _now.get("recording") is self:
            _now.clear()
        if bpy.app.timers.is_registered(self._timer):
            bpy.app.timers.unregister(self._timer)
        scene = self._find(bpy.data.scenes, self._scene, self._scene_uid)
        if scene is not None and self._set is not None:
            if _place_of(scene) == self._set:  # else a person went somewhere else
                scene.frame_set(self._home[0], subframe=self._home[1])
            self._set = None

    def _read_next(self) -> None:
        scene = self._find(bpy.data.scenes, self._scene, self._scene_uid)
        item = self._find(bpy.data.objects, self.name, self._uid)
        if scene is None or item is None:
            raise BadInput(
                f"{self.name} is not there any more.", "Select it again, and compress it once more."
            )
        if bpy.context.scene != scene:
            raise BadInput(
                "Another scene is shown now.", f"Show {scene.name}, and compress it once more."
            )
        if self._set is not None and _place_of(scene) != self._set:
            self._home = _place_of(scene)
        whole = math.floor(self.frames[len(self.read)])
        scene.frame_set(whole, subframe=self.frames[len(self.read)] - whole)
        self._set = _place_of(scene)
        self.read.append(read(bpy.context, item))
        check_together(
            sum(len(frame.vertices) for frame in self.read),
            sum(len(frame.triangles) for frame in self.read),
        )

    @staticmethod
    def _find(collection, name: str, uid: int):
        named = collection.get(name)
        if named is not None and named.session_uid == uid:
            return named
        return next((each for each in collection if each.session_uid == uid), None)


def _place_of(scene: bpy.types.Scene) -> tuple[int, float]:
    """Where the timeline is."""
    return scene.frame_current, scene.frame_subframe


_now: dict[str, Recording] = {}


def current() -> Recording | None:
    """What is being read, if anything."""
    return _now.get("recording")


def record(context, item, frames: list[float], done: Callable[[list[Frame]], None]) -> Recording:
    """Begin to read `item` in these frames of the timeline."""
    made = _now["recording"] = Recording(context, item, frames, done)
    made.begin()
    return made


def unregister() -> None:
    running = current()
    if running is not None:
        running.stop()


def _tell(name: str, error: Exception) -> None:
    if not isinstance(error, FieldforgeError):
        log.exception("reading %s", name)
        error = BadInput(
            f"{name} could not be read: {type(error).__name__}: {error}.",
            "Try again; if it stays so, apply its modifiers first.",
        )
    session.jobs().tell(f"{name} was not compressed", error)


def read(context, item: bpy.types.Object) -> Frame:
    """The object as it is evaluated now; it may have no faces."""
    depsgraph = context.evaluated_depsgraph_get()
    evaluated = item.evaluated_get(depsgraph)
    mesh = evaluated.to_mesh(preserve_all_data_layers=False, depsgraph=depsgraph)
    try:
        return _frame_of(mesh, np.array(evaluated.matrix_world, np.float64))
    finally:
        evaluated.to_mesh_clear()


def check_faces(name: str, frames: list[Frame], where: str) -> None:
    """Raise BadInput where an object has no faces in any frame that was read; `where`: which these
    are. In some of them it may have none: what grows begins with nothing."""
    if any(len(frame.triangles) for frame in frames):
        return
    raise BadInput(
        f"{name} has no faces in {where}.",
        "Choose a frame range in which it is there. Instances count once they are made real "
        "(Object > Apply > Make Instances Real, or a Realize Instances node).",
    )


def _words(frames: list[float]) -> str:
    return f"frames {frames[0]:g} to {frames[-1]:g}" if len(frames) > 1 else f"frame {frames[0]:g}"


def _frame_of(mesh: bpy.types.Mesh, matrix_world: np.ndarray) -> Frame:
    vertices = np.empty(3 * len(mesh.vertices), np.float32)
    mesh.vertices.foreach_get("co", vertices)
    mesh.calc_loop_triangles()
    triangles = np.empty(3 * len(mesh.loop_triangles), np.int32)
    mesh.loop_triangles.foreach_get("vertices", triangles)
    return Frame(vertices.reshape(-1, 3), triangles.reshape(-1, 3), matrix_world)
