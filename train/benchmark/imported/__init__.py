"""Imports published test sets of other projects as benchmarks. The files of the sets are not changed."""
