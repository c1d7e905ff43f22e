"""The byte pair encoding of CLIP, from the merges beside this file: nothing is downloaded."""

from __future__ import annotations

import gzip
import html
from functools import cache
from pathlib import Path
from typing import Any

import torch

MERGES = Path(__file__).with_name("clip_merges.txt.gz")
START, END = "<|startoftext|>", "<|endoftext|>"
PADDING = 0
"""What OpenCLIP fills up with; OpenAI's CLIP fills up with the number of the end."""
_STRAIGHT = str.maketrans("‘’“”", "''\"\"")


def tokens(text: str, length: int, *, padded_with_end: bool = False) -> torch.Tensor:
    """(length,) int64: start, the words, end, and zeros, or as many ends. What does not fit is cut
    off before the end.

    Of the mending that CLIP does to its texts (ftfy), only quotation marks are straightened.
    """
    ids = _numbers(text)
    kept = [*ids[: length - 1], ids[-1]] if len(ids) > length else ids
    padding = ids[-1] if padded_with_end else PADDING
    return torch.tensor(kept + [padding] * (length - len(kept)))


def fits(text: str, length: int) -> bool:
    """Whether nothing of `text` is cut off."""
    return len(_numbers(text)) <= length


def _numbers(text: str) -> list[int]:
    """All numbers of a text, start and end included."""
    plain = html.unescape(html.unescape(text)).translate(_STRAIGHT).strip()
    numbers: list[int] = _tokenizer()(plain, split_special_tokens=True)["input_ids"]
    return numbers


@cache
def _tokenizer() -> Any:
    from transformers import CLIPTokenizer

    with gzip.open(MERGES, "rt", encoding="utf-8") as file:
        merges = [tuple(line.split()) for line in file]
    return CLIPTokenizer(vocab=_vocabulary(merges), merges=merges)


def _vocabulary(merges: list[tuple[str, ...]]) -> dict[str, int]:
    """Every byte, every byte at the end of a word, every merge, start and end, in this order."""
    letters = byte_letters()
    words = [*letters, *(letter + "</w>" for letter in letters), *map("".join, merges), START, END]
    return {word: number for number, word in enumerate(words)}


def byte_letters() -> list[str]:
    """A letter that can be seen for each byte: its own where it has one, those first."""
    seen = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    seen += range(ord("®"), ord("ÿ") + 1)
    unseen = 256 - len(seen)
    return [chr(byte) for byte in seen] + [chr(256 + number) for number in range(unseen)]
