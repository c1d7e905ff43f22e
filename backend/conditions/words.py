"""A text -> which of the words that a model knows it says.

Models of this kind know single words, each by itself: neither their order nor their grammar.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import BadInput

SUGGESTED = 12
"""Words that are named to somebody who said none that is known."""

_SAY_NOTHING = frozenset(
    (
        *("a", "an", "and", "are", "as", "at", "be", "by", "for", "from", "has", "have", "i", "in"),
        *("into", "is", "it", "its", "like", "make", "me", "my", "no", "not", "of", "on", "one"),
        *("or", "some", "that", "the", "there", "this", "to", "two", "very", "want", "was"),
        *("which", "with", "you"),
    )
)
"""Known or not, they tell nothing about a shape."""


@dataclass(frozen=True, eq=False)
class Said:
    """vector: (number of known words,) float32, 1 for those that are said. used, unknown: words of
    the text that tell something, in its order; used ones as the model knows them."""

    vector: np.ndarray
    used: tuple[str, ...]
    unknown: tuple[str, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """What was read of the text, for the person."""
        notes = [f"The model goes by these words: {', '.join(self.used)}."]
        if self.unknown:
            notes.append(f"It does not know: {', '.join(self.unknown)}.")
        return tuple(notes)


def model_words(text: str, known: Sequence[str]) -> Said:
    """The words of `text` among the `known` ones, which are in lower case.

    A plural counts as its singular and the other way round. Raises BadInput, naming known words,
    when none of them says anything about a shape.
    """
    rows = {word: number for number, word in enumerate(known)}
    vector = np.zeros(len(known), np.float32)
    used: list[str] = []
    unknown: list[str] = []
    for word in split_words(text):
        found = next((form for form in _forms(word) if form in rows), None)
        if found is not None:
            vector[rows[found]] = 1
        if word not in _SAY_NOTHING:
            (unknown if found is None else used).append(found or word)
    said = Said(vector, tuple(dict.fromkeys(used)), tuple(dict.fromkeys(unknown)))
    if not said.used:
        raise _nothing_known(text, said.unknown, known)
    return said


def split_words(text: str) -> list[str]:
    """Lower case, letters and digits only, as captions are read in training."""
    return "".join(c if c.isalnum() else " " for c in text.lower()).split()


def suggestions(unknown: Sequence[str], known: Sequence[str], count: int = SUGGESTED) -> list[str]:
    """At most `count` of the known words: those spelled most like the unknown ones, then some
    from all over the alphabet."""
    telling = [word for word in known if word.isalpha() and word not in _SAY_NOTHING]
    near = [
        word
        for said in unknown
        for word in difflib.get_close_matches(said, telling, n=4, cutoff=0.7)
    ]
    chosen = list(dict.fromkeys(near))[:count]
    others = [word for word in telling if word not in chosen and len(word) > 2]
    missing = min(count - len(chosen), len(others))
    spread = [others[number * len(others) // missing] for number in range(missing)]
    return chosen + spread


def _forms(word: str) -> list[str]:
    """The word itself, then its other number."""
    forms = [word, word + "s", word + "es"]
    if word.endswith("s") and len(word) > 3:
        forms.append(word[:-1])
    if word.endswith("es") and len(word) > 4:
        forms.append(word[:-2])
    if word.endswith("ves"):
        forms += [word[:-3] + "f", word[:-3] + "fe"]
    if word.endswith("ies"):
        forms.append(word[:-3] + "y")
    return forms


def _nothing_known(text: str, unknown: Sequence[str], known: Sequence[str]) -> BadInput:
    words = ", ".join(unknown[:SUGGESTED])
    cause = f"Of your words ({words})" if words else f"Of {text.strip()[:80]!r}"
    return BadInput(
        f"{cause} the model knows none that says what the shape shall be. It knows"
        f" {len(known)} single words.",
        f"Use some of those it knows, for example: {', '.join(suggestions(unknown, known))}.",
    )
