"""The page of the results of runs."""
