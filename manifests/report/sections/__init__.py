"""Reads the content of index.html of the report. Each section of the page has its own file in this folder."""
