"""Keeps the results of `find_training_overlap` in the cache of an evaluation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from curate.faces.interface import FaceModels
from manifests.runtime.files import sha256_file
from manifests.runtime.snapshot_files import CROPS, EMBEDDINGS, FACES, FACTS
from train.benchmark.imported.imported_faces import ImportedFaces, list_imported_faces
from train.benchmark.set_faces import SetFaces, read_set_faces
from train.benchmark.training_overlap import (
    NO_SNAPSHOT,
    SeenGroup,
    TrainingOverlap,
    find_training_overlap,
    has_snapshot,
)
from train.evaluation.cache.cache_file import EvaluationCache
from train.evaluation.cache.cached_embedder import make_cached_embedder
from train.evaluation.cache.keys import hash_inputs
from train.evaluation.sets.cases import FrozenSet


def find_overlap(
    whole_set: FrozenSet,
    dataset: Path,
    lq_set: str | None,
    checkpoint_folder: Path,
    recognizer: FaceModels,
    cache: EvaluationCache,
) -> TrainingOverlap:
    """Compares all cases of a set with the training faces of a run, or reads the result from the cache.

    `recognizer` is the recognizer of the run. This recognizer embeds the faces of an imported set. The faces of another
    set have their embeddings in `dataset` or in the benchmark `lq_set`.
    """
    if not has_snapshot(checkpoint_folder):
        return TrainingOverlap(False, unchecked=[NO_SNAPSHOT])
    targets = [case.face_id for case in whole_set.cases]
    if whole_set.is_imported:
        faces = [
            ImportedFaces(
                case.face_id,
                case.identity_id,
                case.lq if case.target is None else case.target,
                case.target is None,
                case.references,
            )
            for case in whole_set.cases
        ]
        own = list_imported_faces(faces, recognizer, make_cached_embedder(recognizer, cache))
    else:
        own = read_set_faces(dataset, lq_set, targets)
    return find_cached_overlap(own, checkpoint_folder, targets, recognizer.strangers_near_zero, cache)


def _describe_state(path: Path) -> str | None:
    """Returns the size of a file and the time of its last change, or None if there is no file."""
    if not path.is_file():
        return None
    state = path.stat()
    return f"{state.st_size} {state.st_mtime_ns}"


def find_cached_overlap(
    own: SetFaces, checkpoint_folder: Path, targets: Sequence[str], strangers_near_zero: bool, cache: EvaluationCache
) -> TrainingOverlap:
    """Returns the result of `find_training_overlap`, from the cache if it is there.

    The key is a hash of the snapshot, and of the faces, embeddings and rules of the set. The crops and embeddings of a
    snapshot can take gigabytes, so the size and the time of the last change of these two files stand for their bytes.
    The run must have a snapshot.
    """
    faces = (
        repr(own.faces),
        own.rows,
        own.vectors,
        own.group_kind,
        repr(own.rules),
        own.recognizer,
        repr(sorted(own.degraded)),
    )
    snapshot = checkpoint_folder / "snapshot"
    files = [sha256_file(snapshot / name) if (snapshot / name).is_file() else None for name in (FACTS, FACES)]
    states = [_describe_state(snapshot / name) for name in (CROPS, EMBEDDINGS)]
    key = hash_inputs("training overlap", *faces, *files, *states, str(strangers_near_zero), *sorted(targets))
    entry = cache.get(key)
    if entry is not None:
        fields = json.loads(entry)
        return TrainingOverlap(**{**fields, "seen": [SeenGroup(**one) for one in fields["seen"]]})
    overlap = find_training_overlap(own, checkpoint_folder, targets, strangers_near_zero)
    cache.put(key, json.dumps(overlap.as_json()).encode())
    cache.write()  # if the run is refused, there is no later `write`
    return overlap
