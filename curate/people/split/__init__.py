"""The stage `split`: puts every person into train, val or test. `splits.py` is the stage."""
