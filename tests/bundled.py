"""The models in the box, and nothing else that this machine may have installed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend import weights
from backend.models.hyperdiffusion.model import load

BUNDLED = weights.REGISTRY.parent


@pytest.fixture(scope="module")
def only_bundled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """For a whole module: `pytestmark = pytest.mark.usefixtures("only_bundled")`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIELDFORGE_WEIGHTS", str(tmp_path_factory.mktemp("store")))
        patch.setenv("FIELDFORGE_BUNDLED", str(BUNDLED))
        patch.setattr(weights, "BUNDLED", BUNDLED)
        yield


def check_card_of_fields(folder: Path, licence: str) -> None:
    """The card of a model of fields says what it was made of and how near to it its results lie,
    its sheet shows some, and the makers of shapes are named with `licence`."""
    card = (folder / "README.md").read_text("utf-8")
    for words in ("## Data", "## Training", "## Quality", "## Limits", "to training", "CC-BY 4.0"):
        assert words in card
    shapes = re.search(r"(\d+) shapes of the training side", card)
    assert shapes is not None
    assert int(shapes[1]) == len(load(folder).known)
    assert licence in (folder / "ATTRIBUTION.md").read_text("utf-8")
    assert (folder / "samples.png").stat().st_size > 10_000
