"""Many small jobs on several processes."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


def each(function: Callable[[Job], Result], jobs: Iterable[Job], workers: int) -> Iterator[Result]:
    """Results of `function` for each job, in any order; in this process when `workers` is 1.

    function: of a module, for it is imported in the processes, each of which uses one thread.
    """
    if workers <= 1:
        yield from map(function, jobs)
        return
    # Spawned, because forked children and the threads of numerical libraries do not go together.
    with multiprocessing.get_context("spawn").Pool(workers, _one_thread) as pool:
        yield from pool.imap_unordered(function, jobs)


def _one_thread() -> None:
    for library in ("OMP", "MKL", "NUMBA"):
        os.environ[f"{library}_NUM_THREADS"] = "1"
