"""Finds when each photo was taken, and whether the date can be trusted."""
