"""The stage `pair` chooses the references of each target. The stage begins in `pairs.py`."""
