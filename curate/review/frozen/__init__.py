"""The page of the frozen sets."""
