"""Pure functions on arrays: wavelets, signed distances, surfaces, files. No state, no network."""
