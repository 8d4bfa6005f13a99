"""Searches for leaks: people, photos and pictures that are in two splits. The search begins in `find_leaks.py`."""
