"""Measure restorers on a frozen set: with references, without, with wrong references, and against other methods."""
