"""Consent, opting out, purging: how people are taken out of a dataset and kept out of it."""
