"""Divides the images of a frozen set into slices, such as strong and weak degradations, and averages each slice."""
