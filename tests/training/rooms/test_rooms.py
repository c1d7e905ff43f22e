"""Rooms from numbers: the same every time, furnished without collisions, told as they look."""

import io
import json
import re
import zipfile

import numpy as np
import pytest
from PIL import Image

from backend.errors import BadInput
from backend.training import prepare
from backend.training.rooms import dataset, furnishings, kinds, scenes
from backend.training.rooms.furnishings import EVALUATION, TRAINING
from backend.training.rooms.painting import FURNITURE, paint
from tests.furnished_rooms import SIZES, furniture

NUMBERS = range(24)
HEIGHT = 32


@pytest.fixture(scope="module")
def store():
    return scenes.Store(furniture())


@pytest.fixture(scope="module")
def rooms(store):
    return [scenes.room(store, TRAINING, number) for number in NUMBERS]


@pytest.fixture(scope="module")
def painted(rooms):
    return [paint(room.scene, HEIGHT, 2 * HEIGHT, 0.25) for room in rooms]


def test_the_same_number_is_the_same_room(store, rooms):
    again = scenes.room(scenes.Store(furniture()), TRAINING, 3)
    one, two = scenes.panorama(rooms[3], HEIGHT), scenes.panorama(again, HEIGHT)
    assert one.caption == two.caption
    assert one.colours.tobytes() == two.colours.tobytes()
    assert one.distance.tobytes() == two.distance.tobytes()
    other = scenes.panorama(scenes.room(store, EVALUATION, 3), HEIGHT)
    assert other.distance.tobytes() != one.distance.tobytes()


def test_walls_of_any_length_are_furnished(store):
    """Also those that are shorter than a picture is wide."""
    lengths = []
    for number in range(100, 300):
        room = scenes.room(store, EVALUATION, number)
        lengths += [wall.high - wall.low for wall in room.plan.walls]
    assert min(lengths) < 1.1


def test_nothing_stands_in_anything_else(rooms):
    pieces = 0
    for room in rooms:
        plan = room.plan
        for number, piece in enumerate(plan.pieces):
            pieces += 1
            box = piece.box
            assert box.x0 >= -1e-6
            assert box.y0 >= -1e-6
            assert box.z1 <= plan.height + 1e-6
            assert box.x1 <= plan.width + 1e-6
            assert box.y1 <= plan.depth + 1e-6
            if plan.cut[0]:
                assert not box.meets(plan.taken[0])
            for other in plan.pieces[:number]:
                assert not box.meets(other.box), (piece.kind, other.kind)
    assert pieces > 100


def test_eyes_are_those_of_people_and_in_nothing(rooms, painted):
    for room, (_, distance, _) in zip(rooms, painted, strict=True):
        x, y, z = room.scene.eye
        assert 1.2 <= z <= 1.7
        assert not any(
            p.box.x0 < x < p.box.x1 and p.box.y0 < y < p.box.y1
            for p in room.plan.pieces
            if p.z < 1.7
        )
        assert distance.min() > dataset.NEAREST


def test_distances_are_finite_but_for_windows(rooms, painted):
    skies = 0
    for room, (colours, distance, thing) in zip(rooms, painted, strict=True):
        assert np.isfinite(colours).all()
        skies += np.isinf(distance).any()
        walls = {window.surface for window in room.plan.windows()}
        assert set(thing[np.isinf(distance)].tolist()) <= walls
    assert skies > len(rooms) / 3


def test_captions_name_what_is_seen_and_nothing_else(rooms, painted):
    named = 0
    for number, room in enumerate(rooms):
        _, distance, thing = painted[number]
        rng = np.random.default_rng(number)
        text = scenes.caption(room, thing, distance, rng)
        assert text.startswith("360 view of a")
        assert room.name in text
        seen = scenes.seen_shares(room, thing, distance)
        for kind in SIZES:
            plural = rf"(two|three|four|five|six|many) {kind}s\b"
            said = re.search(rf"\ban? {kind}\b|{plural}", text)
            if said:
                named += 1
                shown = [share for word, share in seen if word == kind and share >= 0.0025]
                counts = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6}
                wanted = counts.get(said[1]) if said[1] else 1
                assert wanted is None or len(shown) == wanted, text
    assert named > 30


def test_what_is_hidden_is_not_named(rooms, painted):
    room, (_, distance, thing) = rooms[0], painted[0]
    hidden = np.where(thing >= FURNITURE, 0, thing)
    text = scenes.caption(room, hidden, distance, np.random.default_rng(0))
    assert not any(f" {kind}" in text for kind in SIZES)
    shares = scenes.seen_shares(room, thing, distance)
    assert 0.01 < sum(share for word, share in shares if word in SIZES) < 0.9


# ------------------------------------------------------------------------------------------ files


OBJ = """mtllib box.mtl
v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nv 0 0 2\nv 1 0 2\nv 1 1 2\nv 0 1 2
vt 0.25 0.25\nvt 0.3 0.25\nvt 0.25 0.3
usemtl plain\nf 1 2 3\nf 1 3 4
usemtl painted\nf 5/1 6/2 7/3\nf -4/1 -2/2 -1/3
usemtl glass\nf 1 2 6
"""
MTL = """newmtl plain\nKd 1 0.5 0\nnewmtl painted\nKd 1 1 1\nmap_Kd wall.png
newmtl glass\nKd 0 0 1\nd 0.05
"""


@pytest.fixture
def catalogue(tmp_path, monkeypatch):
    """One with a bed on each side of the split, and a lamp post, which is in no room."""
    path = tmp_path / "Scopia.sh3f"
    names = {"a": ("Bed", "train"), "b": ("Bed", "test"), "c": ("Bed", "reserved"),
             "d": ("Bed", "validation"), "e": ("Street lamp", "train")}  # fmt: skip
    texture = np.zeros((4, 4, 3), np.uint8)
    texture[2:, :2] = (10, 200, 30)
    png = io.BytesIO()
    Image.fromarray(texture).save(png, "png")
    lines = [
        f"id#{n}={key}\nname#{n}={name}\ncategory#{n}=Bedroom\nmodel#{n}=/box/box.obj\n"
        f"width#{n}=150\ndepth#{n}=200\nheight#{n}=60\ndropOnTopElevation#{n}=40"
        for n, (key, (name, _)) in enumerate(names.items(), 1)
    ]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("PluginFurnitureCatalog.properties", "\n".join(lines))
        archive.writestr("box/box.obj", OBJ)
        archive.writestr("box/box.mtl", MTL)
        archive.writestr("box/wall.png", png.getvalue())
    split = {key: (side, number) for number, (key, (_, side)) in enumerate(names.items())}
    monkeypatch.setattr(prepare, "split_of_furniture", lambda: split)
    return path


def test_furniture_keeps_its_side_colours_and_size(catalogue, tmp_path):
    target = tmp_path / "furniture.ffr"
    furnishings.pack([catalogue], target, lambda stage, fraction: None)
    (bed,) = furnishings.read(target, TRAINING)
    assert bed.model.id == "a"
    assert bed.model.kind == "double bed"
    assert {item.model.id for item in furnishings.read(target, EVALUATION)} == {"b", "d"}
    assert np.ptp(bed.vertices, axis=0) == pytest.approx([1.5, 2.0, 0.6], abs=1e-3)
    assert bed.vertices[:, 2].min() == pytest.approx(0, abs=1e-6)
    assert bed.model.top == pytest.approx(0.4)
    # y of the file is up, its z is the front, which is -y here: the plain faces are at the back.
    assert len(bed.faces) == 4
    back = bed.vertices[bed.faces][..., 1].mean(axis=1) > 0
    plain, painted = scenes.srgb(bed.colours[back]), scenes.srgb(bed.colours[~back])
    assert plain == pytest.approx(np.repeat([[1, 0.502, 0]], 2, 0), abs=0.02)
    assert painted == pytest.approx(np.repeat([[10, 200, 30]], 2, 0) / 255, abs=0.02)


def test_damaged_furniture_is_refused(catalogue, tmp_path):
    target = tmp_path / "furniture.ffr"
    furnishings.pack([catalogue], target, lambda stage, fraction: None)
    content = target.read_bytes()
    for broken in (b"", b"FFROOMS1\n", content[:60], content[:-9]):
        target.write_bytes(broken)
        with pytest.raises(BadInput):
            furnishings.read(target, TRAINING)


def test_the_split_of_real_furniture_reaches_rooms():
    """Every kind that is furnished with has a name; sides of rooms never mix sides of the split."""
    assert set(furnishings._SIDES) == {"train", "validation", "test"}
    assert [side for side, of in furnishings._SIDES.items() if of == TRAINING] == ["train"]
    assert len({kind.word for kind in kinds.KINDS}) == len(kinds.KINDS)


@pytest.fixture
def boxes(monkeypatch, tmp_path):
    """A file of furniture is not read: rooms are of boxes, two to a shard."""
    monkeypatch.setattr(furnishings, "read", lambda path, side: furniture(side))
    monkeypatch.setattr(dataset, "SHARD", 2)
    monkeypatch.setattr(dataset, "_stores", {})
    return tmp_path / "rooms"


def make(folder, count):
    dataset.make(folder / "none.ffr", folder, TRAINING, count, 16, 1, lambda stage, part: None)


def test_rooms_that_stop_go_on_and_are_the_same(boxes, tmp_path):
    make(boxes, 2)
    before = (boxes / "train-00000.rgb.npy").stat().st_mtime_ns
    make(boxes, 4)
    assert (boxes / "train-00000.rgb.npy").stat().st_mtime_ns == before
    make(tmp_path / "other", 4)
    names = sorted(path.name for path in boxes.iterdir())
    assert len(names) == 6
    for name in names:
        assert (boxes / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
    found = dataset.load(boxes, TRAINING)
    assert len(found) == 4
    assert found.rgb(3).shape == (16, 32, 3)
    assert len(dataset.load(boxes, TRAINING, 3)) == 3


def test_models_of_a_room_are_written_down(boxes):
    make(boxes, 2)
    record = json.loads((boxes / "train-00000.json").read_text())
    assert len(record["models"]) == len(record["captions"]) == 2
    assert all(name.startswith("test#") for models in record["models"] for name in models)


def test_no_rooms_are_told(tmp_path):
    with pytest.raises(BadInput, match="rooms"):
        dataset.load(tmp_path, EVALUATION)


def test_distances_come_back_from_levels():
    distance = np.array([0.3, 1.0, 2.0, 5.0, np.inf])
    back = dataset.metres(dataset.inverse_levels(distance))
    assert np.isinf(back[-1])
    assert np.abs(back[:-1] - distance[:-1]) == pytest.approx(np.zeros(4), abs=1.6e-3)
    assert abs(back[1] - 1.0) < 5e-5
