"""Reads the log of the user's decisions, selects the decisions that are in force, and finds the faces of a decision."""
