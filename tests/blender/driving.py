"""What the tests of whole jobs do as a person would, and wait for."""

from __future__ import annotations

import bpy
from fieldforge.blender_addon import session
from fieldforge.blender_addon.history import Job
from fieldforge.blender_addon.jobs import Jobs
from scenes import tick_until


def generate() -> list[Job]:
    """Click Generate; the jobs that it began."""
    known = list(session.jobs().jobs)
    assert bpy.ops.fieldforge.generate() == {"FINISHED"}
    return [job for job in session.jobs().jobs if job not in known]


def finish(running: Jobs, job: Job, state: str = "done") -> None:
    tick_until(running, lambda: not job.active)
    assert job.state == state, (job.state, job.error)


def result_objects(*known) -> list[bpy.types.Object]:
    return [item for item in bpy.data.objects if item not in known]


def know_models(running: Jobs) -> None:
    """Ask the backend which models it has."""
    said = []
    running.connect(lambda words, error: said.append(error))
    tick_until(running, lambda: said and not running.busy)
    assert said == [None]
