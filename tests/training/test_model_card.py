"""Cards say what is known; every shape's maker is named."""

import pytest

from backend.errors import BadInput
from backend.training import model_card
from backend.training.packed import Shape


def shape(name, maker, licence, source="Blend Swap CC-0"):
    return Shape(f"{source}#{name}", name, source, "train", f"{name}, {maker}, {licence}", name)


SHAPES = (
    shape("Chair", "Ann, & Bob", "CC-BY-3.0"),
    shape("Lamp", "Cleo", "CC0-1.0"),
    shape("Bed", "Dan", "CC-BY-3.0"),
    Shape("generated#1", "a screw", "generated", "train", "Fieldforge", "screw"),
)


def test_every_maker_is_named_under_the_licence():
    text = model_card.attribution(SHAPES)
    free, named = text.split("## CC0-1.0")[1], text.split("## CC-BY-3.0")[1].split("## CC0")[0]
    assert "- Lamp, Cleo" in free
    assert [line for line in named.splitlines() if line.startswith("-")] == [
        "- Bed, Dan",
        "- Chair, Ann, & Bob",
    ]
    assert "licenses/by/3.0/" in named
    assert "screw" not in text


@pytest.mark.parametrize("licence", ["CC-BY-NC-3.0", "CC-BY-SA-4.0", ""])
def test_other_licences_are_refused(licence):
    with pytest.raises(BadInput, match="Vase"):
        model_card.attribution([*SHAPES, shape("Vase", "Eve", licence)])


def test_the_card_has_the_numbers_of_the_training_and_the_evaluation():
    sources = {
        "diffusion": {"step": 1234, "seconds": 5400, "settings": {"batch": [16, 4], "seed": 7}}
    }
    measured = {
        "shapes": ["a", "b"],
        "inputs": [{"input": "voxels", "method": "small", "IoU": 0.4321}],
        "sets": [],
    }
    text = model_card.card("Small", ("shape",), SHAPES, sources, measured, "Two cores.")
    for words in (
        "1234",
        "1.5",
        "0.432",
        "On 2 test shapes",
        "Two cores.",
        "For shape.",
        "4 families",
    ):
        assert words in text, words
    assert "Quality" not in model_card.card("Small", (), SHAPES, sources, None, "Two cores.")
