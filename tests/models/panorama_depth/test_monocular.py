"""Small models of every kind, as transformers writes them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from backend.errors import BadInput
from backend.models.panorama_depth import monocular
from backend.models.panorama_depth.monocular import METRIC, RELATIVE, TransformersDepth
from tests import depth_models

OUTPUTS = {
    "depth_anything": RELATIVE,
    "depth_anything_metric": METRIC,
    "dpt": RELATIVE,
    "glpn": METRIC,
    "zoedepth": METRIC,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("Tiefe für Bilder")
    for kind in depth_models.KINDS:
        depth_models.write_parts(root / kind, kind)
    return {kind: root / kind for kind in depth_models.KINDS}


@pytest.fixture
def copy(folders: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(folders["depth_anything"], tmp_path / "model"))


@pytest.mark.parametrize("kind", OUTPUTS)
def test_every_kind_of_the_table_runs_without_a_network(
    kind: str, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.socket.connect", _no_network)
    model = TransformersDepth(folders[kind])
    assert model.output == OUTPUTS[kind]
    if kind.startswith("depth"):
        assert model.side == depth_models.SIDE
    picture = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    told = model(picture)
    assert told.dtype == np.float32
    assert told.ndim == 2
    assert told.shape[0] == told.shape[1]
    assert np.ptp(told) > 0.01  # no 8-bit picture, no min-max
    assert np.array_equal(model(picture), told)
    assert not np.array_equal(model(255 - picture), told)


def _no_network(*_: object) -> None:
    raise AssertionError("a model was looked for in the network")


def test_the_table_knows_relative_from_metric() -> None:
    assert monocular.output_of({"model_type": "depth_anything"}) == RELATIVE
    metric = {"model_type": "depth_anything", "depth_estimation_type": "metric"}
    assert monocular.output_of(metric) == METRIC
    with pytest.raises(BadInput, match="depth_pro") as raised:
        monocular.output_of({"model_type": "depth_pro"})
    assert "dpt" in raised.value.remedy


def test_what_is_known_otherwise_goes_before_the_table(folders: dict[str, Path]) -> None:
    assert TransformersDepth(folders["dpt"], output=METRIC).output == METRIC


def test_a_pickle_is_never_read(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(BadInput, match=r"no \.safetensors file"):
        TransformersDepth(copy)
    (copy / "other.safetensors").write_bytes(b"")
    with pytest.raises(BadInput, match="cannot be used"):
        TransformersDepth(copy)


def test_weights_of_another_model_are_found_out(copy: Path, folders: dict[str, Path]) -> None:
    shutil.copy(folders["dpt"] / "model.safetensors", copy)
    with pytest.raises(BadInput, match=r"lack \d+ parts, such as "):
        TransformersDepth(copy)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("config.json", None, "config.json cannot be read"),
        ("config.json", "{", "config.json cannot be read"),
        ("config.json", "[]", "does not say what kind"),
        ("config.json", json.dumps({"model_type": "bert"}), "'bert' tells is not known"),
        ("preprocessor_config.json", None, "cannot be used"),
        ("model.safetensors", "no tensors", "cannot be used"),
    ],
)
def test_damaged_folders(copy: Path, name: str, text: str | None, words: str) -> None:
    if text is None:
        (copy / name).unlink()
    else:
        (copy / name).write_text(text, encoding="utf-8")
    with pytest.raises(BadInput, match=words) as raised:
        TransformersDepth(copy)
    assert raised.value.remedy


def test_a_folder_runs_no_code_of_its_own(copy: Path, tmp_path: Path) -> None:
    trace = tmp_path / "was run"
    (copy / "evil.py").write_text(f"open({str(trace)!r}, 'w')\nclass Model: pass\n")
    path = copy / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["auto_map"] = {"AutoModelForDepthEstimation": "evil.Model", "AutoConfig": "evil.Model"}
    path.write_text(json.dumps(config), encoding="utf-8")
    TransformersDepth(copy)
    assert not trace.exists()
