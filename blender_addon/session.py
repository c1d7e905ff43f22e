"""The one `Jobs` of this Blender, its log, and what `register` and `unregister` do to them."""

from __future__ import annotations

import contextlib
import logging
from logging.handlers import RotatingFileHandler
from pathlib import Path

from .jobs import Jobs, log_file
from .preferences import current_settings

LOG_LIMIT = 1_000_000

_jobs: Jobs | None = None
_log: logging.Handler | None = None


def jobs() -> Jobs:
    """The jobs of this Blender; only while the extension is registered."""
    if _jobs is None:
        raise RuntimeError("Fieldforge is not enabled.")
    return _jobs


def begin() -> Jobs:
    global _jobs
    open_log()
    _jobs = Jobs(Path(__file__).resolve().parent.parent, current_settings)
    _jobs.open()
    return _jobs


def end() -> None:
    global _jobs
    if _jobs is not None:
        _jobs.close()
    _jobs = None
    close_log()


def open_log() -> None:
    """Write what goes wrong in the add-on to its log in the data folder, when that is possible."""
    global _log
    close_log()
    path = log_file()
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        _log = RotatingFileHandler(path, "a", LOG_LIMIT, 1, encoding="utf-8", delay=True)
        _log.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logging.getLogger(__package__).addHandler(_log)


def close_log() -> None:
    global _log
    if _log is not None:
        logging.getLogger(__package__).removeHandler(_log)
        _log.close()
    _log = None
