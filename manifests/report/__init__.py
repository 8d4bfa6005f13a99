"""Makes the report: DATASET/report/index.html about the ledger and the training runs, and the pages beside it."""
