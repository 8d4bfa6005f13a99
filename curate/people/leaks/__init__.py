"""The search for leaks: people, photos and pictures that are in two splits. `find_leaks.py` is the search."""
