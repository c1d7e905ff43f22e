"""MV-Adapter: six views of one thing at once, from a picture or from words.

Huang et al. 2024, "MV-Adapter: Multi-view Consistent Image Generation Made Easy": Stable Diffusion
2.1 as it is, with attention over views and to a picture beside its own self-attention, and an
encoder that tells it the cameras. The layout of the network, its names of weights, the schedule and
the settings follow the published code (Apache License 2.0; see NOTICE.txt).
"""
