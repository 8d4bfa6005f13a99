"""Reads the content of the report page. Each section of the page has its own file in this folder."""
