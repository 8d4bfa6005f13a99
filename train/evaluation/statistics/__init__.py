"""Writes the statistics of a folder of images, with which FID compares restored images."""
