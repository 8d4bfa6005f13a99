"""Decodes and encodes picture files, and reads their colour profiles and metadata."""
