"""Lead a generated shape through what is known of it: points, or voxels.

Points. The generated surface is moved towards the points by a smooth displacement that dies out
away from them. What is left of it where there are no points, and does not contradict them, is
sampled; these samples and the points go into one wavelet solve, that of `wavelet_fit`, so that
what was measured goes over into what was generated. Away from the points and from all that was
left out, the generated field stays as it is.

Voxels. Among all fields that keep the centre of every voxel on its side, the one whose difference
from the generated field is smoothest and smallest.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace

import numba
import numpy as np
import torch
from scipy import ndimage
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

from ..geometry import pointcloud
from ..geometry.isosurface import marching_cubes, vertex_normals
from ..geometry.threads import in_chunks, thread_count
from . import wavelet_fit
from .wavelet_fit import Cloud

Steps = Generator[tuple[str, float], None, np.ndarray]

FACING = 0.1
"""Cube units that a right angle between normals counts for when surfaces are matched."""
FARTHEST = 0.12
"""Cube units within which a point and the generated surface may be the same place."""
STIFFNESS = (0.12, 0.08, 0.05)
"""Widths, in cube units, of the Gaussians that smooth the displacement, one round each."""
MOST_MATCHED = 20_000
"""Points that tell the displacement, smooth as it is."""
KNOWN = 0.03
"""Cube units from the generated surface within which points say nothing against it."""
RAYS = 12
DOUBT = np.float32(3)
"""How much more a ray that speaks against a piece counts than one that speaks for it: beyond a dent
that should not be, the far side of the body still looks right."""
LONGEST_RAY = 0.6
