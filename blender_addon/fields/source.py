"""The source Animated Shape, and what is asked of objects and fields in the panel. Main thread."""

from __future__ import annotations

import bpy
import numpy as np

from ...backend.protocol import Animation, playable_fps
from ..capture import Facts, counted
from ..sources import cameras
from .arrival import KEYS
from .captures import MotionRequest
from .choices import chosen

KINDS = {"ANIMATION": Animation.kind}


def is_animation(settings) -> bool:
    return settings.source in KINDS


def facts(context, model: dict) -> Facts:
    settings = context.scene.fieldforge
    word = chosen(settings)
    what = f"A moving shape: {word}" if word else "A moving shape of the model's own choice"
    frames = settings.motion_frames or model.get("frames")
    return Facts(f"{what}, {counted(int(frames), 'frame')}" if frames else what)


def capture(context, model: dict) -> MotionRequest:
    settings = context.scene.fieldforge
    word = chosen(settings)
    fields = {
        "choice": word,
        "frames": settings.motion_frames,
        "topology": topology_of(settings.motion_way),
    }
    name = word.capitalize() if word else "Animated shape"
    return MotionRequest(name, cameras.at_cursor(context), fields)


def topology_of(way: str) -> str:
    """What is asked of the backend for a motion that is to be kept so."""
    return "one" if way == KEYS else "frames"


def import_options(context) -> dict:
    """`Destination.fields` of a motion that is new in the file."""
    settings, scene = context.scene.fieldforge, context.scene
    return {
        "way": settings.motion_way,
        "start": scene.frame_start,
        "preview_range": settings.motion_preview_range,
    }


def sampled_frames(scene: bpy.types.Scene, samples: int, loop: bool) -> list[float]:
    """The moments of the timeline that are read: spread evenly over the range, at most one for each
    of its frames. Of a loop, the frame after the range would be the first again."""
    begin, end = scene.frame_start, scene.frame_end
    count = max(1, min(samples, end - begin + 1))
    return np.linspace(begin, end + 1 if loop else end, count, endpoint=not loop).tolist()


def fps_of(scene: bpy.types.Scene, frames: list[float]) -> float:
    """Frames a second of a motion that was read in these frames of the timeline, as far as so many
    or few can be told; in Blender it plays as `spacing_of` says."""
    return playable_fps(scene.render.fps / scene.render.fps_base / spacing_of(frames))


def spacing_of(frames: list[float]) -> float:
    """How many frames of the timeline lie between two that are read."""
    return 1.0 if len(frames) < 2 else (frames[-1] - frames[0]) / (len(frames) - 1)
