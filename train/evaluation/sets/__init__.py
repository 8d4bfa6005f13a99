"""Reads the set that is measured: a frozen set of a dataset, a benchmark, or a set that others published."""
