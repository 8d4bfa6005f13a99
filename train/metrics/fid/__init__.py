"""Computes FID, by several conventions and against given statistics."""
