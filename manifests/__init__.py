"""The ledger: what exists, where it came from, what was decided, why something was dropped."""
