"""What a restored face is measured by while it is learned; train/fit/objective.py says which recipe uses what."""
