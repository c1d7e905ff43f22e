"""Fast reading of the numbers in text files, without ever trusting the text."""

from __future__ import annotations

import warnings

import numpy as np

_SPACE = np.zeros(256, bool)
_SPACE[[9, 10, 11, 12, 13, 32]] = True


def numbers_of(text: bytes) -> np.ndarray | None:
    """All numbers of `text`, separated by white space, as float64; None when one is none."""
    characters = np.frombuffer(text, np.uint8)
    if len(characters) and int(characters.max()) >= 128:
        return None
    space = _SPACE[characters]
    expected = int((~space[1:] & space[:-1]).sum()) + int(len(space) > 0 and not space[0])
    if expected == 0:
        return np.zeros(0)
    with warnings.catch_warnings():
        # It warns, and will raise one day, where it stops at something that is not a number.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            numbers = np.fromstring(text, np.float64, sep=" ")
        except ValueError:
            return None
    return numbers if len(numbers) == expected else None
