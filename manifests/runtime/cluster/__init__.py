"""Runs batches on the nodes of a Ray cluster. Only this folder imports Ray, and only for `--engine ray`."""
