"""Finds the faces and people that a request names."""
