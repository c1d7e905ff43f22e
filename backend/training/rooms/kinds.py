"""Which models of the catalogues are what in a room: a kind is what a caption calls it."""

from __future__ import annotations

from dataclasses import dataclass

from ..catalogue import Entry

_ANY = (0.0, 1e9)


@dataclass(frozen=True)
class Kind:
    """Models by name, within a category ("" for any) and between sizes in centimetres.

    most: how many of them may be taken from a side, so that no design of many variants rules.
    """

    word: str
    names: tuple[str, ...]
    category: str = ""
    width: tuple[float, float] = _ANY
    height: tuple[float, float] = _ANY
    depth: tuple[float, float] = _ANY

    def holds(self, entry: Entry) -> bool:
        """Whether a model is of this kind."""
        ranges = (self.width, self.height, self.depth)
        return (
            entry.name in self.names
            and self.category in ("", entry.category)
            and all(
                low <= size <= high for (low, high), size in zip(ranges, entry.size, strict=True)
            )
        )


KINDS = (
    # Bedrooms and nurseries.
    Kind("double bed", ("Bed", "Iron bed", "Futon"), "Bedroom", width=(125, 215)),
    Kind("single bed", ("Child bed", "Captain's bed"), "Bedroom"),
    Kind("cot", ("Baby bed",)),
    Kind("wardrobe", ("Wardrobe",)),
    Kind("chest of drawers", ("Dresser with drawers", "Chest", "Changing table")),
    Kind("dressing table", ("Dressing table",)),
    Kind("bedside table", ("Bedside table",)),
    Kind("rocking horse", ("Rocking horse",)),
    Kind("doll house", ("Doll house",)),
    Kind("small table", ("Children table",)),
    Kind("small chair", ("Children chair", "Child chair")),
    # Living rooms.
    Kind(
        "sofa",
        (
            "Sofa",
            "Couch",
            "Futon couch",
            "Clear sofa",
            "Burlap sofa",
            "Winchester sofa",
            "Sofa 2 seats",
            "Sofa 3 seats",
            "Rattan sofa",
            "Convertible sofa BZ",
        ),
        width=(120, 240),
        depth=(60, 115),
    ),
    Kind("corner sofa", ("Corner sofa",)),
    Kind("armchair", ("Armchair", "Modern armchair", "Winchester armchair"), "Living room"),
    Kind("coffee table", ("Coffee table",)),
    Kind("TV stand", ("TV stand",)),
    Kind("television", ("TV", "TV 16:9")),
    Kind("bookcase", ("Bookcase", "Full bookcase", "Vertical shelves"), height=(140, 225)),
    Kind("shelves", ("Shelves",), height=(70, 200)),
    Kind("grand piano", ("Grand piano",)),
    Kind("fireplace", ("Fireplace",)),
    Kind("aquarium", ("Aquarium",)),
    Kind(
        "plant",
        (
            "Plant",
            "Decorative plant",
            "Indoor plant",
            "Spathiphyllum",
            "Ficus",
            "Yucca",
        ),
        height=(50, 200),
    ),
    Kind(
        "flowers",
        ("Flowers", "Tulips", "Orchids", "White lily", "Bonsai tree", "Decorative plant"),
        height=(20, 64),
    ),
    Kind("small plant", ("Succulent plant", "Cactus", "Bamboo", "Little plant"), height=(8, 40)),
    Kind("vase", ("Vase",), height=(20, 60)),
    Kind("books", ("Book",)),
    Kind("candle", ("Candle",)),
    Kind("speaker", ("Speaker",)),
    # Tables, chairs, offices.
    Kind(
        "dining table",
        (
            "Table",
            "Glass table",
            "Round table",
            "Oak table",
            "Black table",
            "Wooden table",
            "Wooden teak table",
            "Wooden alder table",
            "Folding table",
        ),
        width=(100, 240),
        height=(70, 95),
    ),
    Kind("chair", ("Chair", "Folding chair", "Plastic chair", "Oak chair"), "Living room"),
    Kind("desk", ("Desk", "Desk table", "Wooden desk", "Wooden table"), "Office", height=(70, 110)),
    Kind("office chair", ("Chair", "Armchair"), "Office", width=(50, 70)),
    Kind("filing cabinet", ("Filing cabinet",)),
    Kind("computer", ("Apple iMac 2004", "Apple iMac 1998", "Apple iBook")),
    Kind("desk lamp", ("Desk lamp",)),
    Kind("letter tray", ("Letter tray",)),
    Kind("waste bin", ("Dustbin",)),
    # Lamps.
    Kind("floor lamp", ("Lamp",), height=(120, 200)),
    Kind("table lamp", ("Lamp", "Little lamp"), height=(35, 75)),
    Kind("hanging lamp", ("Hanging light", "Ceiling lamp", "Fluorescent light")),
    # Kitchens.
    Kind("fridge", ("Fridge", "Large fridge", "Refrigerator")),
    Kind("stove", ("Large stove", "Double oven", "Propane stove"), height=(55, 110)),
    Kind("oven", ("Oven",)),
    Kind("cupboard", ("Lower cabinet", "Small lower cabinet", "Drawers cabinet")),
    Kind("sink", ("Sink", "Sink cabinet"), "Kitchen"),
    Kind("wall cupboard", ("Upper cabinet", "Small upper cabinet", "Glass door cabinet")),
    Kind("cooker hood", ("Hood", "Range hood")),
    Kind("tall cupboard", ("High cabinet",)),
    Kind("washing machine", ("Washing machine", "Clothes washing machine", "Dryer machine")),
    Kind("bar stool", ("Bar stool", "Stool", "Bar chair"), height=(70, 115)),
    Kind("kitchen island", ("Island",)),
    Kind("bowl of fruit", ("Bowl with fruits", "Apples")),
    Kind("coffee machine", ("Coffee machine", "Coffee maker")),
    Kind("microwave", ("Microwave",)),
    Kind("kitchen scale", ("Kitchen scale",)),
    # Bathrooms.
    Kind("bath", ("Bath", "Island bath"), "Bathroom"),
    Kind("washbasin", ("Washbasin", "Vanity", "Double vanity"), "Bathroom"),
    Kind("toilet", ("Toilets unit",)),
    Kind("bidet", ("Bidet",)),
    Kind("shower", ("Shower stall",)),
    Kind("towel rail", ("Towel rack",)),
    Kind("laundry basket", ("Clothes basket",)),
    Kind("radiator", ("Radiator",), height=(40, 160)),
    # Elsewhere.
    Kind("clothes rack", ("Clothes rack", "Hanging clothes")),
    Kind("cardboard box", ("Cardboard box", "Open cardboard box", "Box"), width=(40, 110)),
    Kind("exercise bike", ("Indoor bike",)),
    Kind("treadmill", ("Treadmill",)),
    Kind("pool table", ("Pool table",)),
    Kind("Christmas tree", ("Christmas tree",), height=(100, 250)),
)


def kind_of(entry: Entry) -> str:
    """What a caption calls a model; "" where no room has it. The first kind that fits counts."""
    return next((kind.word for kind in KINDS if kind.holds(entry)), "")
