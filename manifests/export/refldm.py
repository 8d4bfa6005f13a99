"""ReF-LDM (FFHQ-Ref): lists of references as CSV, an id-based split, pictures as the lists name them.

Columns and folders as in its README and in ldm/data/ir.py, which reads `ref_image` with `literal_eval` and joins
`gt_image` and `ref_image` to the folder of pictures, `lq_image` to that of the frozen set.
"""

from __future__ import annotations

import csv
import io

from manifests.export.choose import Case, Chosen, without_lq
from manifests.export.folder import Folder

LISTS, SPLIT_LISTS, PICTURES, LQ = "reference_mapping", "id_based_ffhq_split", "images512x512", "test_images"


def keep(chosen: Chosen) -> Chosen:
    """A list with an `lq_image` needs one in every line."""
    return without_lq(chosen, chosen.lq_splits)


def write(chosen: Chosen, folder: Folder) -> None:
    for split in chosen.wanted.splits:
        folder.data(f"{LISTS}/{split}_references.csv", _list(chosen, chosen.of_split(split)))
        names = "".join(f"{face.face_id}.png\n" for face in chosen.faces_of(split))
        folder.data(f"{SPLIT_LISTS}/{split}_image.txt", names.encode())
    for face_id, face in sorted(chosen.faces.items()):
        folder.picture(f"{PICTURES}/{face_id}.png", face.picture)
    for case in chosen.cases:
        if case.target in chosen.lq:
            folder.picture(f"{LQ}/{chosen.wanted.lq_set}/{case.target}.png", chosen.lq[case.target])


def _list(chosen: Chosen, cases: list[Case]) -> bytes:
    with_lq = any(case.target in chosen.lq for case in cases)
    sink = io.StringIO(newline="")
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(["gt_image", "ref_image", *(["lq_image"] if with_lq else [])])
    for case in cases:
        target = f"{case.target}.png"
        writer.writerow([target, str([f"{ref}.png" for ref in case.references]), *([target] if with_lq else [])])
    return sink.getvalue().encode()
