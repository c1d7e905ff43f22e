"""Ending with the parent: nothing of the backend outlives the Blender that started it."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

_END_SECONDS = 1.8


def watch(end: Callable[[], None], parent_pid: int | None, exit_with_stdin: bool) -> None:
    """Call `end`, from a thread, once the process `parent_pid` is gone or stdin has ended.

    When this process still lives 1.8 s later, it hangs and is ended at once.
    """
    if exit_with_stdin:
        _afterwards(_wait_for_end_of_stdin, end)
    if parent_pid is not None:
        _afterwards(lambda: _wait_for_end_of(parent_pid), end)


def _afterwards(wait: Callable[[], None], end: Callable[[], None]) -> None:
    def wait_and_end() -> None:
        wait()
        end()
        time.sleep(_END_SECONDS)
        os._exit(1)  # the workers see that we are gone, and end too

    threading.Thread(target=wait_and_end, daemon=True).start()


def _wait_for_end_of_stdin() -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass


def _wait_for_end_of(pid: int) -> None:
    is_parent = os.getppid() == pid
    while process_lives(pid) and (not is_parent or os.getppid() == pid):
        time.sleep(0.25)


def process_lives(pid: int) -> bool:
    """Whether the process is there and has not ended (a zombie has)."""
    if sys.platform == "win32":
        return _process_lives_on_windows(pid)
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        status = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return sys.platform != "linux"
    return status.rpartition(")")[2].split()[0] not in "ZX"


def _process_lives_on_windows(pid: int) -> bool:
    import ctypes

    synchronize, timed_out = 0x00100000, 0x102
    kernel = getattr(ctypes, "windll").kernel32  # noqa: B009 (exists on Windows only)
    handle = kernel.OpenProcess(synchronize, False, pid)
    if not handle:
        return False
    try:
        return bool(kernel.WaitForSingleObject(handle, 0) == timed_out)
    finally:
        kernel.CloseHandle(handle)
