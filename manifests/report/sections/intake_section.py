"""Reads the funnel, the consent, the dates and the filters for the report.

The funnel counts the items that are left after each step, from files to targets.
"""

from __future__ import annotations

from typing import Any

from manifests.ledger.ledger import Ledger
from manifests.privacy.erase import HIDDEN_PHOTOS
from manifests.report.thumbnails import crop_photo

CONSENT_ROWS = 24  # The page shows at most this many combinations of consent, licence and source.
DROPPED_FACES = 4  # Number of example faces for each filter.

NOT_STATED = "not stated"

# maps a reason of the ledger to words that a reader understands
REASONS = {
    "same_file": "a copy of another file",
    "empty_file": "the file is empty",
    "not_an_image": "not an image",
    "heic_not_installed": "a HEIC picture, but the library for HEIC is not installed",
    "jxl_not_installed": "a JPEG XL picture, but the library for JPEG XL is not installed",
    "raw_not_installed": "a camera RAW, but the library for camera RAW is not installed",
    "other_picture_format": "a picture in another format",
    "trash": "in a bin",
    "system_folder": "in a system folder",
    "excluded": "left out by --exclude",
    "not_included": "left out by --include",
    "file_moved": "no longer there, but another file contains the photo",
    "file_gone": "no longer there",
    "file_replaced": "every file of the photo was overwritten",
    "too_many_pixels": "the image has too many pixels",
    "truncated": "the end of the file is missing",
    "broken_image": "the image is broken",
    "no_face": "no face was found",
    "too_small": "too few pixels between the eyes",
    "low_score": "the face detector was not certain",
    "turn_unclear": "it is unclear which side of the face is up",
    "landmarks_do_not_fit": "a second detection found other landmarks",
    "cut_by_border": "the photo's border cuts the face",
    "turned_away": "the face is turned too far to one side",
    "too_blurred": "too blurred",
    "outside_photo": "a test face whose crop lies partly outside the photo",
    "padded": "more than 2% of the crop lies outside the photo",
    "enlarged": "the crop would be enlarged too much",
    "too_noisy": "too noisy",
    "too_blocky": "too many JPEG blocks",
    "too_dark": "too dark",
    "too_bright": "too bright",
    "near_duplicate": "a near-duplicate of another face",
    "photo_spans_splits": "the photo also shows a person of another split",
    "doubtful_person": "the grouping may have joined faces of strangers by chance",
    "listed_in_another_split": "an imported list puts most faces of the person into another split",
    "face_dropped": "the face is in a frozen set, but is not accepted any more",
    "not_found_again": "the present face detector does not find the face",
    "file_vanished_or_changed": "the file was missing or changed when it was read again",
    "decided": "a decision dropped the face",
    "crop_missing": "the crop is missing or broken",
    "unset": "the camera wrote zeros",
    "unreadable": "not a date",
    "digitized": "may be the date of a scan",
    "changed": "only the date of the last change",
    "before_photography": "before the invention of photography",
    "in_future": "in the future",
    "epoch": "the first day of a computer's clock",
    "clock_reset": "the first second of a year",
    "same_second": "too many photos in one second",
    "out_of_order": "the date does not agree with the number in the file name",
    "no_consent": "consent refused or withdrawn",
    "consent_missing": "no consent is known",
    "opted_out": "opted out",
    "purged": "purged",
}

# For each accepted face that is not a target, selects the reason. The parameters are the least number of photos of a
# person, the text for too few photos, and the text for too few references.
_UNPAIRED_FACES = """
SELECT CASE WHEN s.status <> 'ok' THEN s.reason
            WHEN s.no_target IS NOT NULL THEN s.no_target
            WHEN count(*) OVER (PARTITION BY m.identity_id) = 1 THEN 'the only face of that person'
            WHEN count(DISTINCT f.photo_id) OVER (PARTITION BY m.identity_id) < ? THEN ?
            ELSE ? END AS why
FROM memberships m LEFT JOIN splits s USING (face_id) LEFT JOIN faces f USING (face_id)
QUALIFY m.face_id NOT IN (SELECT target FROM pairs)"""

# Selects a few faces that one filter dropped. Each row has a file in whose pixels the box of the face was measured.
_FACES_OF_FILTER = f"""
SELECT arg_min(coalesce(u.sha256, u.photo_id), u.uri) AS sha256, any_value(f.box) AS box, min(u.uri) AS uri
FROM faces f LEFT JOIN photos p USING (photo_id) JOIN files u USING (photo_id) WHERE f.reason = ?
    AND u.samples IS NOT DISTINCT FROM p.samples AND u.orientation IS NOT DISTINCT FROM p.orientation
    AND f.photo_id NOT IN ({HIDDEN_PHOTOS})
GROUP BY f.face_id ORDER BY md5(f.face_id) LIMIT ?"""


def read_funnel(ledger: Ledger) -> list[dict[str, Any]]:
    """Returns the four steps of the funnel: files, photos, faces and accepted faces.

    Each step has the number of kept items, and for each reason the number of dropped items.
    """
    steps = []
    for table, noun, title in (("files", "file", "Files"), ("photos", "photo", "Photos"), ("faces", "face", "Faces")):
        rows = ledger.query(
            f"""SELECT coalesce(reason, status) AS reason, status, count(*) AS n
                FROM {table} GROUP BY ALL ORDER BY n DESC, reason"""
        ).rows(named=True)
        kept_count = sum(row["n"] for row in rows if row["status"] == "ok")
        dropped = [(explain_reason(row["reason"]), row["n"]) for row in rows if row["status"] != "ok"]
        steps.append(_make_step(title, noun, kept_count, "kept", dropped))
    return [*steps, _read_pairing_step(ledger, steps[-1]["kept"])]


def _read_pairing_step(ledger: Ledger, accepted: int) -> dict[str, Any]:
    """Returns the last step of the funnel: the number of targets, and how many accepted faces are not targets.

    The faces that are not targets are counted for each reason.
    """
    rules = ledger.read_detail("pair")
    min_photos, min_references = rules.get("min_photos", 2), rules.get("min_references", 1)
    unpaired = ledger.query(
        _UNPAIRED_FACES,
        min_photos,
        f"fewer than {min_photos} photos of that person",
        "no usable reference in another photo" if min_references == 1 else f"fewer than {min_references} references",
    )
    counts = unpaired.group_by("why").len().sort("len", "why", descending=[True, False]).rows()
    dropped = [(explain_reason(why), n) for why, n in counts]
    kept_count = accepted - sum(n for _, n in dropped)
    return _make_step("Accepted faces", "face", kept_count, "with references", dropped)


def _make_step(
    title: str, noun: str, kept_count: int, kept_words: str, dropped: list[tuple[str, int]]
) -> dict[str, Any]:
    total = kept_count + sum(n for _, n in dropped)
    return {
        "title": title, "noun": noun, "total": total, "kept": kept_count, "kept_words": kept_words, "dropped": dropped,
        "share": 100 * kept_count / max(total, 1),
    }  # fmt: skip


def explain_reason(code: str) -> str:
    """Returns a text for a reason of the ledger. In a reason that is not in REASONS, underscores become spaces."""
    return REASONS.get(code, code.replace("_", " "))


def read_consent(ledger: Ledger) -> list[dict[str, Any]]:
    """Returns counts of photos by consent, licence and source. Returns [] if none of these is stated for any photo."""
    rows = ledger.query(
        f"""SELECT coalesce(consent, '{NOT_STATED}') AS consent, coalesce(licence, '{NOT_STATED}') AS licence,
                   coalesce(source, '{NOT_STATED}') AS source, count(*) FILTER (WHERE status = 'ok') AS used,
                   count(*) AS photos
            FROM photos GROUP BY ALL ORDER BY photos DESC, 1, 2, 3 LIMIT ?""",
        CONSENT_ROWS,
    ).rows(named=True)
    stated = any((row["consent"], row["licence"], row["source"]) != (NOT_STATED,) * 3 for row in rows)
    return rows if stated else []


def read_dates(ledger: Ledger) -> dict[str, Any]:
    """Returns the number of photos with a trusted date, the first and the last trusted date, and the counts of doubts.

    Returns {} if no photo has a date.
    """
    counts = ledger.query(
        """SELECT count(*) AS photos, count(*) FILTER (WHERE taken_from IS NOT NULL AND taken_doubt IS NULL) AS trusted,
                  min(taken) FILTER (WHERE taken_doubt IS NULL)::DATE::VARCHAR AS first,
                  max(taken) FILTER (WHERE taken_doubt IS NULL)::DATE::VARCHAR AS last,
                  count(taken_from) AS dated
           FROM photos"""
    ).row(0, named=True)
    doubts = ledger.query(
        """SELECT taken_doubt, count(*) AS n FROM photos WHERE taken_doubt IS NOT NULL
           GROUP BY ALL ORDER BY n DESC, taken_doubt"""
    ).rows()
    return {**counts, "doubts": [(explain_reason(doubt), n) for doubt, n in doubts]} if counts["dated"] else {}


def read_filters(ledger: Ledger) -> dict[str, Any]:
    """Returns the filters of the last curation with their counts, and pictures of a few faces that each filter dropped.

    Dropped faces have no crop, so their pictures are cut from the photos. Without the file of the photo, there is no
    picture.
    """
    screening = ledger.read_detail("screen")
    for rule in screening.get("filters", []):
        rows = ledger.query(_FACES_OF_FILTER, rule["reason"], DROPPED_FACES).rows()
        rule["words"] = explain_reason(rule["reason"])
        rule["faces"] = [image for sha256, box, uri in rows if (image := crop_photo(uri, sha256, box, 64))]
    return {"test_filters": [], "kept_by_decision": 0, **screening} if screening else {}
