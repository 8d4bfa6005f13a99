"""Loads weights that other authors released. Each file of this package loads the weights of one system."""
