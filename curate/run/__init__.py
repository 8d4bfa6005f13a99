"""Runs a curation: checks its options, runs its stages in order, and summarises the result."""
