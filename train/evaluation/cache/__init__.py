"""Keeps restored images and measured values, so that a second evaluation of the same inputs takes seconds."""
