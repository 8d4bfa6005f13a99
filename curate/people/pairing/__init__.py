"""The stage `pair`: chooses the references of each target. `pairs.py` is the stage."""
