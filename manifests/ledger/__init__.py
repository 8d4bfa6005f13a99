"""The ledger is a DuckDB file. It records the files, their origins, the decisions and the reasons for all drops."""
