"""Makes the report: Builds the report of a dataset: DATASET/report/index.html and the pages beside it."""
