"""Trains a model. The files of this package define the settings, the losses, the loop, the checkpoints and the log of a
run."""
