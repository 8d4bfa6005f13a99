"""Restores and measures the images of a set for each system: the LQ image, a restorer, or files of another method."""
