"""Computes metrics of restored faces."""
