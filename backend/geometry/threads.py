"""Run compiled loops on several threads.

The numba kernels of this package release the interpreter lock and are compiled without numba's own
parallel backend: that keeps compilation short and lets several threads call them at once, which
numba's default `workqueue` layer does not survive.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any


def thread_count() -> int:
    """Threads to use: OMP_NUM_THREADS when it is set, else the processors of this process."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdigit() and int(wanted) > 0:
        return int(wanted)
    try:
        return max(1, len(os.sched_getaffinity(0)))
    except AttributeError:  # macOS and Windows
        return os.cpu_count() or 1


@cache
def _pool(_process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, thread_count() - 1), thread_name_prefix="geometry")


def in_chunks(
    kernel: Callable[..., Any], total: int, *args: Any, chunks: int | None = None
) -> list[Any]:
    """Call `kernel(begin, end, *args)` for ranges that cover [0, total); results in order.

    The first range runs on the calling thread, so that nothing waits when there is one thread.
    """
    count = max(1, min(chunks or thread_count(), total))
    edges = [total * k // count for k in range(count + 1)]
    # The pool is made anew after a fork, where the threads of the parent do not exist.
    pool = _pool(os.getpid())
    futures = [pool.submit(kernel, *span, *args) for span in pairwise(edges[1:])]
    try:
        first = kernel(0, edges[1], *args)
    finally:
        others = [future.exception() or future.result() for future in futures]
    for other in others:
        if isinstance(other, BaseException):
            raise other
    return [first, *others]
