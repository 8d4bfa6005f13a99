"""Trains a model. The files hold the settings, the losses, the loop, the checkpoints and the log of a run."""
