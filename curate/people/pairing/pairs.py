"""The stage `pair`: chooses the references of every target.

A reference shows the same person as the target, in another picture. The order of the references follows a policy
(pair_policies.py).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import asdict, replace

import numpy as np

from curate.config import (
    AGE_POLICIES,
    DAYS_A_YEAR,
    MAX_SAME_AGE_YEARS,
    MIN_ACROSS_AGES_YEARS,
    CurateConfig,
    PairRules,
)
from curate.imports.listed_faces import find_listed_faces, make_listed_pairs
from curate.people.copies.near_duplicates import find_photos_with_copies, find_pictures, select_usable_faces
from curate.people.pairing.pair_policies import FaceTable, find_days, rank_references, round_gaps
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import Face, ListEntry, Pair, Photo, Split
from manifests.runtime.text import format_count

TOO_FEW_PHOTOS = "too_few_photos"
TOO_FEW_REFERENCES = "too_few_references"

_PAIRS_AT_ONCE = 1 << 20  # Number of pairs of target and candidate in one step; limits the memory.
_INDEX_BITS = 24  # The index of the candidate takes this many bits of a sort key.
_NO_KEY = np.iinfo(np.int64).max  # Sort key of a candidate that is not usable.


def pair_faces(ledger: Ledger, config: CurateConfig) -> list[str]:
    """Records the targets with their references. Also records how many faces are not targets, by reason.

    Returns notices about faces without a usable date, and about unusable references of imported lists.
    """
    faces = select_usable_faces(ledger.read_rows(Face))
    photos = {photo.photo_id: photo for photo in ledger.read_rows(Photo)}
    picture_of = find_pictures(faces, photos, config.dedupe.max_photo_bits)
    face_ids, vectors = ledger.read_embeddings()
    by_id = {face.face_id: face for face in faces}
    embedded = [by_id[face_id] for face_id in face_ids]
    splits, lists = ledger.read_rows(Split), ledger.read_rows(ListEntry)
    rows, no_targets = make_pairs(
        splits,
        embedded,
        vectors,
        config.pairs,
        picture_of,
        find_listed_faces(lists, faces),
        find_photos_with_copies(faces),
        photos,
    )
    listed_rows, listed_no_targets, references_left_out = make_listed_pairs(lists, splits, faces, vectors, picture_of)
    listed_rows = _add_gaps(listed_rows, embedded, vectors, photos)
    detail = {
        **asdict(config.pairs),
        "left_out": {**no_targets, **listed_no_targets},
        "references_lost": dict(references_left_out),
    }
    every = sorted([*rows, *listed_rows], key=lambda row: row.target)
    ledger.record("pair", "all", config.pairs, every, replace=(Pair,), detail=detail)
    notices = _describe_undated(config.pairs, embedded, photos)
    if not references_left_out:
        return notices
    reasons = ", ".join(
        f"{n} {reason}" for reason, n in sorted(references_left_out.items(), key=lambda item: (-item[1], item[0]))
    )
    count = sum(references_left_out.values())
    verb = "is" if count == 1 else "are"
    return [*notices, f"{format_count(count, 'reference')} from imported lists {verb} left out: {reasons}."]


def _describe_undated(rules: PairRules, faces: Sequence[Face], photos: Mapping[str, Photo]) -> list[str]:
    """Returns a notice about the faces that AGE_POLICIES cannot use, because they have no trusted date."""
    if rules.name not in AGE_POLICIES:
        return []
    undated = [photos[face.photo_id] for face in faces if math.isnan(find_days(photos[face.photo_id])[0])]
    doubts = Counter(photo.taken_doubt or "no date" for photo in undated)
    if not doubts:
        return []
    reasons = ", ".join(f"{n} {why}" for why, n in sorted(doubts.items(), key=lambda item: (-item[1], item[0])))
    return [
        f"--pairs {rules.policy} cannot use {len(undated)} of {format_count(len(faces), 'face')}, because their photos "
        f"have no date that can be trusted: {reasons}."
    ]


def _add_gaps(
    pairs: Sequence[Pair], faces: Sequence[Face], vectors: np.ndarray, photos: Mapping[str, Photo]
) -> list[Pair]:
    """Returns the pairs with the days between each reference and the target."""
    table = FaceTable(faces, vectors, np.zeros(len(faces), np.int64), photos)
    number = {face.face_id: i for i, face in enumerate(faces)}
    rows = []
    for pair in pairs:
        gaps = table.measure_gaps(np.array([number[pair.target]]), np.array([number[ref] for ref in pair.refs]))
        rows.append(replace(pair, gap_days=round_gaps(gaps)))
    return rows


def make_pairs(
    splits: Sequence[Split],
    faces: Sequence[Face],
    vectors: np.ndarray,
    rules: PairRules,
    picture_of: Mapping[str, str] | None = None,
    no_targets: Container[str] = (),
    photos_with_copies: Mapping[str, Container[str]] | None = None,
    photos: Mapping[str, Photo] | None = None,
) -> tuple[list[Pair], dict[str, int]]:
    """Returns a row for every target, sorted by target, and counts of the faces that are not targets, for each reason.

    If a test filter removes a face from the targets, the face is counted under the reason of the filter. Any other face
    that is not a target is counted under too_few_photos if its person has too few photos. If its person has enough
    photos, the face is counted under too_few_references.

    `faces` contains the face of every row of `splits` that has the status ok. `vectors` are the unit embeddings of
    `faces`, float (n, d), in the same order. `picture_of` maps a photo to its picture, which is the same for all copies
    of one photo. A photo that is not in `picture_of` is its own picture. `photos_with_copies` maps a photo to the
    photos that contain a copy of one of its faces. Split rows that are set aside are left out. Faces in `no_targets`
    can only be references, and are not counted. The result does not depend on the order of the input.

    A reference shows the same person as the target in a different picture. A near-duplicate is never a reference. If
    another photo contains a copy of any face in the target's photo, no face of this other photo is a reference, because
    it may also contain a copy of the target that was not found. With `--split-by photos`, the references of val and
    test come from train, because a personal restorer gets photos of its training set as references.
    """
    pictures = [(picture_of or {}).get(face.photo_id, face.photo_id) for face in faces]
    picture_number = np.unique(pictures, return_inverse=True)[1] if pictures else np.zeros(0, np.int64)
    table = FaceTable(faces, vectors, picture_number, photos or {})
    number = {face.face_id: i for i, face in enumerate(faces)}
    people: dict[str, list[Split]] = defaultdict(list)
    for row in sorted(splits, key=lambda row: row.face_id):
        if row.status == "ok" and faces[number[row.face_id]].duplicate_of is None:
            people[row.identity_id].append(row)
    pairs: list[Pair] = []
    counts: Counter[str] = Counter()
    for person in sorted(people):
        rows = people[person]
        counts.update(row.no_target for row in rows if row.no_target is not None)
        references_only = {row.face_id for row in rows if row.no_target is not None or row.face_id in no_targets}
        if len(rows) < rules.min_photos or len({pictures[number[row.face_id]] for row in rows}) < rules.min_photos:
            counts[TOO_FEW_PHOTOS] += len(rows) - len(references_only)
            continue
        members: dict[str, list[int]] = defaultdict(list)  # split -> rows of the table
        for row in rows:
            members[row.split].append(number[row.face_id])
        for split, in_split in members.items():
            targets = [at for at in in_split if faces[at].face_id not in references_only]
            source = "train" if rows[0].policy == "photos" else split
            candidates = np.array(members.get(source, []), np.int64)
            before = len(pairs)
            if targets and len(candidates):
                pairs += _pair_person(
                    table, np.array(targets, np.int64), candidates, split, rules, photos_with_copies or {}
                )
            counts[TOO_FEW_REFERENCES] += len(targets) - (len(pairs) - before)
    return sorted(pairs, key=lambda row: row.target), dict(+counts)


def _pair_person(
    table: FaceTable,
    targets: np.ndarray,
    candidates: np.ndarray,
    split: str,
    rules: PairRules,
    photos_with_copies: Mapping[str, Container[str]],
) -> Iterator[Pair]:
    """Yields the pairs of one person in one split.

    `targets` and `candidates` are row numbers of `table`, both sorted by face id. `make_pairs` explains
    `photos_with_copies`.
    """
    low, high = rules.window(split)
    index = np.arange(len(candidates), dtype=np.int64)
    step = max(1, _PAIRS_AT_ONCE // len(candidates))
    for begin in range(0, len(targets), step):
        # Mark the candidates that each target may use, bool (targets, candidates). Round the cosines to 1e-6.
        part = targets[begin : begin + step]
        usable = table.picture[part][:, None] != table.picture[candidates]
        for at, row in enumerate(part.tolist()):
            if (others := photos_with_copies.get(table.faces[row].photo_id)) is not None:
                usable[at] &= [table.faces[candidate].photo_id not in others for candidate in candidates.tolist()]
        cosine = np.round(table.vectors[part] @ table.vectors[candidates].T, 6)
        if rules.name == "window":
            distance = np.round(1 - cosine, 6)
            usable &= (distance >= low) & (distance <= high)
        if rules.name in AGE_POLICIES:
            gaps = table.measure_gaps(part[:, None], candidates)
            least, most = MIN_ACROSS_AGES_YEARS * DAYS_A_YEAR, MAX_SAME_AGE_YEARS * DAYS_A_YEAR
            usable &= gaps <= most if rules.name == "same-age" else gaps >= least  # a comparison with NaN is false

        # Make a unique sort key for each candidate from its rank and its index. Because keys are unique, the choice
        # among equal ranks does not depend on the sorting algorithm. The candidates with the max_references smallest
        # keys are the references.
        ranks = rank_references(table, part, candidates, cosine, usable, rules)
        key = np.where(usable, ranks << _INDEX_BITS | index, _NO_KEY)
        if len(candidates) > rules.max_references:
            key = np.partition(key, rules.max_references - 1, axis=1)[:, : rules.max_references]
        key.sort(axis=1)
        pick = np.minimum(key & ((1 << _INDEX_BITS) - 1), len(candidates) - 1)
        references = table.ids[candidates][pick].tolist()
        cosines = np.take_along_axis(cosine, pick, 1).tolist()
        days = table.measure_gaps(part[:, None], candidates[pick])
        counts = (key < _NO_KEY).sum(1).tolist()
        for target, refs, alike, apart, count in zip(table.ids[part], references, cosines, days, counts, strict=True):
            if count >= rules.min_references:
                gap_days = round_gaps(apart[:count])
                yield Pair(target, tuple(refs[:count]), tuple(alike[:count]), rules.policy, split, gap_days)
