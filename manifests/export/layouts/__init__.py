"""Selects and writes the content of each export format. Each layout has its own file in this folder."""
