"""Freeze a test set with its references as a benchmark, and find leaks between training and test."""
