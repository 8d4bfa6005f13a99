"""Removes people and photos from a dataset, and keeps the removed photos and faces out of the dataset."""
