"""Finds what happened to the files and photos of earlier scans: they may be moved, replaced, turned or saved again."""
