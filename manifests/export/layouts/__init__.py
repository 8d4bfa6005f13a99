"""The layouts of the export formats: which content a format takes, and how the format is written."""
