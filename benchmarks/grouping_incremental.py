"""Measures how new faces join the groups of a large collection, compared with a grouping of all faces.

    python benchmarks/grouping_incremental.py [--size 100000] [--real DATASET] [--keep]

A run removes a random 1% of the photos, groups the rest, and adds the removed faces with `extend_grouping`. The result
is compared with `group_embeddings` on all faces. The time is measured on synthetic faces of 512 dimensions
(grouping_scale.py), and the agreement also on a curated dataset, with ten different sets of removed photos. The seconds
are seconds of the processor, so other programs on the machine change them little.

Two figures of the agreement: `same_pairs` is the share of all pairs of faces for which both groupings say the same, one
person or two people. `same_pairs_of_people` is stricter: of the pairs that are one person in at least one of the two
groupings, it is the share that is one person in both.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from grouping_scale import make_faces
from grouping_scores import score_grouping, score_pairs
from record_result import record_result

from curate.detection.worth import measure_worth, read_worth_scale
from curate.people.clustering.extend_grouping import EarlierGrouping, extend_grouping
from curate.people.clustering.group_embeddings import Grouping, group_embeddings
from manifests.ledger.ledger import Ledger

SHARE = 0.01  # the share of the photos that are new
RUNS = 10


def measure_run(
    vectors: np.ndarray, photos: np.ndarray, worth: np.ndarray | None, full: Grouping, seed: int
) -> dict[str, Any]:
    """Adds a random 1% of the photos to a grouping of the other photos.

    Returns the agreement with the grouping `full` of all photos, and the times.
    """
    names = np.unique(photos)
    new = np.isin(photos, np.random.default_rng(seed).choice(names, max(int(SHARE * len(names)), 1), replace=False))
    start = time.process_time()
    old = group_embeddings(vectors[~new], photos[~new], worth=None if worth is None else worth[~new])
    seconds = time.process_time() - start
    assert old.evidence is not None and old.alpha is not None
    groups = np.full(len(new), -1)
    confidence, margin = np.ones(len(new), np.float32), np.ones(len(new), np.float32)
    groups[~new], confidence[~new], margin[~new] = old.labels, old.confidence, old.margin
    earlier = EarlierGrouping(
        groups=groups,
        confidence=confidence,
        margin=margin,
        evidence=old.evidence,
        alpha=old.alpha,
        threshold=old.threshold,
        false_match_rate=old.false_match_rate,
        recall=old.recall,
        changed=int(new.sum()),
    )
    start = time.process_time()
    extended = extend_grouping(vectors, earlier, photos, worth=worth)
    extended_seconds = time.process_time() - start
    return {
        "seed": seed,
        "faces": len(new),
        "new_faces": int(new.sum()),
        "seconds_of_first_run": round(seconds, 2),
        "seconds_of_new_faces": round(extended_seconds, 2),
        **compare(extended.labels, full.labels),
    }


def compare(one: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """Returns the two figures of the agreement of two groupings, int (n,)."""
    precision, recall, _ = score_pairs(other, one)
    pairs = (np.bincount(one) * (np.bincount(one) - 1) // 2).sum()
    both = precision * pairs
    either = pairs + both / recall - both
    return {
        "same_pairs": round(1 - (either - both) / (len(one) * (len(one) - 1) / 2), 7),
        "same_pairs_of_people": round(both / either, 5),
    }


def measure_synthetic(size: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        make_faces(size, Path(folder))
        vectors, people, photos = (np.load(Path(folder) / name) for name in ("vectors.npy", "people.npy", "photos.npy"))
    full = group_embeddings(vectors, photos)
    return measure_run(vectors, photos, None, full, 0) | {
        "full_bcubed_f": score_grouping(people, full.labels)["bcubed_f"]
    }


def measure_real(dataset: Path) -> list[dict[str, Any]]:
    with Ledger.open(dataset) as ledger:
        ids, vectors = ledger.read_embeddings()
        rows = ledger.query("SELECT photo_id, embedding_norm FROM faces WHERE status = 'ok' ORDER BY face_id")
        scale = read_worth_scale(ledger)
    assert len(rows) == len(ids)
    worth = None if scale is None else measure_worth(vectors, rows["embedding_norm"].to_numpy(), scale)
    photos = np.array(rows["photo_id"].to_list())
    full = group_embeddings(vectors, photos, worth=worth)
    return [measure_run(vectors, photos, worth, full, seed) for seed in range(RUNS)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=100_000)
    parser.add_argument("--real", type=Path, help="a curated dataset")
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/grouping_incremental.json")
    options = parser.parse_args()
    result: dict[str, Any] = {"real": [] if options.real is None else measure_real(options.real)}
    for row in result["real"]:
        print(json.dumps(row), flush=True)
    result["synthetic"] = measure_synthetic(options.size)
    record_result("grouping_incremental", result, options.keep)


if __name__ == "__main__":
    main()
