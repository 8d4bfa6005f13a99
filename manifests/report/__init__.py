"""The page a person looks at: DATASET/report/index.html, made from the ledger and from run folders alone."""
