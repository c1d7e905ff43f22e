"""A small vocabulary in CLIP's format: the byte pairs that captions need, and every single byte, so
that any text can be read."""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from ...models.mvdream.tokenizer import END, MERGES, START, byte_letters

LENGTH = 77
"""Numbers that a text has at most, start and end included."""


def tokenizer(captions: Iterable[str]) -> Any:
    """A CLIPTokenizer that reads the words of `captions` as CLIP's own would."""
    from transformers import CLIPTokenizer

    with gzip.open(MERGES, "rt", encoding="utf-8") as file:
        every = [tuple(line.split()) for line in file]
    rank = {pair: number for number, pair in enumerate(every)}
    words = sorted({word for text in captions for word in text.lower().replace(",", " ").split()})
    needed = {pair for word in words for pair in _merges_of(word, rank)}
    merges = sorted(needed, key=lambda pair: rank[pair])
    letters = byte_letters()
    entries = [*letters, *(letter + "</w>" for letter in letters), *map("".join, merges)]
    vocabulary = {word: number for number, word in enumerate([*entries, START, END])}
    made = CLIPTokenizer(vocab=vocabulary, merges=merges)
    made.model_max_length = LENGTH
    return made


def _merges_of(word: str, rank: dict[tuple[str, ...], int]) -> list[tuple[str, ...]]:
    """The merges that make `word` of its letters, in their order."""
    parts = [*word[:-1], word[-1] + "</w>"]
    found: list[tuple[str, ...]] = []
    while len(parts) > 1:
        pairs = list(pairwise(parts))
        best = min(pairs, key=lambda pair: rank.get(pair, len(rank)))
        if best not in rank:
            break
        found.append(best)
        at = pairs.index(best)
        parts[at : at + 2] = ["".join(best)]
    return found
