"""ViewDiff: several views of one thing at once, consistent in 3D, from pictures or words.

Höllein et al. 2024, "ViewDiff: 3D-Consistent Image Generation with Text-to-Image Models". The
denoiser is diffusers' UNet2DConditionModel, whose weights load untouched; three things are added:
attention over the views of a scene and small corrections that know the cameras (attention.py), a
layer that carries features through a grid in space from all views to each (projection.py), and the
transformer block that has room for it (block.py). Written from the description of the method;
weights keep the names of the published code, so that what people trained with it can be read.

diffusers takes seconds to import: it is imported where a model is made.
"""
