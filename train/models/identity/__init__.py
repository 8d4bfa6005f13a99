"""Holds the networks that turn a face into an embedding: the recognizer of the losses, and the identity encoder."""
