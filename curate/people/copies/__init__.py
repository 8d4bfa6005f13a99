"""The stage `dedupe` finds copies of pictures. The stage begins in `near_duplicates.py`."""
