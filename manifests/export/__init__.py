"""Writes a dataset as a folder that other programs can read. Each export format has its own file in this folder."""
