"""The recipes of training: the table of recipes, their values, and the files that hold recipes."""
