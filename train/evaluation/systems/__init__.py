"""Restores and measures the images of a set under each system: the LQ image, a restorer, or files of another method."""
