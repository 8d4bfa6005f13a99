"""Writes a dataset as a folder that other programs can read. Each format has its own file here."""
