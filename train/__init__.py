"""Train: a snapshot of the ledger -> a one-step restorer with references -> checkpoints."""
