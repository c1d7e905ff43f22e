"""Models of a hub repository as they are: which files, pickles made harmless, what goes wrong."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save

from backend import downloads, pipelines, weights
from backend.errors import BadInput, FieldforgeError, LicenseNotAccepted, NotFound, StorageFailed
from backend.protocol import DownloadModel, Progress, Report
from tests.hub_server import COMMIT, Hub, running_hub

MODEL = "ldm3d-pano"
ENTRY = replace(weights.entries()[MODEL], sha256={})
CARD = "# A card\nlicense: creativeml-openrail-m\n"
TENSORS = {
    "text_encoder/model.safetensors": {"a.weight": torch.arange(6.0).reshape(2, 3)},
    "unet/diffusion_pytorch_model.safetensors": {"b": torch.ones(300, 700)},
    "vae/diffusion_pytorch_model.safetensors": {"c": torch.full((5,), 0.5).half()},
}
PICKLES = {
    "text_encoder/model.safetensors": "text_encoder/pytorch_model.bin",
    "unet/diffusion_pytorch_model.safetensors": "unet/diffusion_pytorch_model.bin",
    "vae/diffusion_pytorch_model.safetensors": "vae/diffusion_pytorch_model.bin",
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("FIELDFORGE_WEIGHTS", str(tmp_path / "store"))
        monkeypatch.setattr(weights, "BUNDLED", tmp_path / "bundled")
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr(downloads, "_pause", lambda seconds, ask: ask())
        known = {**weights.entries(), MODEL: ENTRY}
        monkeypatch.setattr(weights, "entries", lambda: dict(known))
        texts = [name for name in ENTRY.files if name.endswith((".json", ".txt"))]
        hub.files = {(ENTRY.repository, name): json.dumps({"of": name}).encode() for name in texts}
        hub.files |= {(ENTRY.repository, name): save(parts) for name, parts in TENSORS.items()}
        hub.files[ENTRY.repository, "README.md"] = CARD.encode()
        # What such repositories have beside it, and what must not be asked for.
        for name in ("safety_checker/pytorch_model.bin", "run_me.py", "unet/model.ckpt"):
            hub.files[ENTRY.repository, name] = b"not wanted"
        hub.large = {*TENSORS, *PICKLES.values()}
        yield hub


def fetch() -> tuple[list[Progress], dict[str, Any]]:
    *progress, report = pipelines.run(DownloadModel(model=MODEL, license=ENTRY.license))
    assert isinstance(report, Report)
    return [step for step in progress if isinstance(step, Progress)], report.report


def refused(kind: type[FieldforgeError], words: str) -> FieldforgeError:
    with pytest.raises(kind, match=words) as caught:
        fetch()
    assert caught.value.remedy
    assert MODEL not in weights.installed()
    return caught.value


def partials() -> list[str]:
    folder = weights.store() / ".downloads" / MODEL
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def in_pickles(hub: Hub) -> None:
    for name, old in PICKLES.items():
        del hub.files[ENTRY.repository, name]
        buffer = io.BytesIO()
        torch.save(TENSORS[name], buffer)
        hub.files[ENTRY.repository, old] = buffer.getvalue()


def check_tensors(folder: Path) -> None:
    for name, tensors in TENSORS.items():
        loaded = load_file(folder / name)
        assert loaded.keys() == tensors.keys()
        assert all(torch.equal(loaded[key], tensors[key]) for key in tensors)
        assert all(loaded[key].dtype == tensors[key].dtype for key in tensors)


def test_the_files_that_are_named_and_no_others(hub: Hub) -> None:
    progress, report = fetch()
    assert [step.fraction for step in progress] == sorted(step.fraction for step in progress)
    model = weights.require(MODEL)
    assert report["folder"] == str(model.folder)
    found = {p.relative_to(model.folder).as_posix() for p in model.folder.rglob("*") if p.is_file()}
    assert found == {*ENTRY.files, "README.md", "model.json"}
    check_tensors(model.folder)
    assert (model.folder / "README.md").read_text() == CARD
    assert json.loads((model.folder / "vae/config.json").read_text()) == {"of": "vae/config.json"}
    assert {path.suffix for path in model.files} == {".safetensors"}
    assert len(model.texts) + len(model.files) == len(found) - 1
    assert (model.family, model.tasks, model.steps) == ("ldm3d", ("text-to-panorama",), 50)
    assert model.config == {"width": 1024, "height": 512, "prefix": "360 view of "}
    assert model.source["commit"] == COMMIT
    body = hub.files[ENTRY.repository, "unet/diffusion_pytorch_model.safetensors"]
    digest = hashlib.sha256(body).hexdigest()
    assert model.source["digests"]["unet/diffusion_pytorch_model.safetensors"] == digest
    weights.verify(model)
    assert partials() == []
    fetched = [path.split("/")[3:5] for method, path, _ in hub.requests if method == "GET"]
    assert fetched == [["resolve", COMMIT]] * (len(found) - 1)


def test_pickles_are_read_without_being_run(hub: Hub) -> None:
    in_pickles(hub)
    progress, _ = fetch()
    assert [step.fraction for step in progress] == sorted(step.fraction for step in progress)
    model = weights.require(MODEL)
    check_tensors(model.folder)
    assert not list(model.folder.rglob("*.bin"))
    weights.verify(model)
    assert partials() == []


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("bomb-went-off", "w"))


def test_a_pickle_with_code_in_it(hub: Hub, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    in_pickles(hub)
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(2), "b": _Bomb()}, buffer)
    hub.files[ENTRY.repository, "vae/diffusion_pytorch_model.bin"] = buffer.getvalue()
    refused(BadInput, "contains code")
    assert not (tmp_path / "bomb-went-off").exists()


def test_an_optional_file_is_taken_where_there_is_one(hub: Hub) -> None:
    hub.files[ENTRY.repository, "tokenizer/special_tokens_map.json"] = b"{}"
    fetch()
    texts = {
        path.relative_to(weights.store() / MODEL).as_posix()
        for path in weights.require(MODEL).texts
    }
    assert "tokenizer/special_tokens_map.json" in texts
    assert "tokenizer/tokenizer_config.json" not in texts


def test_nothing_is_asked_before_the_licence_is_accepted(hub: Hub) -> None:
    with pytest.raises(LicenseNotAccepted) as caught:
        list(pipelines.run(DownloadModel(model=MODEL, license="")))
    assert "RAIL" in caught.value.cause
    assert hub.requests == []
    assert downloads.license_text(ENTRY) == CARD


def test_a_connection_that_is_cut_is_taken_up(hub: Hub) -> None:
    name = "unet/diffusion_pytorch_model.safetensors"
    hub.cuts, hub.cut_after = 3, 300_000
    fetch()
    check_tensors(weights.store() / MODEL)
    whole, *later = hub.bodies(name)
    assert whole is None
    assert later
    assert all(wanted for wanted in later)


def test_a_file_that_is_missing(hub: Hub) -> None:
    del hub.files[ENTRY.repository, "vae/config.json"]
    refused(NotFound, r"vae/config\.json")


def test_a_part_in_neither_form(hub: Hub) -> None:
    del hub.files[ENTRY.repository, "unet/diffusion_pytorch_model.safetensors"]
    refused(NotFound, r"unet/diffusion_pytorch_model\.bin")


def test_a_wrong_checksum(hub: Hub) -> None:
    hub.lie = "vae/config.json"
    refused(BadInput, "checksum")
    assert "config.json" in partials()  # the unet's and the text encoder's stay
    hub.lie = ""
    fetch()


def test_tensors_that_are_none(hub: Hub) -> None:
    hub.files[ENTRY.repository, "vae/diffusion_pytorch_model.safetensors"] = b"x" * 100
    refused(BadInput, "no file of tensors")


def test_a_text_that_is_too_large_is_not_fetched(hub: Hub, monkeypatch: Any) -> None:
    monkeypatch.setattr(weights, "MAX_TEXT_BYTES", 1000)
    hub.files[ENTRY.repository, "tokenizer/vocab.json"] = b" " * 1001
    refused(BadInput, r"tokenizer/vocab\.json .* is no text")
    assert hub.bodies("vocab.json") == []


def test_much_more_than_was_agreed_to_is_not_fetched(hub: Hub, monkeypatch: Any) -> None:
    monkeypatch.setattr(weights, "entries", lambda: {MODEL: replace(ENTRY, bytes=1000)})
    refused(BadInput, "are known")
    assert [method for method, *_ in hub.requests if method == "GET"] == []


def test_the_disk_is_asked_for_what_is_to_come(hub: Hub, monkeypatch: Any) -> None:
    asked: list[int] = []
    monkeypatch.setattr(weights, "check_disk", lambda where, size: asked.append(size))
    in_pickles(hub)
    fetch()
    bodies = {name: len(body) for (_, name), body in hub.files.items()}
    wanted = [name for name in bodies if name in (*ENTRY.files, *PICKLES.values(), "README.md")]
    pickles = [bodies[name] for name in PICKLES.values()]
    assert asked[0] == sum(bodies[name] for name in wanted) + max(pickles)


def test_a_disk_that_fills_up_keeps_what_came(hub: Hub, monkeypatch: Any) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("backend.tensor_files.write", full)
    in_pickles(hub)
    refused(StorageFailed, "No space left")
    assert "diffusion_pytorch_model.bin" in partials()


# -------------------------------------------------------------------------- folders of a library


def folder_of_parts(folder: Path) -> dict[str, Path]:
    parts = {"vae/model.safetensors": folder / "a", "vae/config.json": folder / "b"}
    parts["vae/model.safetensors"].write_bytes(save({"x": torch.ones(3)}))
    parts["vae/config.json"].write_text("{}")
    return parts


def write(folder: Path, parts: dict[str, Path], **changes: Any) -> weights.Installed:
    given: dict[str, Any] = {
        "id": folder.name,
        "title": "Own",
        "family": "ldm3d",
        "tasks": ("text-to-panorama",),
        "config": {"width": 64},
        "steps": 3,
        **changes,
    }
    return weights.write_snapshot(folder, parts, **given)


@pytest.fixture
def bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FIELDFORGE_WEIGHTS", str(tmp_path / "store"))
    monkeypatch.setattr(weights, "BUNDLED", tmp_path / "bundled")
    return tmp_path / "bundled"


def test_a_bundled_snapshot_stands_in_until_a_better_one_is_here(
    bundled: Path, tmp_path: Path
) -> None:
    parts = folder_of_parts(tmp_path)
    own = write(bundled / "rooms", parts, stands_in_for=("text-to-panorama",))
    assert own.bundled
    assert all(path.exists() for path in parts.values())
    assert weights.best_for("text-to-panorama") == "rooms"
    write(weights.store() / MODEL, parts)
    assert [model.id for model in weights.ranked("text-to-panorama")] == [MODEL, "rooms"]


@pytest.mark.parametrize(
    "name", ["../out.json", "a/b/c.json", "/tmp/x.json", "vae/run.py", "model.bin", "model.json"]
)
def test_names_that_no_model_may_have(bundled: Path, tmp_path: Path, name: str) -> None:
    parts = folder_of_parts(tmp_path)
    with pytest.raises(BadInput, match="cannot have a file"):
        write(bundled / "rooms", {name: parts["vae/config.json"]})
    assert weights.installed() == {}


def test_names_that_lead_out_of_the_folder(bundled: Path, tmp_path: Path) -> None:
    own = write(bundled / "rooms", folder_of_parts(tmp_path))
    record = json.loads((own.folder / "model.json").read_text())
    record["texts"][0]["name"] = "../b"
    (own.folder / "model.json").write_text(json.dumps(record))
    assert weights.installed() == {}
    assert "rooms" in weights.problems()


def test_a_setting_that_changed_is_found(bundled: Path, tmp_path: Path) -> None:
    own = write(bundled / "rooms", folder_of_parts(tmp_path))
    weights.verify(own)
    (own.folder / "vae/config.json").write_text("[]")
    with pytest.raises(BadInput, match=r"config\.json has changed"):
        weights.verify(own)
    (own.folder / "vae/config.json").unlink()
    assert "is missing" in weights.problems()["rooms"].cause


@pytest.mark.parametrize(
    ("wish", "words"), [({"dtype": "float16"}, "float16"), ({"keep_checkpoint": True}, "to keep")]
)
def test_what_is_not_converted_is_not_promised(hub: Hub, wish: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words) as caught:
        downloads.install(ENTRY, license=ENTRY.license, report=lambda stage, fraction: None, **wish)
    assert "Leave out" in caught.value.remedy
    assert hub.requests == []


def test_checksums_are_of_the_files_that_they_name(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of tensors that is not the known one is refused; a pickle in its place is another
    file, of which the hub's own record is all there is."""
    name = "unet/diffusion_pytorch_model.safetensors"
    known = replace(ENTRY, sha256={name: "a" * 64})
    monkeypatch.setattr(weights, "entries", lambda: {MODEL: known})
    refused(BadInput, "not the file that Fieldforge knows")
    in_pickles(hub)
    fetch()
    check_tensors(weights.require(MODEL).folder)


def test_what_is_added_to_another_model_says_so(hub: Hub) -> None:
    entry = weights.entries()["mv-adapter-image"]
    hub.files[entry.repository, entry.files[0]] = save({"a": torch.ones(2)})
    hub.files[entry.repository, "README.md"] = b"license: apache-2.0"
    list(pipelines.run(DownloadModel(model=entry.id, license=entry.license)))
    model = weights.require(entry.id)
    assert model.needs == entry.needs
    assert (model.views, model.view_kind) == (6, "image")
    assert not next(one for one in pipelines.models() if one.id == entry.id).ready
    assert [path.name for path in model.files] == ["mvadapter_i2mv_sd21.safetensors"]


def test_known_checksums_are_of_files_that_are_asked_for() -> None:
    for entry in weights.entries().values():
        assert set(entry.sha256) <= {*entry.files, *entry.optional}
        for digest in entry.sha256.values():
            assert len(bytes.fromhex(digest)) == 32
