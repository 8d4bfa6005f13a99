"""Reads and writes the ledger, the DuckDB file that records every file, photo, face and decision of a dataset."""
