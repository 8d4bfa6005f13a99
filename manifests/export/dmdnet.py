"""DMDNet and ASFFNet512: a TSV line a low-quality picture, with the folders of its references and of their landmarks.

As in SpecificLists.txt and main_test.py of both: the loaders take every file of the references' folder, want two or
more, and read `<reference>.png.txt` with 68 lines "x y" in the reference's pixels. A folder a target keeps the target
out of its own references.
"""

from __future__ import annotations

from collections import Counter

from manifests.errors import BadInput
from manifests.export.output_folder import OutputFolder
from manifests.export.selection import ExportedFace, ExportedPair, Selection, drop_targets_without_lq, map_to_crop

LIST, LQ, REFERENCES, LANDMARKS = "SpecificLists.txt", "SynLQ", "RefsImg", "RefsLandmark"
LEAST = 2  # references a target, else both loaders skip it


def keep(selection: Selection) -> Selection:
    """Targets with a low-quality picture and two references or more that have 68 landmarks.

    Raises BadInput where no face has any.
    """
    if all(face.landmarks68 is None for face in selection.faces.values()):
        raise BadInput(
            "dmdnet needs 68 landmarks of every reference and no face has them: run `likeness curate` again with "
            "--landmarks dlib."
        )
    selection = drop_targets_without_lq(selection, set(selection.options.splits))
    pairs, left_out = [], Counter[tuple[str, str]]()
    for pair in selection.pairs:
        marked = [ref for ref in pair.references if selection.faces[ref].landmarks68 is not None]
        left_out["references", "no_landmarks68"] += len(pair.references) - len(marked)
        if len(marked) < LEAST:
            left_out["targets", "fewer_than_two_references"] += 1
        else:
            alike = dict(zip(pair.references, pair.similarities, strict=True))
            pairs.append(ExportedPair(pair.target, tuple(marked), tuple(alike[ref] for ref in marked), pair.split))
    return selection.with_pairs(pairs, left_out).with_faces(set(), "in_no_pair")


def write(selection: Selection, folder: OutputFolder) -> None:
    lines = []
    for pair in selection.pairs:
        lines.append(f"./{LQ}/{pair.target}.png\t./{REFERENCES}/{pair.target}\t./{LANDMARKS}/{pair.target}\n")
        folder.add_image(f"{LQ}/{pair.target}.png", selection.lq[pair.target])
        for ref in pair.references:
            folder.add_image(f"{REFERENCES}/{pair.target}/{ref}.png", selection.faces[ref].image)
            folder.add_bytes(f"{LANDMARKS}/{pair.target}/{ref}.png.txt", _points(selection.faces[ref]))
    folder.add_bytes(LIST, "".join(lines).encode())


def _points(face: ExportedFace) -> bytes:
    assert face.landmarks68 is not None
    return "".join(f"{x:.3f} {y:.3f}\n" for x, y in map_to_crop(face, face.landmarks68)).encode()
