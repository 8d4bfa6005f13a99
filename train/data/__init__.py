"""The data of training: the snapshot of a dataset, the draws of each sample, and the batches."""
