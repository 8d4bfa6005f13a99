"""Groups face embeddings into people. Nothing in this folder reads or writes the ledger."""
