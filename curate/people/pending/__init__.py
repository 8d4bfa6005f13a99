"""Follows recorded decisions in memory, until a grouping applies them: people, and photos that are refused."""
