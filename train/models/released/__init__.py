"""Weights that other authors released, one file for each system."""
