"""Imports published lists: `lists` reads the lists, and `listed_faces` applies the lists to faces."""
