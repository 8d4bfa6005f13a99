"""ReF-LDM (FFHQ-Ref): lists of references as CSV, an id-based split, pictures as the lists name them.

Columns and folders as in its README and in ldm/data/ir.py, which reads `ref_image` with `literal_eval` and joins
`gt_image` and `ref_image` to the folder of pictures, `lq_image` to that of the frozen set.
"""

from __future__ import annotations

import csv
import io

from manifests.export.output_folder import OutputFolder
from manifests.export.selection import ExportedPair, Selection, drop_targets_without_lq

LISTS, SPLIT_LISTS, PICTURES, LQ = "reference_mapping", "id_based_ffhq_split", "images512x512", "test_images"


def keep(selection: Selection) -> Selection:
    """A list with an `lq_image` needs one in every line."""
    return drop_targets_without_lq(selection, selection.lq_splits)


def write(selection: Selection, folder: OutputFolder) -> None:
    for split in selection.options.splits:
        folder.add_bytes(f"{LISTS}/{split}_references.csv", _list(selection, selection.pairs_of(split)))
        names = "".join(f"{face.face_id}.png\n" for face in selection.faces_of(split))
        folder.add_bytes(f"{SPLIT_LISTS}/{split}_image.txt", names.encode())
    for face_id, face in sorted(selection.faces.items()):
        folder.add_image(f"{PICTURES}/{face_id}.png", face.image)
    for pair in selection.pairs:
        if pair.target in selection.lq:
            folder.add_image(f"{LQ}/{selection.options.lq_set}/{pair.target}.png", selection.lq[pair.target])


def _list(selection: Selection, pairs: list[ExportedPair]) -> bytes:
    with_lq = any(pair.target in selection.lq for pair in pairs)
    sink = io.StringIO(newline="")
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(["gt_image", "ref_image", *(["lq_image"] if with_lq else [])])
    for pair in pairs:
        target = f"{pair.target}.png"
        writer.writerow([target, str([f"{ref}.png" for ref in pair.references]), *([target] if with_lq else [])])
    return sink.getvalue().encode()
