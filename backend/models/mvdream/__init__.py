"""MVDream: several views of one thing at once, from words.

Shi et al. 2023, "MVDream: Multi-view Diffusion for 3D Generation": Stable Diffusion 2.1 in which
the pictures of all cameras attend to each other and each knows its camera. WaLa's authors trained
it further, to six depth pictures or four colour ones that their shape models take. Written from the
description of the method, on the networks of diffusers and transformers; weights keep the names of
the published checkpoints (names.py).

Those two packages take seconds to import: they are imported where a model is made.
"""
