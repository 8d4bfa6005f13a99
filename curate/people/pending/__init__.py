"""Follows recorded decisions about people and about consent in memory, until a grouping applies the decisions."""
