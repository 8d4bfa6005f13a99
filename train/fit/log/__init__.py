"""Keeps and writes what a training measures: the figures of its steps, and the log of the run."""
