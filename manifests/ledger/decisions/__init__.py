"""The log of the user's decisions: its rows, which decisions are in force, and the faces that they name."""
