"""Multi-view diffusion: posed views of shapes, the training of a model of them, its measuring."""
