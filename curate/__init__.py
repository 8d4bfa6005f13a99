"""From photos to faces, people, splits and reference pairs. Every step is recorded in the ledger."""
