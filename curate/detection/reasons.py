"""The reasons that detection, screening and embedding record for a photo or a face that is left out."""

from __future__ import annotations

NO_FACE = "no_face"  # The detector found no face in the photo.
DETECTOR_FAILED = "detector_failed"  # The detector raised an error on the photo.
PHOTO_VANISHED = "file_vanished_or_changed"  # No file contains the photo now, or the file cannot be read.
CROP_MISSING = "crop_missing"  # The face's 512 px crop is not on the disk, or is not a PNG.
NO_EMBEDDING = "no_embedding"  # The recognizer returned NaN, infinity or a zero vector.
NOT_FOUND_AGAIN = "not_found_again"  # A new detector did not find the face that an earlier detector found.
