"""Trains a one-step restorer with references on a snapshot of a dataset, measures the restorer, and restores photos."""
