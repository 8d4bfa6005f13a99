"""Computes FID between two sets of images, or between a set of images and statistics from a file."""
