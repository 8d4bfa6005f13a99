"""Converts decisions and labels into constraints on the clustering, and applies them to a grouping."""
