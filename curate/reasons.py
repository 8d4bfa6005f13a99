"""The reasons that curation writes into the row of a photo or a face that it leaves out."""

from __future__ import annotations

from manifests.ledger.records import NEAR_DUPLICATE

NO_FACE = "no_face"  # the detector found no face in the photo
DETECTOR_FAILED = "detector_failed"  # the detector raised an error on the photo
FILE_REPLACED = "file_replaced"  # every file that contained the photo was overwritten
PHOTO_VANISHED = "file_vanished_or_changed"  # no file contains the photo any more, or none can be read
CROP_MISSING = "crop_missing"  # the face's 512 px crop is not on the disk, or is not a PNG
NO_EMBEDDING = "no_embedding"  # the recognizer returned NaN, infinity or a zero vector
NOT_FOUND_AGAIN = "not_found_again"  # a new detector did not find the face that an earlier detector found

# A filter of the user may use none of these reasons: a status, or a reason of another stage.
RESERVED = {
    "ok",
    "dropped",
    "failed",
    NEAR_DUPLICATE,
    "decided",
    PHOTO_VANISHED,
    FILE_REPLACED,
    CROP_MISSING,
    NO_EMBEDDING,
    NOT_FOUND_AGAIN,
    "face_dropped",
    "no_consent",
    "consent_missing",
    "opted_out",
    "purged",
    "photo_spans_splits",
    "listed_in_another_split",
}
