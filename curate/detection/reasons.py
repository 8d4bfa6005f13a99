"""The reasons that detection, screening and embedding record for a photo or a face that is left out."""

from __future__ import annotations

NO_FACE = "no_face"  # the detector found no face in the photo
DETECTOR_FAILED = "detector_failed"  # the detector raised an error on the photo
PHOTO_VANISHED = "file_vanished_or_changed"  # no file contains the photo now, or the file cannot be read
CROP_MISSING = "crop_missing"  # the face's 512 px crop is not on the disk, or is not a PNG
NO_EMBEDDING = "no_embedding"  # the recognizer returned NaN, infinity or a zero vector
NOT_FOUND_AGAIN = "not_found_again"  # a new detector did not find the face that an earlier detector found
