"""The report: Makes DATASET/report/index.html, one page about the ledger and the folders of training runs."""
