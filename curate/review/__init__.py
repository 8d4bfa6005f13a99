"""Shows a dataset in a browser, and records the decisions that the user makes there."""
