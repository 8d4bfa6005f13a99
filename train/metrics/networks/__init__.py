"""Loads networks of other authors that measure restored faces, from files that the user gives."""
