"""Defines the recipes of training. Reads and writes the files that hold recipes, and checks the values of recipes."""
