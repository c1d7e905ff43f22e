"""`models`: list, download, convert, verify, as a person at a terminal calls them."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from backend import weights
from tests import wala_models
from tests.hub_server import running_hub

MODEL = "wala-shape-1b"
ENTRY = weights.entries()[MODEL]


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FIELDFORGE_WEIGHTS", str(tmp_path / "store"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    return tmp_path / "store"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    model = wala_models.make_model(wala_models.config_for("shape"))
    path = tmp_path / "checkpoint.ckpt"
    torch.save({"state_dict": model.published_state_dict()}, path)
    return path


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_an_action_is_asked_for(command: Callable[..., Any]) -> None:
    done = command("models")
    assert (done.code, done.out) == (2, "")
    assert "--help" in done.err


def test_list_tells_what_is_here(command: Callable[..., Any], store: Path) -> None:
    wala_models.write(store, "shape")
    listed = {m["id"]: m for m in command("models", "list", "--json").record["models"]}
    assert listed["tiny-shape"]["ready"]
    assert not listed[MODEL]["ready"]
    assert listed[MODEL]["bytes"] == ENTRY.bytes
    text = command("models", "list").out
    assert f"{MODEL:20} shape - 17.1 GB to download" in text
    assert f"{'tiny-shape':20} shape - ready, " in text
    assert ENTRY.license_words in text
    assert str(store) in text


def test_convert_and_verify(command: Callable[..., Any], checkpoint: Path, store: Path) -> None:
    done = command("models", "convert", checkpoint, "--dtype", "bfloat16", "--json")
    assert done.code == 0
    assert done.record["model"] == MODEL
    assert done.record["folder"] == str(store / MODEL)
    assert done.record["source"]["dtype"] == "bfloat16"
    assert "diffusion_beta_schedule" in done.record["source"]["assumed"]
    done = command("models", "verify", "--json")
    assert (done.code, done.record["models"]) == (0, {MODEL: "ok"})
    assert command("models", "verify", MODEL).out.split() == [MODEL, "ok"]

    path = store / MODEL / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    done = command("models", "verify")
    assert done.code == 1
    assert "has changed" in done.out
    path.unlink()
    done = command("models", "verify")
    assert done.code == 1
    assert "is missing" in done.out


def test_what_was_assumed_is_told(command: Callable[..., Any], checkpoint: Path) -> None:
    text = command("models", "convert", checkpoint).out
    assert "assumed, for want of args.json: diffusion_step = 1000" in text


def test_convert_into_another_folder(
    command: Callable[..., Any], checkpoint: Path, tmp_path: Path, store: Path
) -> None:
    done = command("models", "convert", checkpoint, "--id", "mine", "-o", tmp_path / "here")
    assert done.code == 0
    assert (tmp_path / "here" / "mine" / "model.json").is_file()
    assert not store.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["convert", "nowhere.ckpt"], "no file"),
        (["convert", __file__], "no checkpoint of PyTorch"),
        (["verify", "nonsense"], "no model 'nonsense'"),
        (["verify", MODEL], "not on this computer"),
        (["download", "nonsense"], "no model 'nonsense'"),
        (["download", MODEL], "has to be accepted first"),
    ],
)
def test_mistakes_are_told_in_a_line(
    command: Callable[..., Any], arguments: list[str], words: str
) -> None:
    done = command("models", *arguments, "--json")
    assert done.code == 2
    assert words in done.record["error"]["cause"]
    assert words in done.err.splitlines()[-1]


def test_code_in_a_checkpoint_is_not_run(
    command: Callable[..., Any], tmp_path: Path, store: Path
) -> None:
    class Payload:
        def __reduce__(self) -> Any:
            return exec, (f"open({str(tmp_path / 'trace')!r}, 'w').close()",)

    torch.save({"state_dict": {}, "x": Payload()}, tmp_path / "evil.ckpt")
    done = command("models", "convert", tmp_path / "evil.ckpt")
    assert done.code == 2
    assert "contains code" in done.err
    assert not (tmp_path / "trace").exists()
    assert not store.exists()


def test_verify_without_models(command: Callable[..., Any], store: Path) -> None:
    done = command("models", "verify")
    assert done.code == 0
    assert str(store) in done.out


# ---------------------------------------------------------------------------------------- download


@pytest.mark.parametrize(
    ("typed", "accepts"),
    [("yes\n", True), ("no\n", False), ("\n", False), ("", False), ("y\n", False)],
)
def test_the_licence_is_asked_for_at_a_terminal(
    command: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    checkpoint: Path,
    typed: str,
    accepts: bool,
) -> None:
    with running_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.files = {
            (ENTRY.repository, "checkpoint.ckpt"): checkpoint.read_bytes(),
            (ENTRY.repository, "LICENSE.md"): b"The whole text.",
        }
        monkeypatch.setattr(sys, "stdin", Terminal("show\n" + typed))
        monkeypatch.setattr(sys, "stderr", told := Terminal())
        done = command("models", "download", MODEL, "--json")
        bodies = hub.bodies("checkpoint.ckpt")
    assert ENTRY.license_words in told.getvalue()
    assert ENTRY.license_url in told.getvalue()
    assert "The whole text." in told.getvalue()
    if accepts:
        assert done.code == 0
        assert done.record["model"] == MODEL
        assert weights.require(MODEL).folder == Path(done.record["folder"])
    else:
        assert done.code == 2
        assert done.record["error"]["code"] == "license"
        assert bodies == []
        assert MODEL not in weights.installed()


def test_the_flag_accepts_it(
    command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, checkpoint: Path
) -> None:
    with running_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.files = {
            (ENTRY.repository, "checkpoint.ckpt"): checkpoint.read_bytes(),
            (ENTRY.repository, "args.json"): json.dumps({"dp_cond": None}).encode(),
        }
        done = command("models", "download", MODEL, "--accept-license", "--dtype", "float16")
        assert done.code == 0
        assert ENTRY.license_words in done.err
        assert done.out.startswith(f"{MODEL}: ")
        again = command("models", "download", MODEL)
    assert again.code == 0
    assert "is here already" in again.out
    assert weights.require(MODEL).source["dtype"] == "float16"


# ------------------------------------------------------------------------------------------ doctor


def test_doctor_names_the_store_and_what_is_broken_in_it(
    command: Callable[..., Any], store: Path
) -> None:
    def finding(subject: str) -> dict[str, str]:
        found = command("doctor", "--json").record["findings"]
        return next(f for f in found if f["subject"].strip() == subject)

    assert str(store) in finding("Models")["text"]
    model = wala_models.write(store, "shape")
    assert model.id in finding("Models")["text"]
    model.files[0].unlink()
    assert model.id not in finding("Models")["text"]
    broken = finding(model.id)
    assert broken["state"] == "note"
    assert "is missing" in broken["text"]
    assert "Remove that folder" in broken["remedy"]
