"""Reads the content of the page dropped.html: the unused faces, grouped by reason, with pictures of some of them.

The page shows no picture of a person who opted out, and no picture from a photo whose consent forbids its use. Purged
faces are not on the page, because the ledger does not have them any more.
"""

from __future__ import annotations

from typing import Any

from manifests.ledger.decisions.decision_log import DROPPED_BY_DECISION, read_decisions
from manifests.ledger.decisions.face_finder import find_drops
from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import crop_path
from manifests.ledger.records import Face
from manifests.privacy.erase import HIDDEN_PHOTOS
from manifests.report.sections.intake_section import explain_reason
from manifests.report.thumbnails import crop_photo, make_thumbnail
from manifests.runtime.text import make_printable
from manifests.runtime.uris import display_path, path_of, uri_of

FACES = 12  # largest number of pictures for each reason (ours)

# Each row is a face that is not used. The faces of a reason are ordered by a hash of their ids, so the first faces are
# a random sample. Every report shows the same sample.
_NOT_USED = f"""
WITH unused AS (
    SELECT face_id, reason, 'dropped' AS kind FROM faces WHERE status <> 'ok'
    UNION ALL
    SELECT s.face_id, s.reason, 'set aside' FROM splits s JOIN faces f USING (face_id)
    WHERE s.status <> 'ok' AND f.status = 'ok'),
-- a file that contains the pixels of a photo
pixels AS (
    SELECT p.photo_id, arg_min(coalesce(u.sha256, u.photo_id), u.uri) AS sha256, min(u.uri) AS uri
    FROM photos p JOIN files u USING (photo_id)
    WHERE u.status = 'ok' AND u.samples IS NOT DISTINCT FROM p.samples
        AND u.orientation IS NOT DISTINCT FROM p.orientation
    GROUP BY ALL)
SELECT d.reason, d.kind, face_id, f.box, f.duplicate_of, x.sha256, x.uri,
       f.photo_id IN ({HIDDEN_PHOTOS}) AS hidden, count(*) OVER (PARTITION BY d.reason, d.kind) AS n
FROM unused d JOIN faces f USING (face_id) LEFT JOIN pixels x ON x.photo_id = f.photo_id
QUALIFY row_number() OVER (PARTITION BY d.reason, d.kind, hidden ORDER BY md5(face_id)) <= ?
ORDER BY d.kind, n DESC, d.reason, md5(face_id)"""


def read_dropped_faces(ledger: Ledger, short_id: dict[str, str]) -> list[dict[str, Any]]:
    """Returns the reasons, each with the number of its faces and with some pictures.

    Reasons of dropped faces come before reasons of faces that are set aside. In both groups, the most frequent reason
    comes first. A picture is the crop of the face, or is cut from the photo if the dataset has no crop of the face.
    `short_id` maps the id of each face to its short id.
    """
    rows = ledger.query(_NOT_USED, FACES).rows(named=True)
    drops = find_drops(read_decisions(ledger), ledger.read_rows(Face, "reason = ?", DROPPED_BY_DECISION))
    words_of = {face: drop.name or "" for face, drop in drops.items()}
    groups: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        group = groups.setdefault(
            (row["kind"], row["reason"]),
            {"code": row["reason"], "words": explain_reason(row["reason"]), "kind": row["kind"], "faces": row["n"],
             "images": []},
        )  # fmt: skip
        if not row["hidden"]:
            group["images"].append(_describe_face(ledger, row, short_id) | {"why": words_of.get(row["face_id"], "")})
    return list(groups.values())


def _describe_face(ledger: Ledger, row: dict[str, Any], short_id: dict[str, str]) -> dict[str, str]:
    uri, crop = row["uri"], crop_path(ledger.dataset, row["face_id"])
    image = make_thumbnail(crop, 96) if crop.is_file() else ""
    if not image and uri is not None:
        image = crop_photo(uri, row["sha256"], row["box"], 96)
    return {
        "image": image,
        "id": short_id[row["face_id"]],
        "used": short_id.get(row["duplicate_of"], ""),  # for a near-duplicate, the copy that is used
        "file": "" if uri is None else make_printable(display_path(uri).name),
        "link": "" if uri is None else uri_of(path_of(uri)),
    }
