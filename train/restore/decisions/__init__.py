"""Decides which photos and which restored faces are used, and records each decision."""
