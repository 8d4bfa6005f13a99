"""Reads the faces of the people of a frozen set, from a dataset or from a benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from curate.people.leaks.dataset_faces import (
    Rules,
    read_faces,
    read_policy,
    read_rules,
    read_unused_frozen_faces,
)
from curate.people.leaks.face_line import FaceLine
from manifests.ledger.ledger import Ledger
from manifests.ledger.queries import read_recognizer
from train.benchmark.frozen_benchmark import is_benchmark, load_benchmark
from train.benchmark.leaks import read_benchmark_rules
from train.benchmark.read_images import read_embeddings


@dataclass(frozen=True)
class SetFaces:
    """Holds all faces of the people of a frozen set, or all faces of its photos if the set was split by photos.

    A group is a person, or a photo if the set was split by photos.
    """

    faces: tuple[FaceLine, ...]
    rows: np.ndarray  # int (m,): position in `faces` of each row of `vectors`
    vectors: np.ndarray  # float32 (m, d): unit embeddings
    group_kind: str  # "people" or "photos"
    rules: Rules
    recognizer: str  # sha256
    is_imported: bool = False  # True: the faces have names of the imported set instead of face ids.
    # Names of the faces that are LQ images. Such a face is compared as a picture, but not as a person.
    degraded: frozenset[str] = frozenset()

    @property
    def groups(self) -> list[str]:
        """Returns the group of each face."""
        return [_find_group(line, self.group_kind) for line in self.faces]

    @property
    def group_of(self) -> dict[str, str]:
        """Returns the group of each face by face id."""
        return {line.face: group for line, group in zip(self.faces, self.groups, strict=True)}


def read_set_faces(dataset: Path, lq_set: str | None, targets: Sequence[str]) -> SetFaces:
    """Reads the faces of the people whose faces are `targets` (face ids).

    All faces of these people are read, because any photo of a person can show that a run was trained on the person.
    `dataset` and `lq_set` are as in `read_frozen_set`. Raises the errors of `load_benchmark`. Raises BadInput if a
    dataset was not curated completely.
    """
    if is_benchmark(dataset):
        return _read_from_benchmark(dataset, None, targets)
    if lq_set is not None and is_benchmark(Path(lq_set)):
        return _read_from_benchmark(Path(lq_set), dataset, targets)
    with Ledger.open(dataset) as ledger:
        faces, unused = read_faces(ledger), read_unused_frozen_faces(ledger)
        group_kind = _name_groups(read_policy(ledger))
        chosen = _select_groups([*faces, *unused], targets, group_kind)
        vectors = ledger.read_embeddings([line.face for line in chosen])[1]
        rules, recognizer = read_rules(ledger), read_recognizer(ledger).sha256
    return SetFaces(chosen, np.arange(len(chosen)), vectors, group_kind, rules, recognizer)


def _read_from_benchmark(folder: Path, photos: Path | None, targets: Sequence[str]) -> SetFaces:
    benchmark = load_benchmark(folder)
    embedded_faces, vectors = read_embeddings(benchmark, photos)
    group_kind = _name_groups(benchmark.card["policy"])
    chosen = _select_groups(benchmark.faces, targets, group_kind)
    number_of = {line.face: i for i, line in enumerate(chosen)}
    kept = [row for row, face in enumerate(embedded_faces) if face in number_of]
    rows = np.array([number_of[embedded_faces[row]] for row in kept], np.int64)
    recognizer = str(benchmark.card["recognizer"]["sha256"])
    return SetFaces(chosen, rows, vectors[kept], group_kind, read_benchmark_rules(benchmark), recognizer)


def _name_groups(policy: str) -> str:
    return "people" if policy == "identity" else "photos"


def _find_group(line: FaceLine, group_kind: str) -> str:
    return line.person if group_kind == "people" else line.photo


def _select_groups(faces: Sequence[FaceLine], targets: Sequence[str], group_kind: str) -> tuple[FaceLine, ...]:
    wanted = set(targets)
    groups = {_find_group(line, group_kind) for line in faces if line.face in wanted}
    return tuple(line for line in faces if _find_group(line, group_kind) in groups)
