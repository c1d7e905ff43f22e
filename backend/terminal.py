"""A progress bar with the stage's name, for a person at a terminal. Standard library only."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from types import TracebackType
from typing import TextIO

_WIDTH = 24
_SECONDS_BETWEEN = 0.1
_SECONDS_PER_TICK = 0.5  # a long stage: the clock shows that something goes on


class ProgressBar:
    """Draws on stderr when that is a terminal; otherwise is silent, or with `always` prints a line
    for each new kind of stage, told by its first word. Use it as a context manager: it clears its
    line at the end."""

    def __init__(self, *, always: bool = False, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._always = always
        self._stage, self._fraction = "", 0.0
        self._begun = time.monotonic()
        self._drawn_at = -1.0
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self._clock = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> ProgressBar:
        if self._terminal:
            self._clock.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        if self._clock.is_alive():
            self._clock.join()
        self._clear()

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        with self._lock:
            self._clear()
            print(line, file=self._stream, flush=True)

    def report(self, stage: str, fraction: float, line: str = "") -> None:
        """Show `stage` at `fraction` (0..1). The form that `environment.ensure` calls."""
        changed = stage != self._stage
        kind, before = stage.split()[:1], self._stage.split()[:1]
        self._stage, self._fraction = stage, min(1.0, max(0.0, fraction))
        if self._terminal:
            if changed or time.monotonic() - self._drawn_at >= _SECONDS_BETWEEN:
                self._draw()
        elif self._always and kind != before:
            print(f"{fraction:4.0%} {stage}", file=self._stream, flush=True)

    def _tick(self) -> None:
        while not self._ended.wait(_SECONDS_PER_TICK):
            if self._stage:
                self._draw()

    def _draw(self) -> None:
        with self._lock:
            self._drawn_at = time.monotonic()
            filled = round(_WIDTH * self._fraction)
            minutes, seconds = divmod(int(self._drawn_at - self._begun), 60)
            bar = "#" * filled + "-" * (_WIDTH - filled)
            text = f"[{bar}] {self._fraction:4.0%} {minutes}:{seconds:02} {self._stage}"
            columns = shutil.get_terminal_size().columns - 1
            # Blanks and no control sequence wipe what was there: every console knows them.
            self._stream.write("\r" + text[:columns].ljust(columns))
            self._stream.flush()

    def _clear(self) -> None:
        with self._lock:
            if self._terminal and self._drawn_at >= 0:
                columns = shutil.get_terminal_size().columns - 1
                self._stream.write("\r" + " " * columns + "\r")
                self._stream.flush()
                self._drawn_at = -1.0
