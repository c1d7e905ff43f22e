"""Models from a hub of this machine: licence, resuming, checksums, what goes wrong."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import io
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from backend import downloads, pipelines, weights
from backend.errors import (
    BadInput,
    Cancelled,
    FieldforgeError,
    LicenseNotAccepted,
    NotFound,
    QueueFull,
    StorageFailed,
    Unreachable,
)
from backend.pipelines import download_model
from backend.protocol import DownloadModel, Progress, Report
from tests import wala_models
from tests.hub_server import COMMIT, Hub, running_hub

MODEL = "wala-shape-1b"
ENTRY = weights.entries()[MODEL]
LICENSE = ENTRY.license
TEXT = "Only for what is not commercial.\n"


@pytest.fixture(scope="module")
def checkpoint() -> bytes:
    model = wala_models.make_model(wala_models.config_for("shape"))
    state = {
        f"autoencoder._orig_mod.{n[12:]}" if n[:12] == "autoencoder." else n: t
        for n, t in model.published_state_dict().items()
    }
    buffer = io.BytesIO()
    torch.save({"state_dict": state, "epoch": 1}, buffer)
    return buffer.getvalue()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: bytes) -> Iterator[Hub]:
    with running_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("FIELDFORGE_WEIGHTS", str(tmp_path / "store"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr(downloads, "_pause", lambda seconds, ask: ask())
        hub.files = {
            (ENTRY.repository, "checkpoint.ckpt"): checkpoint,
            (ENTRY.repository, "args.json"): json.dumps({"diffusion_step": 500}).encode(),
            (ENTRY.repository, "LICENSE.md"): TEXT.encode(),
        }
        yield hub


def fetch(**options: Any) -> tuple[list[Progress], dict[str, Any]]:
    task = DownloadModel(model=MODEL, license=LICENSE, name="Download")
    steps = (
        download_model.fetch(MODEL, pipelines.Context(), license=LICENSE, **options)
        if options
        else pipelines.run(task)
    )
    *progress, report = steps
    assert isinstance(report, Report)
    return progress, report.report


def folder() -> Path:
    return weights.store() / ".downloads" / MODEL


def kept() -> list[str]:
    return sorted(path.name for path in folder().iterdir())


def test_a_model_is_fetched_and_ready(hub: Hub, checkpoint: bytes) -> None:
    progress, report = fetch()
    assert [step.fraction for step in progress] == sorted(step.fraction for step in progress)
    model = weights.require(MODEL)
    assert report["folder"] == str(model.folder)
    assert report["license"] == LICENSE
    assert not report["already"]
    assert model.source["repository"] == ENTRY.repository
    assert model.source["commit"] == COMMIT
    digest = hashlib.sha256(checkpoint).hexdigest()
    assert model.source["sha256"]["checkpoint.ckpt"] == digest
    assert model.config["diffusion"]["steps"] == 500
    assert (model.folder / "LICENSE.md").read_text() == TEXT
    weights.verify(model)
    assert kept() == []
    # One commit for all files, and nothing else is asked or told.
    fetched = [path.split("/")[3:5] for method, path, _ in hub.requests if method == "GET"]
    assert fetched == [["resolve", COMMIT]] * 3


def test_what_is_here_is_not_fetched_again(hub: Hub) -> None:
    fetch()
    asked = len(hub.requests)
    assert fetch()[1]["already"]
    assert len(hub.requests) == asked


def test_the_checkpoint_is_kept_when_wanted(hub: Hub) -> None:
    fetch(keep_checkpoint=True, dtype="bfloat16")
    assert kept() == ["LICENSE.md", "args.json", "checkpoint.ckpt"]
    assert weights.require(MODEL).source["dtype"] == "bfloat16"


def test_without_args_json_sizes_come_from_shapes(hub: Hub) -> None:
    del hub.files[ENTRY.repository, "args.json"]
    fetch()
    assert "diffusion_step" in weights.require(MODEL).source["assumed"]


@pytest.mark.parametrize("accepted", ["", "mit", LICENSE.upper()])
def test_nothing_is_fetched_before_the_licence_is_accepted(hub: Hub, accepted: str) -> None:
    with pytest.raises(LicenseNotAccepted) as caught:
        list(pipelines.run(DownloadModel(model=MODEL, license=accepted)))
    assert "Non-Commercial" in caught.value.cause
    assert ENTRY.license_url in caught.value.remedy
    assert hub.requests == []


def test_the_text_of_the_licence(hub: Hub) -> None:
    assert downloads.license_text(ENTRY) == TEXT


# ------------------------------------------------------------------------------------ interruptions


def test_a_connection_that_is_cut_is_taken_up_where_it_was(hub: Hub, checkpoint: bytes) -> None:
    hub.cuts, hub.cut_after = 3, len(checkpoint) // 5
    fetch()
    whole, *later = hub.bodies("checkpoint.ckpt")
    assert whole is None
    begun = [int(wanted.removeprefix("bytes=").rstrip("-")) for wanted in later]
    assert len(begun) == 3
    ends = [hub.cut_after, *[begin + hub.cut_after for begin in begun[:-1]]]
    # What came of the last piece is asked for once more.
    assert all(0 <= end - begin <= 1 << 17 for begin, end in zip(begun, ends, strict=True))
    weights.verify(weights.require(MODEL))


def test_a_download_goes_on_the_next_day(hub: Hub, checkpoint: bytes) -> None:
    hub.cuts, hub.cut_after = 100, len(checkpoint) // 2
    del hub.files[ENTRY.repository, "args.json"], hub.files[ENTRY.repository, "LICENSE.md"]
    hub.no_ranges = True  # so that every attempt ends at the same place
    with pytest.raises(Unreachable, match="connection was lost") as caught:
        fetch()
    assert "goes on from there" in caught.value.remedy
    assert MODEL not in weights.installed()
    (partial,) = folder().iterdir()
    have = partial.stat().st_size
    assert hub.cut_after - (1 << 17) <= have <= hub.cut_after
    assert partial.read_bytes() == checkpoint[:have]
    hub.cuts, hub.no_ranges = 0, False
    hub.requests.clear()
    fetch()
    assert hub.bodies("checkpoint.ckpt") == [f"bytes={have}-"]
    weights.verify(weights.require(MODEL))


def test_a_server_that_begins_anew_does_not_spoil_the_file(hub: Hub, checkpoint: bytes) -> None:
    hub.cuts, hub.cut_after, hub.no_ranges = 1, len(checkpoint) // 3, True
    fetch()
    weights.verify(weights.require(MODEL))


def test_another_version_upstream_does_not_go_on_with_the_old_one(hub: Hub) -> None:
    folder().mkdir(parents=True)
    (folder() / "checkpoint.ckpt.0123456789abcdef.partial").write_bytes(b"old" * 100)
    del hub.files[ENTRY.repository, "args.json"]
    (folder() / "args.json").write_text('{"diffusion_step": 77}')
    fetch()
    assert hub.bodies("checkpoint.ckpt") == [None]
    assert kept() == []
    model = weights.require(MODEL)
    assert model.source["args"] is None
    assert model.config["diffusion"]["steps"] == 1000


def test_a_page_to_sign_in_does_not_spoil_what_is_here(hub: Hub, checkpoint: bytes) -> None:
    hub.cuts, hub.cut_after = 1, len(checkpoint) // 2
    original = downloads._append
    hub_page = b"<html>Welcome to the hotel</html>"

    def append(*arguments: Any) -> None:
        original(*arguments)
        hub.sign_in = hub_page

    hub.large |= {"args.json", "LICENSE.md"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(downloads, "_append", append)
        with pytest.raises(Unreachable, match="connection was lost"):
            fetch()
    for left in folder().iterdir():
        assert hub_page not in left.read_bytes()
    hub.sign_in = b""
    fetch()
    assert hub.bodies("checkpoint.ckpt")[-1] is not None  # the rest alone
    weights.verify(weights.require(MODEL))


def test_an_answer_without_end_is_cut_off(hub: Hub) -> None:
    hub.endless = True
    fetch()
    weights.verify(weights.require(MODEL))


def test_a_server_that_always_begins_anew_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = iter(range(100))
    file = downloads.HubFile("x", "http://127.0.0.1:9/x", "c", 1000, "a" * 64)

    def append(_file: Any, partial: Path, *_: Any) -> None:
        partial.write_bytes(b"x" * (50 + 20 * (next(lengths) % 2)))

    monkeypatch.setattr(downloads, "_append", append)
    monkeypatch.setattr(downloads, "_pause", lambda seconds, ask: ask())
    with pytest.raises(Unreachable, match="connection was lost"):
        downloads._complete(file, tmp_path / "x.partial", lambda done: None)
    assert next(lengths) < 10


@pytest.mark.parametrize("has_model", [False, True])
def test_the_disk_is_asked_for_what_is_to_come(
    hub: Hub, checkpoint: bytes, monkeypatch: pytest.MonkeyPatch, has_model: bool
) -> None:
    asked: list[int] = []
    if has_model:
        folder().mkdir(parents=True)
        (folder() / "checkpoint.ckpt").write_bytes(checkpoint)
    monkeypatch.setattr(weights, "check_disk", lambda where, size: asked.append(size))
    fetch()
    others = sum(len(body) for name, body in hub.files.items() if name[1] != "checkpoint.ckpt")
    total = len(checkpoint) + others
    assert asked[0] == (others if has_model else total) + int(0.35 * total)


def test_cancelling_takes_less_than_a_second(hub: Hub, checkpoint: bytes) -> None:
    hub.wait = threading.Event()
    asked = threading.Event()
    context = pipelines.Context(cancelled=asked.is_set)
    task = DownloadModel(model=MODEL, license=LICENSE)
    threading.Timer(0.6, asked.set).start()
    begun = time.monotonic()
    with pytest.raises(Cancelled):
        list(pipelines.run(task, context))
    assert time.monotonic() - begun < 0.6 + 1
    assert MODEL not in weights.installed()
    hub.wait.set()


def test_a_pipeline_that_is_let_go_of_stops(hub: Hub) -> None:
    steps = pipelines.run(DownloadModel(model=MODEL, license=LICENSE))
    assert isinstance(next(steps), Progress)
    with contextlib.closing(steps):
        pass
    time.sleep(0.3)
    assert not [thread for thread in threading.enumerate() if thread.name == "download"]


# ---------------------------------------------------------------------------------------- refusals


def refused(kind: type[FieldforgeError], words: str) -> FieldforgeError:
    with pytest.raises(kind, match=words) as caught:
        fetch()
    assert caught.value.remedy
    assert MODEL not in weights.installed()
    return caught.value


@pytest.mark.parametrize("name", ["checkpoint.ckpt", "args.json"])
def test_a_wrong_checksum(hub: Hub, name: str) -> None:
    hub.lie = name
    refused(BadInput, f"{name} is not what the hub says it is")
    assert name not in kept()


def test_a_file_that_is_not_the_one_that_is_known(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = dataclasses.replace(ENTRY, sha256={"checkpoint.ckpt": "a" * 64})
    monkeypatch.setattr(weights, "entries", lambda: {MODEL: other})
    refused(BadInput, "not the file that Fieldforge knows")
    assert hub.bodies("checkpoint.ckpt") == []


def test_a_download_that_changed_on_the_disk(hub: Hub, checkpoint: bytes) -> None:
    folder().mkdir(parents=True)
    (folder() / "checkpoint.ckpt").write_bytes(b"x" * len(checkpoint))
    refused(BadInput, "checksum")
    fetch()
    weights.verify(weights.require(MODEL))


def test_a_repository_that_is_gone(hub: Hub) -> None:
    hub.files.clear()
    refused(NotFound, "no file checkpoint.ckpt")


@pytest.mark.parametrize("status", [500, 503])
def test_a_hub_that_is_ill(hub: Hub, status: int) -> None:
    hub.status = status
    refused(Unreachable, f"answers {status}")


def test_a_hub_that_asks_who_it_is(hub: Hub) -> None:
    hub.status = 401
    assert "HF_TOKEN" in refused(FieldforgeError, ENTRY.repository).remedy


def test_without_a_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    refused(Unreachable, "cannot be reached")


def test_a_disk_that_is_too_small(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: argparse.Namespace(free=1000))
    refused(StorageFailed, "GB are needed")
    assert hub.bodies("checkpoint.ckpt") == []


def test_a_disk_that_fills_up(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(downloads, "_append", full)
    refused(StorageFailed, "No space left")


def test_a_checkpoint_that_cannot_be_converted_stays(hub: Hub, checkpoint: bytes) -> None:
    hub.files[ENTRY.repository, "args.json"] = b'{"resolution": 64}'
    refused(BadInput, "resolution is 64")
    assert "checkpoint.ckpt" in kept()


def test_two_downloads_of_one_model(hub: Hub) -> None:
    hub.wait = threading.Event()
    first = pipelines.run(DownloadModel(model=MODEL, license=LICENSE))
    next(first)
    refused(QueueFull, "being downloaded already")
    hub.wait.set()
    *_, report = first
    assert isinstance(report, Report)


def test_a_model_that_is_not_in_the_registry(hub: Hub) -> None:
    with pytest.raises(BadInput):
        list(pipelines.run(DownloadModel(model="nothing-1b", license=LICENSE)))
    with pytest.raises(NotFound, match="nothing-1b"):
        list(download_model.fetch("nothing-1b", pipelines.Context(), license=LICENSE))


def test_a_token_does_not_follow_to_another_host(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with running_hub() as storage:
        storage.files = hub.files
        hub.moved_to = storage.url.replace("127.0.0.1", "localhost")
        fetch()
    assert set(hub.tokens) == {"Bearer hf_secret"}
    assert set(storage.tokens) == {None}
    assert len(storage.tokens) == 3


def test_a_token_is_sent_to_the_hub_only_as_the_hub_wants_it(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert downloads._headers()["authorization"] == "Bearer hf_secret"
