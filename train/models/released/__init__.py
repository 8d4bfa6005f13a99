"""Loads weights that other authors released. Each file of this package loads the weights of one system."""

# `--run osdface:FOLDER` and `--run refinefir:FOLDER` name a folder with the released weights of a system.
OSDFACE, REFINEFIR = "osdface:", "refinefir:"
PREFIXES = (OSDFACE, REFINEFIR)
