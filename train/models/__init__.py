"""Holds the restorer, which is one model made of parts, and the recognizer for the losses."""
