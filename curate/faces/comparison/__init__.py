"""Stores the pixels of aligned faces in a short form, and compares two stored faces to find copies of one picture."""
