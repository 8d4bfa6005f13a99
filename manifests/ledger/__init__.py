"""The ledger: the DuckDB file that records what exists, where it came from, what was decided and what was dropped."""
