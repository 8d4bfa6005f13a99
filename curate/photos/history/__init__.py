"""What became of the files and photos of earlier scans: moved, replaced, turned or saved again."""
