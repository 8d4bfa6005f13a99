"""Reads and copies the metadata of picture files: EXIF, XMP, colour profiles, and the date of the photo."""
