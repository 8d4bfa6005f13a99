"""Faces that opted out: shown by an example photo, found in the dataset now, and kept from coming in later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from curate.detection.detect import nameless, resolved
from curate.faces.align import FFHQ_512, FFHQ_SIZE, align_face, crop_for_recognizer, fit_similarity
from curate.faces.interface import FaceModels
from manifests.card import write_card
from manifests.errors import BadInput
from manifests.ledger.connection import rewrite_ledger
from manifests.ledger.ledger import Ledger, utc_now
from manifests.ledger.records import Face, KeptOutMark, Membership, Model
from manifests.privacy.erase import OPTED_OUT, erase_dropped_faces, erase_faces
from manifests.privacy.kept_out import KeptOutList, read_kept_out_list
from manifests.privacy.keys import compute_mark, ensure_key
from manifests.privacy.run_cleanup import find_faces_in_runs, remove_faces_from_runs
from manifests.runtime.text import format_count, make_printable
from manifests.runtime.untrusted_images import open_reader


@dataclass(frozen=True)
class OptedOut:
    """What opting faces out came to, or would."""

    faces: tuple[str, ...]  # dropped, ids
    people: int  # whom these faces were grouped as
    remembered: int  # examples
    threshold: float  # cosine from which a face counts as an example's
    checkpoints: tuple[str, ...]  # trained on them
    false_match_rate: float | None  # share of strangers' pairs that reach it, as grouping estimated it


def opt_out_faces(
    dataset: Path, images: Sequence[Path], remember: bool, runs: Sequence[Path] = (), dry_run: bool = False
) -> OptedOut:
    """Drop every face that is as alike to an example as one person's two photos are, with all that was made of it.

    Each image must show one face. The threshold is that of the last grouping, else the recognizer's own. With
    `remember` the examples' embeddings are kept, and later photos compared with them. Raises BadInput for an image
    without a face or with several.
    """
    with Ledger.open(dataset, write=not dry_run) as ledger:
        models = _models(ledger)
        examples = np.stack([_example(image, models) for image in images])
        listed = replace(read_kept_out_list(ledger, None, models.same_person), examples=examples)
        dropped, people = _dropped(ledger, listed)
        faces = tuple(face.face_id for face in dropped)
        checkpoints = sorted({path for one in find_faces_in_runs([dataset, *runs], faces) for path in one.checkpoints})
        rate = ledger.read_detail("group").get("false_match_rate")
        if not dry_run:
            key, made, sha256 = ensure_key(ledger), utc_now(), models.recognizer_sha256()
            there = {row.mark for row in ledger.read_rows(KeptOutMark)}
            rows = [
                KeptOutMark(one, "face", OPTED_OUT, made, tuple(vector.tolist()), sha256)
                for vector in examples
                if remember and (one := compute_mark(key, "face", vector.tobytes())) not in there
            ]
            remove_faces_from_runs(runs, faces)
            erase_faces(ledger, dropped, OPTED_OUT, rows)
            erase_dropped_faces(ledger)  # what an earlier call was stopped at
    if not dry_run:
        rewrite_ledger(dataset)  # deleted rows stay in a DuckDB file otherwise
        write_card(dataset)
    kept = len(images) if remember else 0
    return OptedOut(faces, people, kept, listed.threshold, tuple(checkpoints), rate)


def keep_out(ledger: Ledger, models: FaceModels) -> None:
    """The stage of a curation: faces as alike to a remembered example as one person's photos leave."""
    listed = read_kept_out_list(ledger, models.recognizer_sha256(), models.same_person)
    if listed.examples is not None:
        dropped, _ = _dropped(ledger, listed)
        if dropped:
            erase_faces(ledger, dropped, OPTED_OUT)


def _dropped(ledger: Ledger, listed: KeptOutList) -> tuple[list[Face], int]:
    """The rows of faces that are an example's, with near-duplicates, and how many people they were grouped as."""
    faces = {face.face_id: face for face in ledger.read_rows(Face) if face.shard is not None}
    ids, vectors = ledger.read_embeddings(sorted(faces))
    hit = {face for face, alike in zip(ids, listed.matches(vectors), strict=True) if alike}
    stands = {faces[face].duplicate_of or face for face in hit}
    hit |= {face.face_id for face in ledger.read_rows(Face) if face.face_id in stands or face.duplicate_of in stands}
    people = {row.identity_id for row in ledger.read_rows(Membership) if row.face_id in hit}
    return [nameless(face) for face in ledger.read_rows(Face) if face.face_id in hit], len(people)


def _models(ledger: Ledger) -> FaceModels:
    """The models that the dataset was made with. Raises BadInput where it has none, or they have changed."""
    found = [row for row in ledger.read_rows(Model) if row.role == "recognizer"]
    if not found:
        raise BadInput(f"{ledger.dataset} was never curated: there is no recognizer to compare faces by.")
    models = resolved(found[0].spec)
    if models.recognizer_sha256() != found[0].sha256:
        raise BadInput(f"{found[0].spec} is no longer the recognizer of {ledger.dataset}: put the old files back.")
    return models


def _example(image: Path, models: FaceModels) -> np.ndarray:
    """The unit embedding of the one face that a photo shows."""
    with open_reader(limited=True) as read:
        pixels = read(image)
    found = [one for one in models.detect(pixels) if one.score >= models.min_score]
    if len(found) != 1:
        shows = format_count(len(found), "face") if found else "no face"
        raise BadInput(
            f"--face {make_printable(image)} shows {shows} that can be used: name a "
            "photo, or a part of one, that shows the person alone."
        )
    try:
        fit_similarity(found[0].landmarks5, FFHQ_512)
    except ValueError:
        raise BadInput(f"--face {make_printable(image)}: the face cannot be aligned, name another photo.") from None
    crop = align_face(pixels, found[0].landmarks5, FFHQ_512, FFHQ_SIZE)
    return np.asarray(models.embed(crop_for_recognizer(crop, models.template, models.size)[None])[0], np.float32)
