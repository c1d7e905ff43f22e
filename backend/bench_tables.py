"""Which benchmarks there are, and how their rows become a table."""

from __future__ import annotations

import importlib
import json
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import environment
from .errors import InternalError

Row = Mapping[str, Any]

ROOT = Path(__file__).resolve().parent.parent
IMPORT_SPEED = ROOT / "tests" / "blender" / "measure_import.py"
SPHERE_SPEED = ROOT / "tests" / "blender" / "measure_spheres.py"


def _rows_of(module: str) -> Callable[[], Iterable[Row]]:
    def rows() -> Iterable[Row]:
        found: Iterable[Row] = importlib.import_module(f".bench.{module}", __package__).rows()
        return found

    return rows


def import_speed() -> Iterable[Row]:
    """How fast a result becomes a Blender object."""
    return _rows_in_blender(IMPORT_SPEED)


def sphere_speed() -> Iterable[Row]:
    """How fast the sphere of a panorama becomes one, how much memory that takes, and how fast its
    controls move it."""
    return _rows_in_blender(SPHERE_SPEED)


def _rows_in_blender(script: Path) -> Iterable[Row]:
    """The rows that a script in Blender prints as JSON."""
    python = environment.ensure("blender")
    done = subprocess.run(
        [str(python), str(script)],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=ROOT,
        env=environment.child_environment(),
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith(("{", "["))]
    if done.returncode != 0 or not lines:
        raise InternalError(
            f"The measurement in Blender failed: {done.stderr.strip()[-300:]}.",
            "See: python3 -m backend doctor",
        )
    found = json.loads(lines[-1])
    return found if isinstance(found, list) else [found]


def wala(device: str = "auto") -> Iterable[Row]:
    """Stages of WaLa at the published size, on `device`."""
    found: Iterable[Row] = importlib.import_module(".bench.wala", __package__).rows(device)
    return found


def viewdiff(device: str = "auto") -> Iterable[Row]:
    """Steps of painting views, on `device`."""
    found: Iterable[Row] = importlib.import_module(".bench.viewdiff", __package__).rows(device)
    return found


def ldm3d(device: str = "auto") -> Iterable[Row]:
    """Steps and decoding of LDM3D at the published size, on `device`."""
    found: Iterable[Row] = importlib.import_module(".bench.ldm3d", __package__).rows(device)
    return found


BENCHES: dict[str, Callable[[], Iterable[Row]]] = {
    "geometry": _rows_of("geometry"),
    "reconstruction": _rows_of("reconstruction"),
    "blender": import_speed,
    "panorama": _rows_of("panorama"),
    "fusion": _rows_of("fusion"),
    "fields": _rows_of("fields"),
    "spheres": sphere_speed,
    "wala": wala,
    "viewdiff": viewdiff,
    "ldm3d": ldm3d,
}

ON_DEVICE: dict[str, Callable[[str], Iterable[Row]]] = {
    "wala": wala,
    "viewdiff": viewdiff,
    "ldm3d": ldm3d,
}
"""Those that run on the device of one's choice."""


def table(rows: Sequence[Row]) -> str:
    """Rows of equal or different columns -> text with columns aligned, numbers to the right."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [columns] + [[_cell(row.get(name)) for name in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    numeric = [all(_is_number(row.get(name)) for row in rows) for name in columns]
    lines = [
        "  ".join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in cells
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
