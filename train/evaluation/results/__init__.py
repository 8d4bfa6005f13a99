"""Averages the values of all images, and writes the result and its images."""
