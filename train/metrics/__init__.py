"""Computes metrics of restored faces. Each metric has a definition and a source."""
