"""Computes figures about restored faces. Each figure has a definition and a source."""
