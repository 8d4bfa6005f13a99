"""DMDNet and ASFFNet512: a TSV line a low-quality picture, with the folders of its references and of their landmarks.

As in SpecificLists.txt and main_test.py of both: the loaders take every file of the references' folder, want two or
more, and read `<reference>.png.txt` with 68 lines "x y" in the reference's pixels. A folder a target keeps the target
out of its own references.
"""

from __future__ import annotations

from collections import Counter

from manifests.errors import BadInput
from manifests.export.choose import Case, Chosen, ExportedFace, in_crop, without_lq
from manifests.export.folder import Folder

LIST, LQ, REFERENCES, LANDMARKS = "SpecificLists.txt", "SynLQ", "RefsImg", "RefsLandmark"
LEAST = 2  # references a target, else both loaders skip it


def keep(chosen: Chosen) -> Chosen:
    """Targets with a low-quality picture and two references or more that have 68 landmarks.

    Raises BadInput where no face has any.
    """
    if all(face.landmarks68 is None for face in chosen.faces.values()):
        raise BadInput(
            "dmdnet needs 68 landmarks of every reference and no face has them: run `likeness curate` again with "
            "--landmarks dlib."
        )
    chosen = without_lq(chosen, set(chosen.wanted.splits))
    cases, left_out = [], Counter[tuple[str, str]]()
    for case in chosen.cases:
        marked = [ref for ref in case.references if chosen.faces[ref].landmarks68 is not None]
        left_out["references", "no_landmarks68"] += len(case.references) - len(marked)
        if len(marked) < LEAST:
            left_out["targets", "fewer_than_two_references"] += 1
        else:
            alike = dict(zip(case.references, case.similarities, strict=True))
            cases.append(Case(case.target, tuple(marked), tuple(alike[ref] for ref in marked), case.split))
    return chosen.with_cases(cases, left_out).with_faces(set(), "in_no_pair")


def write(chosen: Chosen, folder: Folder) -> None:
    lines = []
    for case in chosen.cases:
        lines.append(f"./{LQ}/{case.target}.png\t./{REFERENCES}/{case.target}\t./{LANDMARKS}/{case.target}\n")
        folder.picture(f"{LQ}/{case.target}.png", chosen.lq[case.target])
        for ref in case.references:
            folder.picture(f"{REFERENCES}/{case.target}/{ref}.png", chosen.faces[ref].picture)
            folder.data(f"{LANDMARKS}/{case.target}/{ref}.png.txt", _points(chosen.faces[ref]))
    folder.data(LIST, "".join(lines).encode())


def _points(face: ExportedFace) -> bytes:
    assert face.landmarks68 is not None
    return "".join(f"{x:.3f} {y:.3f}\n" for x, y in in_crop(face, face.landmarks68)).encode()
