"""Defines the losses of training. train/fit/objective.py computes the weighted sum that a recipe uses."""
