"""Fills batches with the faces of many photos, and restores the batches."""
