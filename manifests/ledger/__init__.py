"""The ledger is a DuckDB file. The ledger records files, their origins, decisions, and the reason for every drop."""
