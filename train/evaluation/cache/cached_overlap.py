"""Keeps what a set and the training of a run have in common in the cache of an evaluation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from manifests.runtime.files import sha256_file
from train.benchmark.set_faces import SetFaces
from train.benchmark.training_overlap import SeenGroup, TrainingOverlap, find_training_overlap, has_snapshot
from train.data.snapshot import CROPS, FACES, FACTS
from train.evaluation.cache.cache_file import EvaluationCache
from train.evaluation.cache.keys import hash_inputs


def find_cached_overlap(
    own: SetFaces, checkpoint_folder: Path, targets: Sequence[str], strangers_near_zero: bool, cache: EvaluationCache
) -> TrainingOverlap:
    """Returns the result of `find_training_overlap`, from the cache if it is there.

    The key is a hash of the faces, the embeddings and the rules of the set, and of the snapshot. The crops of a
    snapshot can take gigabytes, so their size and the time of their last change stand for their bytes.
    """
    if not has_snapshot(checkpoint_folder):
        return find_training_overlap(own, checkpoint_folder, targets, strangers_near_zero)
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
    crops = (snapshot / CROPS).stat() if (snapshot / CROPS).is_file() else None
    crops_state = None if crops is None else f"{crops.st_size} {crops.st_mtime_ns}"
    key = hash_inputs("training overlap", *faces, *files, crops_state, str(strangers_near_zero), *sorted(targets))
    entry = cache.get(key)
    if entry is not None:
        fields = json.loads(entry)
        return TrainingOverlap(**{**fields, "seen": [SeenGroup(**one) for one in fields["seen"]]})
    overlap = find_training_overlap(own, checkpoint_folder, targets, strangers_near_zero)
    cache.put(key, json.dumps(overlap.as_json()).encode())
    cache.write()  # a refused run measures nothing, so nobody else writes the value
    return overlap
