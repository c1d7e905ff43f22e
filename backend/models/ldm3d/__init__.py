"""LDM3D: a picture and its depth at once, from words; here all around the eye.

Stan et al. 2023, "LDM3D: Latent Diffusion Model for 3D", and "LDM3D-VR" of the same year: Stable
Diffusion 1.4 whose autoencoder was trained further to take and give depth beside the colours. Four
channels hold red, green, blue and depth; six hold the 16 bits of depth as a second picture.
Networks, tokeniser and scheduler are those of diffusers and transformers. The way through them is
our own (`model.py`), since diffusers gave its pipeline up and what is left of it destroys the
depth of six channels.

Nothing checks what a picture shows: the published filter ("safety checker") is neither downloaded
nor run.

diffusers and transformers take seconds to import: they are imported where a model is made.
"""
