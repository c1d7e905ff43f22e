"""The one `Jobs` of this Blender, and what `register` and `unregister` do to it."""

from __future__ import annotations

from pathlib import Path

from .jobs import Jobs
from .preferences import current_settings

_jobs: Jobs | None = None


def jobs() -> Jobs:
    """The jobs of this Blender; only while the extension is registered."""
    if _jobs is None:
        raise RuntimeError("Fieldforge is not enabled.")
    return _jobs


def begin() -> Jobs:
    global _jobs
    _jobs = Jobs(Path(__file__).resolve().parent.parent, current_settings)
    _jobs.open()
    return _jobs


def end() -> None:
    global _jobs
    if _jobs is not None:
        _jobs.close()
    _jobs = None
