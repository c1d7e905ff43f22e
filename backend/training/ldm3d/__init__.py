"""Training of RGBD panoramas from words: an autoencoder of six channels and a latent diffusion,
both of diffusers' parts, going around in x; and fine-tuning of a published LDM3D by the same loop.
"""
