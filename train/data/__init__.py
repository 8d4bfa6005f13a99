"""Provides the data of training: the snapshot of a dataset, the random choices for each sample, and the batches."""
