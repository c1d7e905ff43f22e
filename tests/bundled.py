"""The models in the box, and nothing else that this machine may have installed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from backend import weights

BUNDLED = weights.REGISTRY.parent


@pytest.fixture(scope="module")
def only_bundled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """For a whole module: `pytestmark = pytest.mark.usefixtures("only_bundled")`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIELDFORGE_WEIGHTS", str(tmp_path_factory.mktemp("store")))
        patch.setenv("FIELDFORGE_BUNDLED", str(BUNDLED))
        patch.setattr(weights, "BUNDLED", BUNDLED)
        yield
