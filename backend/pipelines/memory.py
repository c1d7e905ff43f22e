"""A job that cannot fit into memory is told so before it starts, not by the end of its process."""

from __future__ import annotations

from .. import device as devices
from ..errors import OutOfMemory

LOWER = "Choose a lower resolution or a smaller source, or close other programs."


def require(needed: int, device: str, remedy: str = LOWER) -> None:
    """Raise OutOfMemory unless `needed` bytes are free on `device` ("cpu" or "cuda").

    Where the system does not say what is free, the job is let through.
    """
    place = devices.describe(device)
    if not place.total_bytes or needed <= place.free_bytes:
        return
    where = "main memory" if place.kind == "cpu" else f"memory of {place.name}"
    raise OutOfMemory(
        f"This job needs about {_gigabytes(needed)} of {where}; "
        f"{_gigabytes(place.free_bytes)} are free.",
        remedy,
    )


def _gigabytes(count: int) -> str:
    return f"{count / 2**30:.1f} GB"
