"""Defines the recipes of training, reads and writes recipe files, and checks the values of recipes."""
