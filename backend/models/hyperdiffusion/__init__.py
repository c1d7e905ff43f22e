"""HyperDiffusion: shapes and animated shapes, by diffusion over the weights of neural fields.

Erkoc et al. 2023, "HyperDiffusion: Generating Implicit Neural Fields with Weight-Space Diffusion".
Written from the description of the method; modules carry the names that the published checkpoints
use in their state dicts.

    noise -> denoiser.py through backend/sampling.py (diffusion.py) -> weight vector
    weight vector -> weights_vector.py -> field.py, a small network: is this point inside?
    field -> surface.py -> backend/geometry/isosurface.py -> mesh
"""
