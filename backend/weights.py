"""Which models with weights there are, and which of them lie on this computer.

The registry (weights/registry.toml) names what can be downloaded. The store holds a folder per
model: model.json, which describes it, and .safetensors files. Bundled models lie in weights/ in
the same form. Standard library only: the server and the command line ask here.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import re
import shutil
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from . import environment, tensor_files
from .errors import BadInput, FieldforgeError, NotFound, NotInstalled, StorageFailed

_OWN = Path(__file__).resolve().parent.parent / "weights"
REGISTRY = _OWN / "registry.toml"
BUNDLED = Path(os.environ.get("FIELDFORGE_BUNDLED") or _OWN)
DESCRIPTION = "model.json"
FORMAT = 1
MAX_DESCRIPTION_BYTES = 1 << 20
MAX_TEXT_BYTES = 16 << 20
"""Of a file of settings or words in a model: vocabularies have a few megabytes."""
VIEW_KINDS = ("", "image", "depth")
LAYOUTS = ("checkpoint", "snapshot")

_STALE_SECONDS = 3600

_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_PART = r"(?:[A-Za-z0-9][A-Za-z0-9_-]{0,60}/)?[A-Za-z0-9][A-Za-z0-9._-]{0,120}"
_FILE = re.compile(_PART + r"\.safetensors")
_TEXT = re.compile(_PART + r"\.(?:json|txt|md)")


@dataclass(frozen=True)
class Entry:
    """A model that can be downloaded.

    tasks: kinds of tasks it does; family: which code runs it, such as "wala" or "ldm3d".
    repository, files: on the Hugging Face hub; bytes: of all files together, about.
    layout: "checkpoint", one file that is converted, or "snapshot", the files as they are: tensors
    (.safetensors) and texts (.json, .txt, .md), in folders at most one deep.
    optional: further files of a snapshot, taken where the repository has them.
    license: its identifier, which a person accepts; license_words: what it allows, in a sentence;
    license_file: its full text in the repository, or the card that names it, shown before the
    download.
    steps, guidance: what the authors found best. For a text model, those of the shape that is made
    of its views; its own are in `arguments`.
    views, view_kind, cameras: of models that take or make several views, in their order.
    arguments: published settings by their published names, for checkpoints without args.json.
    sha256: by file name, where known in advance; else the hub's own record is taken.
    needs: models without which it does nothing.
    """

    id: str
    title: str
    summary: str
    family: str
    tasks: tuple[str, ...]
    repository: str
    files: tuple[str, ...]
    bytes: int
    license: str
    license_url: str
    license_words: str
    steps: int
    guidance: float | None = None
    layout: str = "checkpoint"
    optional: tuple[str, ...] = ()
    license_file: str = "LICENSE.md"
    views: int = 0
    view_kind: str = ""
    cameras: tuple[int, ...] = ()
    arguments: dict[str, Any] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Installed:
    """A model on this computer. Fields as in Entry.

    files: of tensors under their published names; texts: settings and words that belong to it;
    config: for the family's configuration, such as WalaConfig.from_dict; source: where the weights
    come from; bundled: came with Fieldforge.
    default_for: of its tasks, those for which a bundled model goes before all others, also before
    what is built in. stands_in_for: those for which it goes after all others.
    """

    id: str
    title: str
    summary: str
    family: str
    tasks: tuple[str, ...]
    folder: Path
    files: tuple[Path, ...]
    config: dict[str, Any]
    steps: int
    guidance: float | None
    views: int
    view_kind: str
    cameras: tuple[int, ...]
    license: str
    source: dict[str, Any]
    bundled: bool
    needs: tuple[str, ...] = ()
    default_for: tuple[str, ...] = ()
    stands_in_for: tuple[str, ...] = ()
    texts: tuple[Path, ...] = ()

    @property
    def bytes(self) -> int:
        """Of the files of tensors together."""
        return sum(path.stat().st_size for path in self.files)

    def is_default(self, task_kind: str) -> bool:
        """Whether it is meant to be taken for a task when none was chosen."""
        return self.bundled and task_kind in self.default_for


# ---------------------------------------------------------------------------------------- registry


def entries() -> dict[str, Entry]:
    """The registry, in its order."""
    return dict(_registry(REGISTRY))


@functools.cache
def _registry(path: Path) -> dict[str, Entry]:
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    licenses = tables.pop("license")
    found = {}
    for name, table in tables.items():
        values = {**licenses[table["license"]], **table}
        for spec in fields(Entry):
            if str(spec.type).startswith("tuple") and spec.name in values:
                values[spec.name] = tuple(values[spec.name])
        values["license_url"] = values["license_url"].format(repository=values["repository"])
        found[name] = Entry(id=check_id(name), **values)
    return found


def check_id(name: str) -> str:
    """`name` when it can be the name of a model, and so of a folder. Raises BadInput."""
    if not isinstance(name, str) or not _ID.fullmatch(name):
        raise BadInput(
            f"{name!r} cannot be the name of a model.",
            "Use small letters, digits and hyphens, such as my-chairs-1.",
        )
    return name


# ------------------------------------------------------------------------------------------- store


def store() -> Path:
    """Where downloaded and converted models lie: FIELDFORGE_WEIGHTS, or weights/ in the home."""
    chosen = os.environ.get("FIELDFORGE_WEIGHTS")
    return Path(chosen).expanduser().absolute() if chosen else environment.home() / "weights"


def installed() -> dict[str, Installed]:
    """Every model that can be used: bundled ones first, then those of the store, by name.

    Folders that cannot be read are left out; `problems` tells why.
    """
    return _scan()[0]


def problems() -> dict[str, FieldforgeError]:
    """Folders of the store that look like models and cannot be used -> why."""
    return _scan()[1]


def _scan() -> tuple[dict[str, Installed], dict[str, FieldforgeError]]:
    found: dict[str, Installed] = {}
    bad: dict[str, FieldforgeError] = {}
    for root in (BUNDLED, store()):
        for folder in _folders(root):
            if folder.name in found:
                continue
            try:
                found[folder.name] = read_model(folder)
            except FieldforgeError as error:
                bad[folder.name] = error
    return found, bad


def _folders(root: Path) -> list[Path]:
    try:
        return sorted(path for path in root.iterdir() if (path / DESCRIPTION).is_file())
    except OSError:
        return []


def require(model_id: str) -> Installed:
    """The installed model. Raises NotInstalled with how to get it, NotFound for an unknown one."""
    have, bad = _scan()
    if model_id in have:
        return have[model_id]
    if model_id in bad:
        raise NotInstalled(
            f"The model {model_id} is damaged: {bad[model_id].cause}",
            bad[model_id].remedy,
        )
    entry = entries().get(model_id)
    if entry is None:
        known = ", ".join(dict.fromkeys((*have, *entries())))
        raise NotFound(f"There is no model {model_id!r}.", f"Choose one of {known}.")
    raise NotInstalled(
        f"The weights of {entry.title} are not on this computer "
        f"({entry.bytes / 1e9:.1f} GB to download).",
        "Get them in Preferences > Models > Download, or run: "
        f"python3 -m backend models download {model_id}",
    )


def best_for(task_kind: str) -> str | None:
    """The installed model to take for a task when none was chosen; None where there is none."""
    return next((model.id for model in ranked(task_kind)), None)


def ranked(task_kind: str, have: Mapping[str, Installed] | None = None) -> list[Installed]:
    """The installed models that can do a task, the best first. have: `installed()`, if known.

    Defaults first, then bundled before downloaded, those in the order of the registry, then the
    person's own, and what only stands in for others last.
    """
    have = installed() if have is None else have
    able = [
        model
        for model in have.values()
        if task_kind in model.tasks and all(need in have for need in model.needs)
    ]
    order = list(entries())

    def rank(model: Installed) -> tuple[bool, bool, bool, int]:
        place = order.index(model.id) if model.id in order else len(order)
        last = task_kind in model.stands_in_for
        return not model.is_default(task_kind), last, not model.bundled, place

    return sorted(able, key=rank)


# --------------------------------------------------------------------------------- a folder of it


def read_model(folder: Path) -> Installed:
    """The model in `folder`. Raises BadInput unless its description and files are whole.

    Files must have the size that was written down; `verify` also reads their content.
    """
    record = _read_description(folder)
    try:
        return _installed(folder, record)
    except (KeyError, TypeError, ValueError) as error:
        raise _unreadable(folder, f"{type(error).__name__}: {error}") from None


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    try:
        if path.stat().st_size > MAX_DESCRIPTION_BYTES:
            raise _unreadable(folder, f"its {DESCRIPTION} is too large")
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(folder, str(error)) from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise _unreadable(folder, f"its {DESCRIPTION} is of another version of Fieldforge")
    return record


def _installed(folder: Path, record: dict[str, Any]) -> Installed:
    if record["id"] != folder.name or not _ID.fullmatch(folder.name):
        raise ValueError(f"the folder is named {folder.name}, the model {record['id']!r}")
    texts = ("title", "summary", "family", "view_kind", "license")
    guidance = record["guidance"]
    well_formed = (
        all(type(record[name]) is str for name in texts)
        and record["view_kind"] in VIEW_KINDS
        and type(record["steps"]) is int
        and record["steps"] > 0
        and type(record["views"]) is int
        and record["views"] >= 0
        and (guidance is None or (type(guidance) in (int, float) and math.isfinite(guidance)))
        and isinstance(record["config"], dict)
        and isinstance(record["source"], dict)
    )
    if not well_formed:
        raise ValueError(f"its {DESCRIPTION} has a value of a wrong kind")
    return Installed(
        **{name: record[name] for name in texts},
        id=folder.name,
        tasks=_tuple(record["tasks"], str),
        folder=folder,
        files=tuple(_checked_file(folder, entry, _FILE) for entry in record["files"]),
        texts=tuple(_checked_file(folder, entry, _TEXT) for entry in record.get("texts", [])),
        config=record["config"],
        steps=record["steps"],
        guidance=None if guidance is None else float(guidance),
        views=record["views"],
        cameras=_tuple(record["cameras"], int),
        source=record["source"],
        bundled=folder.parent == BUNDLED,
        needs=_tuple(record.get("needs", []), str),
        default_for=_tuple(record.get("default_for", []), str),
        stands_in_for=_tuple(record.get("stands_in_for", []), str),
    )


def _tuple(values: Any, kind: type) -> tuple[Any, ...]:
    if not isinstance(values, list) or any(type(value) is not kind for value in values):
        raise ValueError(f"{values!r} is no list of {kind.__name__}")
    return tuple(values)


def _checked_file(folder: Path, entry: dict[str, Any], names: re.Pattern[str]) -> Path:
    """The file of an entry of "files" or "texts". Its name must not lead out of the folder."""
    name, size, digest = entry["name"], entry["bytes"], entry["sha256"]
    if not isinstance(name, str) or not names.fullmatch(name):
        raise ValueError(f"{name!r} is not the name of a file of a model")
    if not isinstance(digest, str):
        raise ValueError(f"the checksum of {name} is {digest!r}")
    path = folder / name
    have = path.stat().st_size if path.is_file() else None
    if have != size:
        state = "is missing" if have is None else f"has {have:,} bytes, not {size:,}"
        raise ValueError(f"{name} {state}")
    return path


def _unreadable(folder: Path, reason: str) -> BadInput:
    return BadInput(
        f"The model in {folder} cannot be used: {reason}.",
        "Remove that folder and get the model again.",
    )


def verify(model: Installed, report: Callable[[float], None] | None = None) -> None:
    """Read every file of `model`. Raises BadInput when one is not what was written."""
    record = _read_description(model.folder)
    for entry in (*record["files"], *record.get("texts", [])):
        path = model.folder / entry["name"]
        try:
            if path.suffix == ".safetensors":
                tensor_files.read_header(path)
            digest = tensor_files.file_hash(path, report)
        except OSError as error:
            raise BadInput(
                f"{path} cannot be read ({error.strerror or error}).",
                f"Check the disk and who may read the file; else remove {model.folder} and get "
                "the model again.",
            ) from None
        if digest != entry["sha256"]:
            raise BadInput(
                f"{path} has changed since it was written.",
                f"Remove {model.folder} and get the model again.",
            )


# --------------------------------------------------------------------------------------- writing


def write_model(
    folder: Path,
    *,
    id: str,
    title: str,
    family: str,
    tasks: tuple[str, ...],
    config: Mapping[str, Any],
    tensors: Mapping[str, Any],
    steps: int,
    summary: str = "",
    guidance: float | None = None,
    views: int = 0,
    view_kind: str = "",
    cameras: tuple[int, ...] = (),
    license: str = "",
    needs: tuple[str, ...] = (),
    default_for: tuple[str, ...] = (),
    stands_in_for: tuple[str, ...] = (),
    source: Mapping[str, Any] | None = None,
    texts: Mapping[str, str] | None = None,
    most_file_bytes: int | None = None,
    report: Callable[[float], None] | None = None,
) -> Installed:
    """Write the model `id` into `folder` (named so), in place of what was there, all or nothing.

    config: JSON-able, such as WalaConfig.to_dict(). tensors: by published name, such as
    Wala.published_state_dict(); torch, numpy or LazyTensor, one in memory at a time.
    texts: further files by name, such as LICENSE.md.
    most_file_bytes: of tensors in one file of weights, several are written where that is too few.
    report(fraction) is called meanwhile; what it raises ends the writing and leaves nothing.
    Raises BadInput for a name that cannot be, StorageFailed when the disk is too full.
    """
    _check_description(folder, id, tasks, (*default_for, *stands_in_for), steps)
    lazy = {name: tensor_files.as_lazy(tensor) for name, tensor in tensors.items()}
    total = sum(tensor.info.nbytes for tensor in lazy.values())
    with replaced_folder(folder, total) as partial:
        parts = _parts(lazy, most_file_bytes or total)
        written = []
        for number, part in enumerate(parts, 1):
            of = "" if len(parts) == 1 else f"-{number:05}-of-{len(parts):05}"
            path = partial / f"model{of}.safetensors"
            digest = tensor_files.write(path, part, report)
            written.append({"name": path.name, "bytes": path.stat().st_size, "sha256": digest})
        record = _record(
            id=id,
            title=title,
            summary=summary,
            family=family,
            tasks=tasks,
            config=config,
            steps=steps,
            guidance=guidance,
            views=views,
            view_kind=view_kind,
            cameras=cameras,
            license=license,
            needs=needs,
            default_for=default_for,
            stands_in_for=stands_in_for,
            files=written,
            source=source,
        )
        _write_description(partial, record)
        for name, words in (texts or {}).items():
            (partial / Path(name).name).write_text(words, encoding="utf-8")
    return read_model(folder)


def write_snapshot(
    folder: Path,
    parts: Mapping[str, Path],
    *,
    id: str,
    title: str,
    family: str,
    tasks: tuple[str, ...],
    config: Mapping[str, Any],
    steps: int,
    summary: str = "",
    guidance: float | None = None,
    views: int = 0,
    view_kind: str = "",
    cameras: tuple[int, ...] = (),
    license: str = "",
    needs: tuple[str, ...] = (),
    default_for: tuple[str, ...] = (),
    stands_in_for: tuple[str, ...] = (),
    source: Mapping[str, Any] | None = None,
    move: bool = False,
    report: Callable[[float], None] | None = None,
) -> Installed:
    """Write a model of files as libraries keep them into `folder` (named `id`), all or nothing.

    parts: name in the model, such as "unet/config.json" -> the file that is copied there, or moved
    (which leaves nothing behind when writing fails later): .safetensors, .json, .txt or .md.
    The others as in write_model. Raises BadInput for other files, or tensors that cannot be read,
    StorageFailed when the disk is too full.
    """
    _check_description(folder, id, tasks, (*default_for, *stands_in_for), steps)
    for name, path in parts.items():
        _check_part(name, path)
    sizes = {name: path.stat().st_size for name, path in parts.items()}
    total = sum(sizes.values()) or 1
    with replaced_folder(folder, 0 if move else total) as partial:
        written: dict[str, list[dict[str, Any]]] = {"files": [], "texts": []}
        before = 0
        for name, path in parts.items():
            place = partial / name
            place.parent.mkdir(exist_ok=True)
            (shutil.move if move else shutil.copyfile)(path, place)

            def told(fraction: float, size: int = sizes[name], at: int = before) -> None:
                if report:
                    report((at + fraction * size) / total)

            entry = {
                "name": name,
                "bytes": sizes[name],
                "sha256": tensor_files.file_hash(place, told),
            }
            written["files" if place.suffix == ".safetensors" else "texts"].append(entry)
            before += sizes[name]
        record = _record(
            id=id,
            title=title,
            summary=summary,
            family=family,
            tasks=tasks,
            config=config,
            steps=steps,
            guidance=guidance,
            views=views,
            view_kind=view_kind,
            cameras=cameras,
            license=license,
            needs=needs,
            default_for=default_for,
            stands_in_for=stands_in_for,
            source=source,
            files=written["files"],
            texts=written["texts"],
        )
        _write_description(partial, record)
    return read_model(folder)


def _record(
    *,
    config: Mapping[str, Any],
    files: list[dict[str, Any]],
    source: Mapping[str, Any] | None,
    texts: list[dict[str, Any]] | None = None,
    views: int = 0,
    view_kind: str = "",
    **described: Any,
) -> dict[str, Any]:
    """What model.json says. described: fields of Installed that need no more than to be JSON."""
    lists = {"tasks": (), "cameras": (), "needs": (), "default_for": (), "stands_in_for": ()}
    listed = {name: list(described.pop(name, nothing)) for name, nothing in lists.items()}
    return {
        "format": FORMAT,
        **described,
        **listed,
        "config": dict(config),
        "views": views,
        "view_kind": view_kind,
        "files": files,
        "texts": texts or [],
        "source": dict(source or {}),
    }


def _check_part(name: str, path: Path) -> None:
    """Raise BadInput unless a snapshot may have that file."""
    if _FILE.fullmatch(name):
        tensor_files.read_header(path)
    elif not _TEXT.fullmatch(name) or name == DESCRIPTION:
        raise BadInput(
            f"A model cannot have a file {name!r}.",
            "Leave it out: models hold .safetensors, .json, .txt and .md files only.",
        )
    elif path.stat().st_size > MAX_TEXT_BYTES:
        raise BadInput(
            f"{name} is too large for a text ({path.stat().st_size / 1e6:.0f} MB).",
            "Get the model from its authors again.",
        )


def _check_description(
    folder: Path, id: str, tasks: tuple[str, ...], default_for: tuple[str, ...], steps: int
) -> None:
    """Raise BadInput for a name, defaults or steps that cannot be."""
    if check_id(id) != folder.name:
        raise BadInput(f"The model {id} cannot lie in {folder}.", f"Use {folder.parent / id}.")
    if steps < 1:
        raise BadInput(f"The model {id} cannot sample in {steps} steps.", "Give at least one.")
    impossible = sorted({*default_for} - {*tasks})
    if impossible:
        raise BadInput(
            f"The model {id} cannot be the default for {', '.join(impossible)}, which it does not"
            " do.",
            f"Choose of its tasks: {', '.join(tasks)}.",
        )


def _write_description(folder: Path, record: Mapping[str, Any]) -> None:
    text = json.dumps(record, indent=1, ensure_ascii=False)
    (folder / DESCRIPTION).write_text(text + "\n", encoding="utf-8")


def _parts(
    tensors: Mapping[str, tensor_files.LazyTensor], most: int
) -> list[dict[str, tensor_files.LazyTensor]]:
    """In their order, as many to a part as `most` bytes hold, and at least one."""
    parts: list[dict[str, tensor_files.LazyTensor]] = [{}]
    held = 0
    for name, tensor in tensors.items():
        if parts[-1] and held + tensor.info.nbytes > most:
            parts.append({})
            held = 0
        parts[-1][name] = tensor
        held += tensor.info.nbytes
    return parts


@contextlib.contextmanager
def replaced_folder(folder: Path, needed_bytes: int = 0) -> Iterator[Path]:
    """A new folder that becomes `folder` at the end, or is removed. Raises StorageFailed."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(folder)
        check_disk(folder.parent, needed_bytes)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        yield partial
        partial.chmod(0o755)  # mkdtemp keeps others out
        _take_place(partial, folder)
    except OSError as error:
        raise _unwritable(folder, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _remove_stale(folder: Path) -> None:
    """Remove what a process left that was killed while it wrote `folder`."""
    for left in folder.parent.glob(f".{folder.name}-*"):
        with contextlib.suppress(OSError):  # whoever it belongs to may be removing it, too
            newest = max(path.stat().st_mtime for path in (left, *left.glob("*")))
            if time.time() - newest > _STALE_SECONDS:
                shutil.rmtree(left, ignore_errors=True)


def _take_place(partial: Path, folder: Path) -> None:
    if not folder.exists():
        partial.rename(folder)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent)) / "old"
    try:
        folder.rename(old)
        try:
            partial.rename(folder)
        except OSError:
            old.rename(folder)
            raise
    finally:
        shutil.rmtree(old.parent, ignore_errors=True)


def check_disk(folder: Path, needed_bytes: int) -> None:
    """Raise StorageFailed unless that much is free on the disk of `folder` (it, or what is to hold
    it, must exist)."""
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(nearest).free
    if needed_bytes > free:
        raise StorageFailed(
            f"{needed_bytes / 1e9:.1f} GB are needed in {folder}, {free / 1e9:.1f} GB are free.",
            "Make room, or set FIELDFORGE_WEIGHTS to a folder on another disk.",
        )


def _unwritable(folder: Path, error: OSError) -> StorageFailed:
    return StorageFailed(
        f"The model cannot be written to {folder} ({error.strerror or error}).",
        "Make room, or set FIELDFORGE_WEIGHTS to a folder of your own.",
    )
