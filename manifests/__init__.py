"""The ledger of a dataset, its checks and reports, and the runtime that every command uses."""
