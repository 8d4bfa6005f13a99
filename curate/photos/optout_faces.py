"""Finds the faces of a person who opts out: compares the faces of the dataset with an example photo.

Erases the person's faces, and keeps them out of later runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from curate.faces.align import FFHQ_512, FFHQ_SIZE, align_face, embed_face, fit_similarity
from curate.faces.find_faces import find_faces
from curate.faces.interface import FaceModels
from curate.faces.load import load_faces_once
from curate.faces.second_look import fits
from manifests.card import write_card
from manifests.errors import BadInput
from manifests.ledger.connection import rewrite_ledger
from manifests.ledger.ledger import Ledger, utc_now
from manifests.ledger.records import Face, KeptOutMark, Membership, Model, remove_embedding
from manifests.pictures.untrusted_images import open_reader
from manifests.privacy.erase import OPTED_OUT, erase_dropped_faces, erase_faces
from manifests.privacy.kept_out import KeptOutList, read_kept_out_list
from manifests.privacy.keys import compute_mark, ensure_key
from manifests.privacy.run_cleanup import find_faces_in_runs, remove_faces_from_runs
from manifests.runtime.text import format_count, make_printable


@dataclass(frozen=True)
class OptoutResult:
    """The result of `opt_out_faces`: the dropped faces and the affected checkpoints.

    For a dry run, `faces` are the faces that a real run would drop.
    """

    faces: tuple[str, ...]  # Ids of the dropped faces.
    people: int  # Number of identities with dropped faces.
    remembered: int  # Number of examples whose embeddings are kept.
    threshold: float  # A face is dropped if its cosine to an example is `threshold` or more.
    checkpoints: tuple[str, ...]  # Checkpoints that were trained on the dropped faces.
    false_match_rate: float | None  # Estimated share of the pairs of strangers that reach the threshold.


def opt_out_faces(
    dataset: Path, images: Sequence[Path], remember: bool, runs: Sequence[Path] = (), dry_run: bool = False
) -> OptoutResult:
    """Drops every face whose cosine to an example reaches the threshold for one person.

    The crops, embeddings and other products of the dropped faces are erased. Each image of `images` is an example and
    must show one face. The threshold comes from the last grouping. If there was no grouping, the threshold is
    `FaceModels.same_person`. If `remember` is true, the embeddings of the examples are kept and compared with the faces
    of later photos. Raises BadInput if an image shows no face or several faces.
    """
    with Ledger.open(dataset, write=not dry_run) as ledger:
        models = _load_models(ledger)
        examples = np.stack([_embed_example(image, models) for image in images])
        kept_out = replace(read_kept_out_list(ledger, None, models.same_person), examples=examples)
        rows_to_drop, people = _find_faces(ledger, kept_out)
        faces = tuple(face.face_id for face in rows_to_drop)
        checkpoints = sorted({path for run in find_faces_in_runs([dataset, *runs], faces) for path in run.checkpoints})
        rate = ledger.read_detail("group").get("false_match_rate")
        if not dry_run:
            key, now, sha256 = ensure_key(ledger), utc_now(), models.recognizer_sha256()
            marks = {row.mark for row in ledger.read_rows(KeptOutMark)}
            rows = [
                KeptOutMark(new_mark, "face", OPTED_OUT, now, tuple(vector.tolist()), sha256)
                for vector in examples
                if remember and (new_mark := compute_mark(key, "face", vector.tobytes())) not in marks
            ]
            remove_faces_from_runs(runs, faces)
            erase_faces(ledger, rows_to_drop, OPTED_OUT, rows)
            erase_dropped_faces(ledger)  # an earlier call may have been killed before it erased everything
    if not dry_run:
        rewrite_ledger(dataset)  # DuckDB leaves deleted rows in its file until the file is rewritten
        write_card(dataset)
    remembered = len(images) if remember else 0
    return OptoutResult(faces, people, remembered, kept_out.threshold, tuple(checkpoints), rate)


def keep_out(ledger: Ledger, models: FaceModels) -> None:
    """Erases every face whose cosine to a remembered example reaches the threshold for one person.

    A curation run calls this function as its stage `keep out`.
    """
    kept_out = read_kept_out_list(ledger, models.recognizer_sha256(), models.same_person)
    if kept_out.examples is not None:
        rows, _ = _find_faces(ledger, kept_out)
        if rows:
            erase_faces(ledger, rows, OPTED_OUT)


def strip_identity(face: Face) -> Face:
    """Returns the row of a face that opted out.

    The row keeps the box, and loses everything that identifies the person.
    """
    row = remove_embedding(replace(face, status="dropped", reason=OPTED_OUT, duplicate_of=None))
    return replace(row, landmarks68=None, phash="", luma_dct=None, crop_sha256=None)


def _find_faces(ledger: Ledger, kept_out: KeptOutList) -> tuple[list[Face], int]:
    """Returns the new rows, with the status dropped, of the matching faces and their near-duplicates.

    The number of people with matching faces is also returned.
    """
    faces = {face.face_id: face for face in ledger.read_rows(Face) if face.shard is not None}
    ids, vectors = ledger.read_embeddings(sorted(faces))
    matches = {face for face, is_match in zip(ids, kept_out.matches(vectors), strict=True) if is_match}
    representatives = {faces[face].representative for face in matches}
    matches |= {face.face_id for face in ledger.read_rows(Face) if face.representative in representatives}
    people = {row.identity_id for row in ledger.read_rows(Membership) if row.face_id in matches}
    return [strip_identity(face) for face in ledger.read_rows(Face) if face.face_id in matches], len(people)


def _load_models(ledger: Ledger) -> FaceModels:
    """Returns the face models of the dataset. Raises BadInput if no recognizer is recorded, or if the file of the
    recognizer changed.
    """
    recognizers = [row for row in ledger.read_rows(Model) if row.role == "recognizer"]
    if not recognizers:
        raise BadInput(f"{ledger.dataset} has no recognizer to compare faces with. Run `likeness curate` first.")
    models = load_faces_once(recognizers[0].spec)
    if models.recognizer_sha256() != recognizers[0].sha256:
        raise BadInput(
            f"The recognizer file of {recognizers[0].spec} changed after {ledger.dataset} was made. Put the old file "
            "back."
        )
    return models


def _embed_example(image: Path, models: FaceModels) -> np.ndarray:
    """Returns the unit embedding, float32 (d,), of the only face in a photo."""
    with open_reader(limited=True) as read:
        pixels = read(image)
    detections = [face for face in find_faces(pixels, models) if face.score >= models.min_score and fits(face)]
    if len(detections) != 1:
        faces = format_count(len(detections), "usable face") if detections else "no usable face"
        raise BadInput(
            f"--face {make_printable(image)} shows {faces}. Name a photo with one face, or crop this photo to one face."
        )
    try:
        fit_similarity(detections[0].landmarks5, FFHQ_512)
    except ValueError:
        raise BadInput(f"--face {make_printable(image)}: the face cannot be aligned. Name another photo.") from None
    crop = align_face(pixels, detections[0].landmarks5, FFHQ_512, FFHQ_SIZE)
    return embed_face(crop, models)
