"""Loads networks of other authors that measure restored faces. The user gives the files of the networks."""
