"""Pastes a restored face into its photo: computes the mask, changes the samples of the photo, and writes the file."""
