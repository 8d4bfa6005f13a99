"""Loads weights that other authors released. Each system has one file."""
