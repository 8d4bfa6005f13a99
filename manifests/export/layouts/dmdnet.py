"""Writes the format of DMDNet and ASFFNet512: a TSV list of images, and folders of references and landmarks.

The layout follows SpecificLists.txt and main_test.py in the repositories of DMDNet and ASFFNet. The loaders of DMDNet
and ASFFNet take every file in a folder of references, and need two or more references. The loaders read 68 lines "x y",
in the reference's pixels, from `<reference>.png.txt`. Each target has its own folder of references, so that the target
is not among its own references. The folder `GT` has the clean targets, from which the low-quality images can be made
again. The loaders do not read this folder.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from manifests.errors import BadInput, LedgerBroken
from manifests.export.output_folder import OutputFolder
from manifests.export.selection import ExportedFace, Selection, drop_targets_without_lq

LIST, LQ, GT, REFERENCES, LANDMARKS = "SpecificLists.txt", "SynLQ", "GT", "RefsImg", "RefsLandmark"
MIN_REFERENCES = 2  # the loaders of DMDNet and ASFFNet skip a target with fewer than two references

# The five landmarks of an aligned crop of 512 px, x and y. The numbers are those of curate/faces/align.py, which the
# package `manifests` must not import. A test compares the numbers of both files.
FFHQ_512 = np.array(
    [
        [192.98138, 239.94708],
        [318.90277, 240.1936],
        [256.63416, 314.01935],
        [201.26117, 371.41043],
        [313.08905, 371.15118],
    ]
)


def keep(selection: Selection) -> Selection:
    """Returns the targets that have a low-quality image and two or more references with 68 landmarks each.

    Raises BadInput if no face has 68 landmarks.
    """
    if all(face.landmarks68 is None for face in selection.faces.values()):
        raise BadInput(
            "The format dmdnet needs 68 landmarks of references, but no face has any. Run `likeness curate` again with "
            "--landmarks dlib."
        )
    selection = drop_targets_without_lq(selection, set(selection.options.splits))
    pairs, left_out = [], Counter[tuple[str, str]]()
    for pair in selection.pairs:
        references = [ref for ref in pair.references if selection.faces[ref].landmarks68 is not None]
        left_out["references", "no_landmarks68"] += len(pair.references) - len(references)
        if len(references) < MIN_REFERENCES:
            left_out["targets", "fewer_than_two_references"] += 1
        else:
            pairs.append(pair.select(references))
    return selection.with_pairs(pairs, left_out).with_faces(set(), "in_no_pair")


def write(selection: Selection, folder: OutputFolder) -> None:
    lines = []
    for pair in selection.pairs:
        lines.append(f"./{LQ}/{pair.target}.png\t./{REFERENCES}/{pair.target}\t./{LANDMARKS}/{pair.target}\n")
        folder.add_image(f"{LQ}/{pair.target}.png", selection.lq[pair.target])
        folder.add_image(f"{GT}/{pair.target}.png", selection.faces[pair.target].image)
        for ref in pair.references:
            folder.add_image(f"{REFERENCES}/{pair.target}/{ref}.png", selection.faces[ref].image)
            folder.add_bytes(f"{LANDMARKS}/{pair.target}/{ref}.png.txt", _format_landmarks(selection.faces[ref]))
    folder.add_bytes(LIST, "".join(lines).encode())


def _format_landmarks(face: ExportedFace) -> bytes:
    assert face.landmarks68 is not None
    return "".join(f"{x:.3f} {y:.3f}\n" for x, y in map_to_crop(face, face.landmarks68)).encode()


def map_to_crop(face: ExportedFace, points: Sequence[float]) -> np.ndarray:
    """Maps points of the photo (x, y, x, y ...) to the pixels of the face's 512 px crop. Returns float64 (n, 2).

    The mapping is the least-squares similarity, without reflection, from the face's five landmarks to FFHQ_512. The
    crop was made with the same mapping. Raises LedgerBroken if the five landmarks coincide.
    """
    # with points as complex numbers x + iy, a similarity without reflection is the function z -> turn * z + shift
    source, target, mapped = (
        np.asarray(array, np.float64).reshape(-1, 2) @ [1, 1j] for array in (face.landmarks5, FFHQ_512, points)
    )
    centre = source.mean()
    spread = float(np.vdot(source - centre, source - centre).real)
    if spread < 1e-12:
        raise LedgerBroken(f"The landmarks of face {face.face_id} coincide. Run `likeness curate` again.")
    turn = np.vdot(source - centre, target - target.mean()) / spread
    mapped = turn * (mapped - centre) + target.mean()
    return np.stack([mapped.real, mapped.imag], axis=1)
