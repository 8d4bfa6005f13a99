"""Writes a dataset as a folder in a format that other programs read: one file for each format."""
