"""What a person looks at: one self-contained page a dataset, read from the ledger and the run folders."""
