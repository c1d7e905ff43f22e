"""Which device works, and how much memory it has. torch is imported only when it is asked for."""

from __future__ import annotations

import os
import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from .errors import BadInput

CHOICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class Device:
    """A device to compute on. kind: "cpu" or "cuda"; memory in bytes, 0 when it is not known."""

    kind: str
    name: str
    free_bytes: int
    total_bytes: int

    def in_words(self) -> str:
        """For people: "NVIDIA H200, 130.2 of 139.8 GB free"."""
        if not self.total_bytes:
            return self.name
        free, total = self.free_bytes / 2**30, self.total_bytes / 2**30
        return f"{self.name}, {free:.1f} of {total:.1f} GB free"


def check_choice(wanted: str) -> None:
    """Raise BadInput unless `wanted` is one of CHOICES."""
    if wanted not in CHOICES:
        raise BadInput(
            f"The device {wanted!r} is not known.", f"Choose one of {', '.join(CHOICES)}."
        )


def pick(wanted: str = "auto") -> str:
    """ "cpu" or "cuda"; "auto" takes the graphics card when torch can use one.

    Raises BadInput when "cuda" is wanted and there is none, or the choice is not known.
    """
    check_choice(wanted)
    if wanted == "cpu":
        return "cpu"
    if _cuda_works():
        return "cuda"
    if wanted == "auto":
        return "cpu"
    raise BadInput(
        "There is no NVIDIA graphics card that this backend can use.",
        "Choose the device auto or cpu, or install a current NVIDIA driver and repair the backend.",
    )


def describe(wanted: str = "auto") -> Device:
    """The device that `pick` chooses, with its name and memory. Raises as `pick` does."""
    if pick(wanted) == "cpu":
        free, total = _main_memory()
        return Device("cpu", _processor_name(), free, total)
    import torch

    free, total = torch.cuda.mem_get_info()
    return Device("cuda", torch.cuda.get_device_name(), free, total)


def usable_cores() -> int:
    """Processor cores that this process may use; at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def _cuda_works() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return bool(torch.cuda.is_available())


def _processor_name() -> str:
    if sys.platform == "linux":
        found = re.search(r"model name\s*:\s*(.+)", _read("/proc/cpuinfo"))
        if found:
            return " ".join(found[1].split())
    return platform.processor() or platform.machine() or "Processor"


def _main_memory() -> tuple[int, int]:
    """Free and total bytes of main memory; (0, 0) when the system does not say."""
    if sys.platform == "win32":
        return _main_memory_of_windows()
    found = dict(re.findall(r"(\w+):\s+(\d+) kB", _read("/proc/meminfo")))
    if "MemTotal" in found:
        total = int(found["MemTotal"]) << 10
        return _within_container(int(found.get("MemAvailable", 0)) << 10, total)
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return 0, 0
    return total, total


# Files of a control group, version 2 and 1: the limit, what is used, and the names in memory.stat
# of what is only kept because there is room.
_CONTROL_GROUPS = (
    ("memory.max", "memory.current", "memory.stat", ("active_file", "inactive_file")),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        ("total_active_file", "total_inactive_file"),
    ),
)


def _within_container(
    free: int, total: int, folder: Path = Path("/sys/fs/cgroup")
) -> tuple[int, int]:
    """Free and total bytes where a container allows less than the machine has."""
    for limit_file, used_file, stat_file, kept_names in _CONTROL_GROUPS:
        limit, used = _read(str(folder / limit_file)), _read(str(folder / used_file))
        if not limit.strip().isdecimal() or not used.strip().isdecimal():
            continue  # there is no such file, or its word is "max"
        kept = dict(re.findall(r"(\w+) (\d+)", _read(str(folder / stat_file))))
        really_used = int(used) - sum(int(kept.get(name, 0)) for name in kept_names)
        left = max(0, int(limit) - max(0, really_used))
        return min(free, left), min(total, int(limit))
    return free, total


def _main_memory_of_windows() -> tuple[int, int]:
    import ctypes

    class MemoryStatus(ctypes.Structure):
        _fields_ = (
            ("length", ctypes.c_uint32),
            ("load", ctypes.c_uint32),
            ("total", ctypes.c_uint64),
            ("available", ctypes.c_uint64),
            ("rest", ctypes.c_uint64 * 5),
        )

    status = MemoryStatus(length=ctypes.sizeof(MemoryStatus))
    windll = getattr(ctypes, "windll")  # noqa: B009 (exists on Windows only)
    if not windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
        return 0, 0
    return status.available, status.total


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
