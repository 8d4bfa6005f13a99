"""What a picture file says beside its pixels: EXIF, XMP, profiles, and the date of the photo."""
