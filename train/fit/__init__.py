"""Training: settings, losses, the loop, checkpoints and the log of a run."""
