"""The table of what painting views costs."""

from __future__ import annotations

from backend import bench_tables
from backend.bench import viewdiff
from backend.bench.viewdiff import Case, small


def test_every_number_of_views_has_a_row() -> None:
    tiny = small(16, (16, 32, 32))
    found = list(viewdiff.rows("cpu", (Case("tiny", tiny, (2, 4)), Case("card", tiny, (2,), True))))
    assert [(row["network"], row["views"]) for row in found] == [("tiny", 2), ("tiny", 4)]
    assert all(row["step_s"] > 0 for row in found)
    assert found[0]["growth"] == ""
    assert found[1]["growth"] > 0
    assert found[1]["reckoned_GB"] >= found[0]["reckoned_GB"]


def test_it_can_be_asked_for_by_name() -> None:
    assert "viewdiff" in bench_tables.BENCHES
    assert "viewdiff" in bench_tables.ON_DEVICE
