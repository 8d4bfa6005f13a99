"""The page of the leaks between splits."""
