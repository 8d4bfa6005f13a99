"""Holds the networks that embed faces for the losses and the restorer: the recognizer and the identity encoder."""
