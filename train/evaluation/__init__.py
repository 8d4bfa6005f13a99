"""Measure restorers on a frozen set: with references, without references, with wrong references, and against other
methods."""
