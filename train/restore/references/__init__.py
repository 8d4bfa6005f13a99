"""Reads the reference photos, finds the people in them, and chooses the references of each face."""
