"""Evaluation goes on where it was, measures right, and shows what it measured."""

import dataclasses
import json

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from backend.errors import BadInput
from backend.geometry.transforms import apply_to_points
from backend.models.wala import loading
from backend.models.wala.config import ImaginedConfig
from backend.protocol import MeshResult, check_points
from backend.training import cases, conditions, contact_sheets, evaluate, packed, trees
from backend.training.conditions import Amounts, Conditions
from backend.training.metrics import score
from backend.training.packed import Shape
from backend.training.prepare import key_of
from tests import wala_models

quiet = lambda stage, share: None  # noqa: E731


def ball_field(radius, resolution=128, right=0.0):
    nodes = (2 * np.arange(resolution) / resolution - 1).astype(np.float32)
    x, y, z = nodes[:, None, None] - np.float32(right), nodes[None, :, None], nodes[None, None]
    return np.clip(np.sqrt(x * x + y * y + z * z) - np.float32(radius), -0.1, 0.1)


def mesh(solid):
    return np.asarray(solid.vertices, np.float32), np.asarray(solid.faces, np.int32)


SAMPLES = 2000
BALL = mesh(trimesh.creation.icosphere(subdivisions=4, radius=0.9))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with one test shape, a ball, and its truth, which the field tells."""
    folder = tmp_path_factory.mktemp("prepared")
    packed.write(
        folder / "shapes.ffs",
        [
            (Shape("ball", "Ball, toy", "things", "test", ""), packed.encode(*BALL)),
            (Shape("other", "Other", "things", "train", ""), packed.encode(*BALL)),
        ],
    )
    for name in ("trees", "conditions"):
        (folder / name).mkdir()
    field = ball_field(0.9, 256)
    trees.tree_of_field(torch.from_numpy(field)).save(folder / "trees" / f"{key_of('ball')}.npz")
    amounts = Amounts(600, cameras=1, scans=1, side=56)
    seen = conditions.make("ball", BALL, ball_field(0.9), 0, amounts)
    seen.save(folder / "conditions" / f"{key_of('ball')}.npz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cases.tsdf, "closing_sdf", lambda *surface: ball_field(0.9))
        patch.setattr(cases, "SAMPLES", SAMPLES)
        (case,) = cases.cases(folder)
    return folder, case


@pytest.fixture
def case(prepared):
    return prepared[1]


@pytest.fixture
def folder(prepared):
    """With nothing measured yet; the truth is kept."""
    for name in ("rows.jsonl", "evaluation.json", "tables.txt"):
        (prepared[0] / "evaluation" / name).unlink(missing_ok=True)
    return prepared[0]


class Counted:
    """Instead of methods: a ball of half the size, and how often it was asked for."""

    def __init__(self, monkeypatch):
        self.calls = []
        self.broken = True
        monkeypatch.setattr(evaluate._Bench, "_made", lambda bench, *asked: self.made(*asked))

    def made(self, case, kind, method):
        self.calls.append((kind, method))
        if method == evaluate.GIVEN and self.broken:
            raise BadInput("It does not work.", "Do something else.")
        half = conditions.surface_of_field(ball_field(0.45, right=0.4))
        whole = conditions.surface_of_field(ball_field(0.9))
        return [half, whole] if method == evaluate.POISSON else [half], None


def test_tables_sheets_and_going_on(folder, monkeypatch):
    counted = Counted(monkeypatch)
    kinds = ["points", "voxels", "image"]
    text = evaluate.evaluate(folder, ["wavelet-fit"], kinds, quiet)
    assert counted.calls == [
        ("points", evaluate.POISSON),
        ("points", evaluate.GIVEN),
        ("points", "wavelet-fit"),
        ("voxels", "wavelet-fit"),
    ]
    record = json.loads((folder / "evaluation" / "evaluation.json").read_text())
    assert record["shapes"] == ["ball"]
    found = {(row["input"], row["method"]): row for row in record["inputs"]}
    assert found["points", evaluate.POISSON]["IoU"] == 1  # the better of its two sides
    fit = found["points", "wavelet-fit"]
    assert fit["IoU"] == pytest.approx(1 / 8, abs=0.005)
    half = conditions.surface_of_field(ball_field(0.45, right=0.4))
    expected = score(half, conditions.surface_of_field(ball_field(0.9)), SAMPLES)
    assert (fit["chamfer"], fit["F at 1 %"]) == (expected.chamfer, expected.f_score)
    assert found["points", evaluate.GIVEN]["failed"] == 1
    assert found["points", evaluate.GIVEN]["IoU"] == 0
    assert "screened Poisson" in text
    sheet = np.asarray(Image.open(folder / "evaluation" / "points.png"))
    side = contact_sheets.SIDE
    assert sheet.shape == (side + 32, 5 * side, 3)
    tiles = sheet[32:].reshape(side, 5, side, 3).swapaxes(0, 1)
    assert (tiles[3] == 128).all()  # what failed is grey
    dark = (tiles.min(axis=-1) < 240).sum(axis=(1, 2))
    assert dark[0] > 300
    assert dark[1] == dark[2]  # the truth, found again
    assert dark[4] < 0.3 * dark[2]  # a ball of half the size
    # Again: the same table, and nothing but what failed is tried once more.
    counted.calls.clear()
    with (folder / "evaluation" / "rows.jsonl").open("a") as file:
        file.write('{"shape": "ba\n')
    assert evaluate.evaluate(folder, ["wavelet-fit"], kinds, quiet).count("\n") == text.count("\n")
    assert counted.calls == [("points", evaluate.GIVEN)]
    counted.broken = False
    whole = evaluate.evaluate(folder, ["wavelet-fit"], kinds, quiet)
    counted.calls.clear()
    assert evaluate.evaluate(folder, ["wavelet-fit"], kinds, quiet) == whole
    assert counted.calls == []
    assert (np.asarray(Image.open(folder / "evaluation" / "points.png")) == sheet).mean() > 0.8


def test_another_input_is_measured_again(folder, case, monkeypatch):
    counted = Counted(monkeypatch)
    counted.broken = False
    evaluate.evaluate(folder, ["wavelet-fit"], ["points", "voxels"], quiet)
    counted.calls.clear()
    path = folder / "conditions" / f"{key_of('ball')}.npz"
    try:
        dataclasses.replace(case.seen, clean=case.seen.clean[::-1]).save(path)
        evaluate.evaluate(folder, ["wavelet-fit"], ["points", "voxels"], quiet)
    finally:
        case.seen.save(path)
    assert {kind for kind, _ in counted.calls} == {"points"}
    assert len(counted.calls) == 3


def test_methods_that_learn_nothing_find_the_ball(folder, case):
    bench = evaluate._Bench(folder, ["wavelet-fit"], "cpu")
    wanted = {
        ("tree", evaluate.CEILING): 0.99,
        ("points", "wavelet-fit"): 0.97,
        ("points", evaluate.GIVEN): 0.97,
        ("voxels", "wavelet-fit"): 0.8,
    }
    for (kind, method), least in wanted.items():
        assert method in bench.methods(kind)
        bench.measure(case, kind, method)
        assert bench.row(case, kind, method)["IoU"] > least


def test_what_imagines_counts_only_where_nothing_is_given(tmp_path):
    """So what was measured of inputs stays when words are trained anew."""
    small = ImaginedConfig(components=16, width=32, depth=1)
    plain = wala_models.write_joint(tmp_path / "plain")
    more = wala_models.write_joint(tmp_path / "more", imagined=small)
    other = wala_models.write_joint(tmp_path / "other", seed=1)
    assert plain.config != more.config
    tensors = dict(loading.mapped(more))
    for name, tensor in loading.mapped(plain):
        if not torch.equal(tensor, tensors[name]):  # drawn after what imagines
            tensors[name] = tensor
    again = wala_models.write_joint(tmp_path / "again", imagined=small, tensors=tensors)
    marks = [evaluate._mark_of(entry) for entry in (plain, again, other)]
    assert marks[0] == marks[1] != marks[2]
    sets = [evaluate._mark_of(entry, "") for entry in (plain, again, more)]
    assert len(set(sets)) == 3
    warmer = wala_models.write_joint(tmp_path / "warmer", guidance=2.0)
    assert evaluate._mark_of(warmer) != marks[0]


def test_models_are_asked_for_what_they_can_do(folder, case, monkeypatch):
    tasks = ("points-to-mesh", "image-to-mesh", "shape")
    entry = wala_models.write_joint(folder / "models", id="small", tasks=tasks)
    monkeypatch.setattr(evaluate.weights, "require", lambda name: entry)
    bench = evaluate._Bench(folder, ["wavelet-fit", "small"], "cpu")
    assert bench.methods("tree") == (evaluate.CEILING, "small")
    assert bench.methods("noisy points")[-2:] == ("small", "small, refined")
    assert bench.methods("image") == ("nearest training shape by small", "small")
    assert bench.methods("voxels") == ("wavelet-fit",)
    asked = []

    def run(task, context):
        asked.append(task)
        ball = conditions.surface_of_field(ball_field(0.9))
        yield MeshResult(vertices=ball[0], faces=ball[1], report={"total_seconds": 7.0})

    monkeypatch.setattr(evaluate, "run", run)
    for method in bench.methods("noisy points")[-2:]:
        bench.measure(case, "noisy points", method)
    assert [(task.model, task.refine) for task in asked] == [("small", False), ("small", True)]
    assert bench.row(case, "noisy points", "small")["seconds"] == 7
    assert bench.row(case, "noisy points", "small, refined")["IoU"] > 0.97
    before = bench.mark(case, "noisy points", "small")
    entry = wala_models.write_joint(folder / "models", seed=1, id="small", tasks=tasks)
    other = evaluate._Bench(folder, ["wavelet-fit", "small"], "cpu")
    assert other.mark(case, "noisy points", "small") != before
    assert other.mark(case, "noisy points", "wavelet-fit") == bench.mark(
        case, "noisy points", "wavelet-fit"
    )


def test_the_autoencoder_is_measured_on_trees(folder, case, monkeypatch):
    class Perfect:
        def encode(self, volume):
            return volume

        def decode_unquantised(self, latent):
            return latent

    class Blind(Perfect):
        def decode_unquantised(self, latent):
            return torch.nn.functional.pad(latent[:, :1] * 0 + 1, (0,) * 7 + (63,))

    loaded = type("Loaded", (), {"device": torch.device("cpu"), "dtype": torch.float32})()
    loaded.model = type("Model", (), {})()
    bench = evaluate._Bench(folder, ["wavelet-fit"], "cpu")
    monkeypatch.setattr(evaluate._Bench, "_loaded", lambda bench, model: loaded)
    bench.measure(case, "tree", evaluate.CEILING)
    loaded.model.autoencoder = Perfect()
    bench.measure(case, "tree", "perfect")
    ceiling, perfect = (bench.row(case, "tree", m) for m in (evaluate.CEILING, "perfect"))
    assert perfect["IoU"] == ceiling["IoU"]
    loaded.model.autoencoder = Blind()
    bench.measure(case, "tree", "blind")
    assert bench.row(case, "tree", "blind")["IoU"] == 0


def test_tasks_are_what_an_artist_would_set(case):
    for kind in cases.INPUTS[1:]:
        task = cases.task_of(case, kind, "wavelet-fit")
        task.validate()
        assert task.up_axis == "y"
        assert task.kind.split("-to-")[0] in kind
    assert case.words == "a ball"
    assert cases.free_task("a ball", "some", 3).prompt == "a ball"
    assert cases.free_task("", "some", 3).kind == "shape"
    points = cases.points_of(case, "one-sided points")
    check_points(points)
    assert np.percentile(np.abs(np.linalg.norm(points, axis=1) - 0.9), 95) < 0.03
    # Seen from one side, it has no points on the other, and its normals look to the camera.
    eye = np.linalg.inv(np.vstack([case.seen.cameras[0][:12].reshape(3, 4), [0, 0, 0, 1]]))[:3, 3]
    assert (points @ (eye / np.linalg.norm(eye))).min() > 0.1
    outward = points / np.linalg.norm(points, axis=1, keepdims=True)
    normals = cases.normals_of(case, "one-sided points")
    assert np.median((normals * outward).sum(axis=1)) > 0.95
    assert np.mean((normals * outward).sum(axis=1) > 0) > 0.99
    # The scan itself is framed by its own box: the frame of the shape is another one.
    own = conditions.cloud_of(case.seen.scans[0])
    assert apply_to_points(np.linalg.inv(case.seen.scan_frames[0]), points) == pytest.approx(
        own, abs=1e-4
    )
    assert np.abs(own - points).max() > 0.2
    clean = cases.points_of(case, "points")
    outward = clean / np.linalg.norm(clean, axis=1, keepdims=True)
    assert (cases.normals_of(case, "points") * outward).sum(axis=1).min() > 0.9
    assert cases.normals_of(case, "noisy points") is None


def test_the_truth_is_found_out_once(folder, monkeypatch):
    def again(*surface):
        raise AssertionError("the truth was kept")

    monkeypatch.setattr(cases.tsdf, "closing_sdf", again)
    (case,) = cases.cases(folder)
    assert case.truth.score(conditions.surface_of_field(ball_field(0.9))).iou == 1
    assert case.truth.diagonal == pytest.approx(1.8 * np.sqrt(3), rel=0.01)
    assert next(iter(cases.cases(folder, most=1))).shape.id == "ball"
    kept = folder / "evaluation" / "truths" / f"{key_of('ball')}.npz"
    with pytest.raises(AssertionError, match="kept"):  # of another surface, it does not count
        cases._truth(packed.encode(BALL[0] / 2, BALL[1]), kept)


def test_no_shapes_to_measure_on_is_told(tmp_path):
    packed.write(tmp_path / "shapes.ffs", [])
    with pytest.raises(BadInput, match="test"):
        list(cases.cases(tmp_path))


def test_conditions_of_other_sides_are_left_alone(folder):
    path = folder / "conditions" / f"{key_of('other')}.npz"
    Conditions.load(folder / "conditions" / f"{key_of('ball')}.npz").save(path)
    try:
        assert [case.shape.id for case in cases.cases(folder)] == ["ball"]
    finally:
        path.unlink()


def test_tiles():
    red = np.zeros((20, 10, 4), np.uint8)
    red[:, :5] = [255, 0, 0, 255]
    tile = contact_sheets.tile(red, 40)
    assert tile.shape == (40, 40, 3)
    assert tile[20, 5].tolist() == [255, 0, 0]
    assert tile[20, 35].tolist() == [255, 255, 255]
    row = [tile, tile]
    assert contact_sheets.grid([row, [tile]])[60, 60].tolist() == [255, 255, 255]
    named = contact_sheets.grid([row, row], ["one", "two"])
    assert named.shape == (32 + 80, 80, 3)
    assert named[:32, :40].min() < 128
    assert np.array_equal(named[32:], contact_sheets.grid([row, row]))
    assert contact_sheets.portrait(None).min() == 128
    dots = contact_sheets.points_tile(np.array([[0.0, 0.0, 0.0], [40.0, 0, 0]]), 41)
    assert np.argwhere(dots[..., 0] < 255).tolist() == [[20, 20]]


def test_cells_look_like_the_box_they_fill():
    cells = np.zeros((16, 16, 16), bool)
    cells[4:12, 2:14, 6:10] = True
    box = trimesh.creation.box(bounds=[[-0.5, -0.75, -0.25], [0.5, 0.75, 0.25]])
    assert np.array_equal(contact_sheets.cells_tile(cells), contact_sheets.portrait(mesh(box)))


def test_long_words_take_several_lines():
    short, long = (contact_sheets.words_tile(words) for words in ("a ball", "a ball " * 12))
    assert short.shape == long.shape
    assert (short[16:] == 255).all()
    assert (long[16:] < 255).any()
