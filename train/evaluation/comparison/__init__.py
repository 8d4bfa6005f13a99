"""Compares results of evaluations that already exist: one table, paired tests, a plot and a page."""
