"""Figures about restored faces, each with its definition and its source."""
