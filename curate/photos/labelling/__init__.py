"""The sources of labels: CSV files, and the names that other programs wrote into photos and beside photos."""
