"""Writes the format of ReF-LDM (FFHQ-Ref): CSV lists of references, a split by identity, and the images of the lists.

Columns and folders follow ReF-LDM's README and ldm/data/ir.py. ReF-LDM's loader parses `ref_image` with `literal_eval`.
The loader opens `gt_image` and `ref_image` in the folder of images, and `lq_image` in the folder of the frozen set.
"""

from __future__ import annotations

import csv
import io

from manifests.export.output_folder import OutputFolder
from manifests.export.selection import ExportedPair, Selection, drop_targets_without_lq

LISTS, SPLIT_LISTS, IMAGES, LQ = "reference_mapping", "id_based_ffhq_split", "images512x512", "test_images"


def keep(selection: Selection) -> Selection:
    """Returns the selection. If a split has low-quality images, its targets without a low-quality image are left out.

    The reason is the column `lq_image` in the CSV list of such a split, which needs an image in each line.
    """
    return drop_targets_without_lq(selection, selection.lq_splits)


def write(selection: Selection, folder: OutputFolder) -> None:
    for split in selection.options.splits:
        folder.add_bytes(f"{LISTS}/{split}_references.csv", _format_list(selection, selection.pairs_of(split)))
        names = "".join(f"{face.face_id}.png\n" for face in selection.faces_of(split))
        folder.add_bytes(f"{SPLIT_LISTS}/{split}_image.txt", names.encode())
    for face_id, face in sorted(selection.faces.items()):
        folder.add_image(f"{IMAGES}/{face_id}.png", face.image)
    for pair in selection.pairs:
        if pair.target in selection.lq:
            folder.add_image(f"{LQ}/{selection.options.lq_set}/{pair.target}.png", selection.lq[pair.target])


def _format_list(selection: Selection, pairs: list[ExportedPair]) -> bytes:
    """Returns the CSV file that lists these pairs.

    The file has the column `lq_image` if at least one target has a low-quality image.
    """
    with_lq = any(pair.target in selection.lq for pair in pairs)
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["gt_image", "ref_image", *(["lq_image"] if with_lq else [])])
    for pair in pairs:
        target = f"{pair.target}.png"
        writer.writerow([target, str([f"{ref}.png" for ref in pair.references]), *([target] if with_lq else [])])
    return buffer.getvalue().encode()
