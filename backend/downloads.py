"""Files of a model from the Hugging Face hub: licence first, resumed where it stopped, checked.

huggingface_hub says what a file is (its commit, size and checksum) and who may have it. The bytes
are fetched here, since it begins anew each time it is interrupted: they are appended to a file
that stays, named after its checksum, and a file gets its name once its checksum is right.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import requests

from . import tensor_files, weights
from .checkpoints import Checkpoint
from .conversion import convert
from .errors import (
    BadInput,
    FieldforgeError,
    LicenseNotAccepted,
    NotAuthorized,
    NotFound,
    QueueFull,
    StorageFailed,
    Unreachable,
)
from .tensor_files import PIECE_BYTES, file_hash
from .weights import Entry, Installed

Report = Callable[[str, float], None]
"""report(stage, fraction of that stage); what it raises ends the work."""

OPTIONAL = ("args.json",)  # settings are read from the shapes of the weights without it
CONVERTED_SHARE = 0.35
"""What the weights take of a checkpoint, which repeats them for averages and the optimiser."""
LARGEST_SHARE = 2.0
"""Of the bytes that the registry tells of a snapshot: more is not what a person agreed to."""

_PICKLES = {
    "pytorch_model.bin": "model.safetensors",
    "diffusion_pytorch_model.bin": "diffusion_pytorch_model.safetensors",
}
"""Older files of weights, by their name -> what stands for them now."""
_CHUNK_BYTES = 1 << 17  # what of it came is lost when the connection is
_TIMEOUT = (10, 30)  # to connect, between two pieces
_ATTEMPTS = 5
_LONGEST_TEXT = 1 << 20


@dataclass(frozen=True)
class HubFile:
    """A file of a repository at one commit. digest: its SHA-256, or that of git (SHA-1) for small
    files."""

    name: str
    url: str
    commit: str
    size: int
    digest: str


# ----------------------------------------------------------------------------------- whole models


def install(
    entry: Entry,
    *,
    license: str,
    dtype: str | None = None,
    keep_checkpoint: bool = False,
    report: Report,
) -> Installed:
    """Download, check and convert the model `entry`; the checkpoint is then removed.

    license: the identifier that the person accepted. What was downloaded stays when this is
    interrupted, and is gone on with the next time. dtype, keep_checkpoint: of checkpoints alone.
    Raises LicenseNotAccepted, Unreachable, NotAuthorized, NotFound, StorageFailed, BadInput.
    """
    check_license(entry, license)
    _check_wishes(entry, dtype, keep_checkpoint)
    folder = weights.store() / ".downloads" / entry.id
    with _alone(folder, entry.title):
        report("Asking for the files", 0.0)
        files = _files(entry)
        _remove_others(folder, files)
        _check_disk(entry, folder, files)
        _fetch_all(files, folder, report)
        _check_all(files, folder, report)
        report("Converting", 0.0)
        if entry.layout == "snapshot":
            return _snapshot(entry, files, folder, report)
        checkpoint = next(file for file in files if file.name not in (*OPTIONAL, _text_of(entry)))
        model = convert(
            folder / checkpoint.name,
            model_id=entry.id,
            dtype=dtype,
            source={
                "repository": entry.repository,
                "commit": checkpoint.commit,
                "sha256": {file.name: file.digest for file in files},
            },
            texts=_texts(folder, entry),
            report=lambda fraction: report("Converting", fraction),
        )
        if not keep_checkpoint:
            for file in files:
                (folder / file.name).unlink(missing_ok=True)
    return model


def _check_wishes(entry: Entry, dtype: str | None, keep_checkpoint: bool) -> None:
    """Raise BadInput for what the layout of a model has no place for."""
    if entry.layout != "snapshot" or not (dtype or keep_checkpoint):
        return
    if dtype:
        raise BadInput(
            f"{entry.title} is kept as it is published, and not converted to {dtype}.",
            "Leave out --dtype. On a graphics card what can be is used in half precision anyway.",
        )
    raise BadInput(
        f"{entry.title} has no checkpoint to keep: its files are used as they are published.",
        "Leave out --keep-checkpoint.",
    )


def _snapshot(entry: Entry, files: list[HubFile], folder: Path, report: Report) -> Installed:
    """The model of the files as they are; a pickle becomes a file of tensors."""
    parts: dict[str, Path] = {}
    for number, file in enumerate(files):
        path = folder / file.name
        if path.suffix == ".bin":

            def told(fraction: float, number: int = number) -> None:
                report("Converting", 0.5 * (number + fraction) / len(files))

            path = _as_tensors(path, told)
        parts[path.relative_to(folder).as_posix()] = path
    model = weights.write_snapshot(
        weights.store() / entry.id,
        parts,
        id=entry.id,
        title=entry.title,
        summary=entry.summary,
        family=entry.family,
        tasks=entry.tasks,
        config=entry.arguments,
        steps=entry.steps,
        guidance=entry.guidance,
        views=entry.views,
        view_kind=entry.view_kind,
        cameras=entry.cameras,
        license=entry.license,
        needs=entry.needs,
        source={
            "repository": entry.repository,
            "commit": files[0].commit,
            "digests": {file.name: file.digest for file in files},
        },
        move=True,
        report=lambda fraction: report("Converting", 0.5 + 0.5 * fraction),
    )
    shutil.rmtree(folder, ignore_errors=True)
    return model


def _as_tensors(path: Path, report: Callable[[float], None]) -> Path:
    """A pickle of a library's weights -> the .safetensors file beside it, the pickle removed.

    Nothing of it is run: see `checkpoints`. Raises BadInput.
    """
    checkpoint = Checkpoint(path)
    tensors = {name: checkpoint.lazy(tensor) for name, tensor in checkpoint.state_dict().items()}
    made = path.with_name(_PICKLES[path.name])
    try:
        tensor_files.write(made, tensors, report)
        path.unlink()
    except OSError as error:
        raise _unwritable(path.parent, error) from error
    return made


def check_license(entry: Entry, accepted: str) -> None:
    """Raise LicenseNotAccepted unless `accepted` names the licence of `entry`."""
    if accepted != entry.license:
        raise LicenseNotAccepted(
            f"The licence of {entry.title} has to be accepted first. {entry.license_words}",
            f"Read it ({entry.license_url}), then accept it in Preferences > Models or with "
            "--accept-license.",
        )


def license_text(entry: Entry) -> str:
    """The full text of the licence as it lies in the repository. Raises as `install` does."""
    file = _describe(entry, entry.license_file, "main")
    with _in_words(entry.repository):
        with requests.get(file.url, headers=_headers(), stream=True, timeout=_TIMEOUT) as answer:
            answer.raise_for_status()
            text = next(answer.iter_content(_LONGEST_TEXT), b"")
        return text.decode("utf-8", "replace")


@contextlib.contextmanager
def _alone(folder: Path, title: str) -> Iterator[None]:
    """Hold the folder of a download. The system lets go of it when the process ends."""
    import filelock

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error
    lock = filelock.FileLock(folder.with_name(f"{folder.name}.lock"), blocking=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise QueueFull(f"{title} is being downloaded already.", "Wait until it is done.") from None
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        yield
    finally:
        lock.release()


def _files(entry: Entry) -> list[HubFile]:
    """What to download, all of one commit."""
    found: list[HubFile] = []
    optional = (*OPTIONAL, *entry.optional, _text_of(entry))
    for name in (*entry.files, *entry.optional, _text_of(entry)):
        revision = found[0].commit if found else "main"
        try:
            file = _describe(entry, name, revision)
        except NotFound:
            if name in optional:
                continue
            pickled = _pickled(name) if entry.layout == "snapshot" else None
            if pickled is None:
                raise
            file = _describe(entry, pickled, revision)
        known = entry.sha256.get(file.name)  # of a pickle in its place nothing is known
        if known and known != file.digest:
            raise BadInput(
                f"{name} of {entry.repository} is not the file that Fieldforge knows.",
                "Update Fieldforge; its authors may have published another one.",
            )
        found.append(file)
    if entry.layout == "snapshot":
        _check_sizes(entry, found)
    return found


def _pickled(name: str) -> str | None:
    """What an older repository has in place of a file of tensors."""
    folder, slash, own = name.rpartition("/")
    older = next((old for old, new in _PICKLES.items() if new == own), None)
    return folder + slash + older if older else None


def _check_sizes(entry: Entry, files: list[HubFile]) -> None:
    """Raise BadInput where the hub has much more than the registry says."""
    total = sum(file.size for file in files)
    if total > LARGEST_SHARE * entry.bytes:
        raise BadInput(
            f"{entry.repository} has {total / 1e9:.1f} GB now, {entry.bytes / 1e9:.1f} GB are"
            " known.",
            "Update Fieldforge; its authors may have published another model.",
        )
    for file in files:
        tensors = file.name.endswith((".safetensors", ".bin"))
        if not tensors and file.size > weights.MAX_TEXT_BYTES:
            raise BadInput(
                f"{file.name} of {entry.repository} is no text ({file.size / 1e6:.0f} MB).",
                "Update Fieldforge; its authors may have published another model.",
            )


def _text_of(entry: Entry) -> str:
    return entry.license_file


def _texts(folder: Path, entry: Entry) -> dict[str, str]:
    path = folder / _text_of(entry)
    return {path.name: path.read_text("utf-8", "replace")} if path.is_file() else {}


def _remove_others(folder: Path, files: list[HubFile]) -> None:
    """Remove what is left of versions that the hub has no more: gigabytes, and settings that would
    be taken for those of the new one."""
    wanted = {path for file in files for path in (folder / file.name, _partial(folder, file))}
    for path in list(folder.rglob("*")):
        if path not in wanted and path.is_file():
            path.unlink(missing_ok=True)


def _partial(folder: Path, file: HubFile) -> Path:
    return folder / f"{file.name}.{file.digest[:16]}.partial"


def _check_disk(entry: Entry, folder: Path, files: list[HubFile]) -> None:
    """Raise StorageFailed unless what is still to come and what is made of it fits."""
    if entry.layout == "snapshot":
        made = max((file.size for file in files if file.name.endswith(".bin")), default=0)
    else:
        made = int(sum(file.size for file in files) * CONVERTED_SHARE)
    to_come = sum(
        0 if _size(folder / file.name) == file.size else file.size - _size(_partial(folder, file))
        for file in files
    )
    weights.check_disk(folder, max(0, to_come) + made)


# ------------------------------------------------------------------------------------------ the hub


def _describe(entry: Entry, name: str, revision: str) -> HubFile:
    """What the hub says of a file. Raises NotFound, NotAuthorized, Unreachable."""
    huggingface_hub = _hub()
    url = huggingface_hub.hf_hub_url(
        entry.repository, name, revision=revision, endpoint=os.environ.get("HF_ENDPOINT")
    )
    with _in_words(entry.repository, name):
        found = huggingface_hub.get_hf_file_metadata(url, headers=_headers())
    digest = (found.etag or "").lower()
    if found.size is None or not re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{40}", digest):
        raise Unreachable(
            f"The hub does not say what {name} of {entry.repository} is.",
            "Try again later; if it stays so, update Fieldforge.",
        )
    commit = found.commit_hash or revision
    exact = huggingface_hub.hf_hub_url(
        entry.repository, name, revision=commit, endpoint=os.environ.get("HF_ENDPOINT")
    )
    return HubFile(name, exact, commit, found.size, digest)


def _hub() -> types.ModuleType:
    """huggingface_hub, told not to report on the person's computer."""
    import huggingface_hub
    from huggingface_hub import constants

    constants.HF_HUB_DISABLE_TELEMETRY = True
    return huggingface_hub


def _headers() -> dict[str, str]:
    _hub()
    from huggingface_hub.utils import build_hf_headers

    headers: dict[str, str] = build_hf_headers(library_name="fieldforge")
    return {**headers, "Accept-Encoding": "identity"}


@contextlib.contextmanager
def _in_words(repository: str, name: str = "the licence") -> Iterator[None]:
    """Errors of the hub and of the network -> ours."""
    from huggingface_hub import errors

    try:
        yield
    except FieldforgeError:
        raise
    except errors.GatedRepoError:
        raise NotAuthorized(
            f"{repository} is given only to those who asked its authors.",
            "Ask for access on its page at the hub, then set HF_TOKEN to your token.",
        ) from None
    except errors.RepositoryNotFoundError:
        raise NotFound(
            f"The hub has no {repository}, or shows it to members only.",
            "Update Fieldforge; where you have access, set HF_TOKEN to your token.",
        ) from None
    except errors.EntryNotFoundError:
        raise NotFound(f"{repository} has no file {name}.", "Update Fieldforge.") from None
    except errors.OfflineModeIsEnabled:
        raise Unreachable(
            "Downloads are switched off on this computer (HF_HUB_OFFLINE).",
            "Clear that variable, or convert a checkpoint that you have: models convert.",
        ) from None
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            raise NotAuthorized(
                f"The hub does not give {repository} to you.",
                "If you set HF_TOKEN, check that it is valid; else ask for access on its page.",
            ) from None
        detail = f"it answers {status}" if status else type(error).__name__
        raise Unreachable(
            f"The hub cannot be reached for {repository} ({detail}).",
            "Connect to the internet, check proxy and firewall, and try again: what is here stays.",
        ) from error


# --------------------------------------------------------------------------------------- one file


def _fetch_all(files: list[HubFile], folder: Path, report: Report) -> None:
    """Have every file in `folder`, its size right. Those that are begun are gone on with."""
    total = sum(file.size for file in files) or 1
    before = 0
    for file in files:
        path = folder / file.name
        if not (path.is_file() and path.stat().st_size == file.size):
            stage = f"Downloading {file.name} ({file.size / 1e9:.1f} GB)"

            def told(done: int, stage: str = stage, before: int = before) -> None:
                report(stage, (before + done) / total)

            partial = _partial(folder, file)
            try:
                path.parent.mkdir(exist_ok=True)
                _complete(file, partial, told)
                partial.replace(path)
            except OSError as error:
                raise _unwritable(folder, error) from error
        before += file.size


def _check_all(files: list[HubFile], folder: Path, report: Report) -> None:
    """Raise BadInput, and remove the file, where a checksum is wrong."""
    total = sum(file.size for file in files) or 1
    before = 0
    for file in files:
        path = folder / file.name
        stage = f"Checking {file.name}"

        def told(
            fraction: float, stage: str = stage, file: HubFile = file, at: int = before
        ) -> None:
            report(stage, (at + fraction * file.size) / total)

        told(0.0)
        if _digest(path, file, told) != file.digest:
            path.unlink()
            raise BadInput(
                f"{file.name} is not what the hub says it is (its checksum is another one). "
                "It was removed.",
                "Download it again; if that does not help, something on the way changes it.",
            )
        before += file.size


def _complete(file: HubFile, partial: Path, told: Callable[[int], None]) -> None:
    """Append to `partial` until it is as large as the file. Lost connections are taken up again.

    told(bytes so far) is called often.
    """
    attempts = 0
    furthest = _size(partial)  # a server that begins anew each time must not be asked for ever
    if file.size == 0:
        partial.touch()
    while (have := _size(partial)) != file.size:
        if have > file.size:
            partial.unlink()
            continue
        with contextlib.suppress(requests.RequestException):
            _append(file, partial, have, told)
        if _size(partial) > furthest:
            attempts, furthest = 0, _size(partial)
            continue
        attempts += 1
        if attempts == _ATTEMPTS:
            raise Unreachable(
                f"The connection was lost at {have / 1e9:.2f} of {file.size / 1e9:.2f} GB.",
                "Download it again when the network is back, and asks for no sign-in: it goes on "
                "from there.",
            )
        _pause(min(2.0 ** (attempts - 1), 8.0), lambda: told(_size(partial)))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _append(file: HubFile, partial: Path, have: int, told: Callable[[int], None]) -> None:
    headers = {**_headers(), **({"Range": f"bytes={have}-"} if have else {})}
    with requests.get(file.url, headers=headers, stream=True, timeout=_TIMEOUT) as answer:
        if answer.status_code >= 500 or answer.status_code in (408, 429):
            raise requests.ConnectionError
        with _in_words(file.name):
            answer.raise_for_status()
        goes_on = answer.status_code == 206 and answer.headers.get(
            "Content-Range", f"bytes {have}-"
        ).startswith(f"bytes {have}-")
        done = have if goes_on else 0
        if answer.headers.get("Content-Length", str(file.size - done)) != str(file.size - done):
            # Another page, such as that of a hotel's network: what is here is not given up for it.
            raise requests.ConnectionError
        with partial.open("ab" if goes_on else "wb") as output:
            for chunk in answer.iter_content(_CHUNK_BYTES):
                # Never more than the file: an answer without end would fill the disk.
                done += output.write(chunk[: file.size - done])
                told(done)
                if done == file.size:
                    break


def _pause(seconds: float, ask: Callable[[], None]) -> None:
    """Sleep, and ask now and then whether to go on: `ask` raises when not."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ask()
        time.sleep(0.1)


def _digest(path: Path, file: HubFile, report: Callable[[float], None]) -> str:
    if len(file.digest) == 64:
        return file_hash(path, report)
    # What git names a file by. No protection against an attacker, which size and use need not be:
    # such files are small texts that are only parsed.
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as content:
        while piece := content.read(PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def _unwritable(folder: Path, error: OSError) -> StorageFailed:
    return StorageFailed(
        f"The download cannot be written to {folder} ({error.strerror or error}).",
        "Make room, or set FIELDFORGE_WEIGHTS to a folder on another disk; what is here stays.",
    )
