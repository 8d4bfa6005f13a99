"""The stage `dedupe`: finds the copies of one picture. `near_duplicates.py` is the stage."""
