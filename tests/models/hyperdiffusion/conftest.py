from __future__ import annotations

import os

# The larger golden values are no part of the repository: see tests/golden/hyperdiffusion/README.md
collect_ignore = [] if os.environ.get("FIELDFORGE_FIXTURES") else ["test_full_size.py"]
if not os.environ.get("FIELDFORGE_LARGE"):  # ten million faces
    collect_ignore.append("test_large_meshes.py")
