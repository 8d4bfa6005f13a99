"""The stage `split` puts every person into train, val or test. The stage begins in `splits.py`."""
