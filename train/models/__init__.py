"""Holds the restorer, which is one model made of parts, and the recognizer that the losses use."""
