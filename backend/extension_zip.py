"""Makes the .zip that Blender installs from disk, the same bytes every time. Standard library only.

What goes in is said by `paths_exclude_pattern` of the manifest, in the syntax of .gitignore.
"""

from __future__ import annotations

import fnmatch
import os
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

from .errors import NotFound

ROOT = Path(__file__).resolve().parent.parent
MANIFEST = "blender_manifest.toml"
_EPOCH = (1980, 1, 1, 0, 0, 0)


def build(folder: Path, root: Path = ROOT) -> Path:
    """Write `folder/<id>-<version>.zip` and return its path. Raises NotFound, OSError."""
    try:
        manifest = tomllib.loads((root / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFound(
            f"There is no {MANIFEST} in {root}.", "Run this from a copy of the repository."
        ) from None
    patterns = manifest.get("build", {}).get("paths_exclude_pattern", [])
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{manifest['id']}-{manifest['version']}.zip"
    partial = target.with_suffix(".zip.partial")
    try:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for path in sorted(packed_files(root, patterns)):
                _add(archive, root / path, path)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def packed_files(root: Path, patterns: list[str]) -> Iterator[str]:
    """Paths with "/" of every file below `root` that no pattern excludes."""
    for folder, names, files in os.walk(root):
        base = Path(folder).relative_to(root).as_posix()
        prefix = "" if base == "." else base + "/"
        names[:] = [name for name in names if not is_excluded(prefix + name, True, patterns)]
        yield from (prefix + n for n in files if not is_excluded(prefix + n, False, patterns))


def is_excluded(path: str, is_folder: bool, patterns: list[str]) -> bool:
    """Whether the last pattern that fits `path` excludes it; "!" in front takes it back in."""
    excluded = False
    for pattern in patterns:
        wanted = not pattern.startswith("!")
        rule = pattern.lstrip("!")
        if rule.endswith("/") and not is_folder:
            continue
        rule = rule.rstrip("/")
        if "/" in rule:
            fits = path.count("/") == rule.strip("/").count("/") and fnmatch.fnmatchcase(
                path, rule.lstrip("/")
            )
        else:
            fits = fnmatch.fnmatchcase(path.rpartition("/")[2], rule)
        if fits:
            excluded = wanted
    return excluded


def _add(archive: zipfile.ZipFile, source: Path, name: str) -> None:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, source.read_bytes())
