"""Explains what happened to one photo, for `likeness manifest why`."""
