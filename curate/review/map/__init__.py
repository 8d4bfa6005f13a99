"""The map of all faces, and the faces that a lasso selects."""
