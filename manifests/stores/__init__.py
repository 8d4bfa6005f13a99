"""Reads and writes files in object stores and on web servers, through fsspec."""
