"""What the server keeps in memory about a dataset, and what it records."""
