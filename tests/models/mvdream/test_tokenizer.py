"""The tokenizer against numbers of open_clip's."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from backend.models.mvdream import tokenizer

GOLDEN = Path(__file__).parents[2] / "golden" / "mvdream" / "tokens.json"
TEXTS = json.loads(GOLDEN.read_text(encoding="utf-8"))


@pytest.mark.parametrize("text", TEXTS)
def test_the_numbers_are_those_of_open_clip(text: str) -> None:
    numbers = tokenizer.tokens(text, 77).tolist()
    assert len(numbers) == 77
    expected = TEXTS[text]
    assert numbers == expected + [0] * (77 - len(expected))


def test_a_long_text_still_ends() -> None:
    numbers = tokenizer.tokens("chair " * 500, 77).tolist()
    assert numbers[0] == 49406
    assert numbers[-1] == 49407
    assert len(set(numbers[1:-1])) == 1


def test_whether_a_text_fits() -> None:
    assert tokenizer.fits("chair " * 75, 77)
    assert not tokenizer.fits("chair " * 76, 77)


def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    tokenizer._tokenizer.cache_clear()
    assert tokenizer.tokens("a chair", 5).tolist() == [49406, 320, 4269, 49407, 0]
