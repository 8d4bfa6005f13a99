"""Photos -> faces -> identities -> reference pairs -> identity-disjoint splits, every step in the ledger."""
