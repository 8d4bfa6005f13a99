"""Writes the log and the contact sheet, which `restore` writes beside the photos."""
