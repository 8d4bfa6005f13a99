"""Trains a one-step restorer that looks at references. Measures the restorer, and restores photos with it."""
