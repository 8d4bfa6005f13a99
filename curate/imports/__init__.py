"""Imports published lists. The module `lists` reads published lists, and `listed_faces` applies the lists to faces."""
