"""Measurements against other libraries, in one run on one machine. Not needed to run anything."""
