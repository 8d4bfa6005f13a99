"""Reads the cases of an imported benchmark."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from train.benchmark.imported.imported_benchmark import ImportedCase, SetPicture, load_imported, read_pictures
from train.benchmark.imported.match_files import PROBLEMS
from train.evaluation.sets.cases import Case, FrozenSet
from train.evaluation.sets.embedder import Embed


def read_imported_set(
    folder: Path,
    files: Path | None,
    references: int,
    most_references: int | None = None,
    embed: Embed | None = None,
    keep: Callable[[np.ndarray], np.ndarray] = lambda image: image,
) -> FrozenSet:
    """Reads the cases of an imported benchmark, each with its first `references` references and wrong references.

    If `most_references` is greater than `references`, a case gets its first `most_references` references instead. All
    images have the size of the set. `files` is the folder of the published set, if the benchmark has no copies of the
    photos. `embed` computes the embeddings of the references for a restorer. Without `embed`, the embeddings have the
    length 0, and the cases can be measured but not restored. `keep` is called with each picture, and the result of
    `keep` is used in its place. Raises BadInput if the benchmark cannot be read. Raises LedgerBroken if a file of the
    set is missing or has changed.
    """
    benchmark = load_imported(folder)
    most, card = max(references, most_references or 0), benchmark.card

    def list_used(case: ImportedCase) -> list[SetPicture]:
        own = [case.lq, *([case.target] if case.target else [])]
        return [*own, *case.references[:most], *case.wrong_references[:references]]

    pictures = read_pictures(benchmark, [one for case in benchmark.cases for one in list_used(case)], files, keep)
    crops = {one.file for case in benchmark.cases for one in case.references[:most]}
    crops |= {one.file for case in benchmark.cases for one in case.wrong_references[:references]}
    embedding = {file: np.zeros(0, np.float32) for file in crops}
    if embed is not None:
        embedding = {file: embed([pictures[file]])[0] for file in sorted(crops)}
    width = max((len(vector) for vector in embedding.values()), default=0)

    def make_case(case: ImportedCase) -> Case:
        right = [one.file for one in case.references[:most]]
        wrong = [one.file for one in case.wrong_references[:references]]
        return Case(
            case.name,
            case.name if case.person is None else case.person,
            pictures[case.lq.file],
            pictures[case.target.file] if case.target else None,
            tuple(pictures[file] for file in right),
            np.array([embedding[file] for file in right], np.float32).reshape(len(right), width),
            tuple(pictures[file] for file in wrong),
            np.array([embedding[file] for file in wrong], np.float32).reshape(len(wrong), width) if wrong else None,
            case.wrong_person,
        )

    return FrozenSet(
        card["name"],
        card["images_in_set"],
        tuple(map(make_case, benchmark.cases)),
        is_imported=True,
        has_targets=all(case.target is not None for case in benchmark.cases),
        people_known=all(case.person is not None for case in benchmark.cases),
        problems={PROBLEMS[kind]: len(card["problems"][kind]) for kind in PROBLEMS if kind in card["problems"]},
    )
