"""Explains what happened to one photo: `likeness manifest why`."""
