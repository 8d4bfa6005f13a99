"""Loads weights that other authors released."""

# `--run osdface:FOLDER`, `--run refinefir:FOLDER` and `--run instantrestore:FOLDER` name a folder with the released
# weights of a system.
OSDFACE, REFINEFIR, INSTANTRESTORE = "osdface:", "refinefir:", "instantrestore:"
PREFIXES = (OSDFACE, REFINEFIR, INSTANTRESTORE)
