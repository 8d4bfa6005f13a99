"""Stores aligned faces in a short form, and compares two of them to find copies of one picture."""
