"""Chooses the faces of a snapshot in the ledger, reads their crops, and writes the files of the snapshot."""
