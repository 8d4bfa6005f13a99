"""Checks consent, removes people from a dataset, and keeps removed people out of the dataset."""
