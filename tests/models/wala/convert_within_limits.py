"""Runs `models convert` within 8 GiB of address space, and says what it needed.

python convert_within_limits.py CHECKPOINT STORE [ARGUMENT ...]
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

LIMIT = 8 << 30
resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))
sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from backend.__main__ import main  # noqa: E402 (the limit holds for what it imports, too)


def anonymous_bytes() -> int:
    """Memory that is no file's: what a machine must really have."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("RssAnon")]
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    checkpoint, store, *rest = sys.argv[1:]
    begun = time.monotonic()
    code = main(["models", "convert", checkpoint, "-o", store, *rest])
    needed = {
        "code": code,
        "seconds": round(time.monotonic() - begun, 1),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "anonymous_bytes": anonymous_bytes(),
    }
    print(json.dumps(needed))
