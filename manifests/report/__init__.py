"""The report: DATASET/report/index.html, one page made from the ledger and the folders of training runs."""
