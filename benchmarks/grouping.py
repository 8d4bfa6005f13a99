"""Score the grouping of a folder of labelled people: `python benchmarks/grouping.py PHOTOS [PHOTOS ...] --faces SPEC`.

Curates the folders as one unlabelled pile and compares who was grouped with whom to the names of the photos' folders.
Each photo's largest accepted face carries the photo's label (a near-duplicate counts in the group of the face that
stands for it); bystanders have no label and are left out. Labels are taken as they are, wrong ones included.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from record import finish

from curate.config import CurateConfig, GroupRules
from curate.pipeline import curate
from manifests.ledger import Ledger
from manifests.storage import path_of


def pairwise(truth: np.ndarray, found: np.ndarray) -> tuple[float, float, float]:
    """Pairwise precision, recall and F over all pairs of faces."""

    def pairs(labels: list[tuple[int, ...]]) -> int:
        return sum(n * (n - 1) // 2 for n in Counter(labels).values())

    both = pairs(list(zip(truth.tolist(), found.tolist(), strict=True)))
    said, true = pairs([(x,) for x in found.tolist()]), pairs([(x,) for x in truth.tolist()])
    precision, recall = both / max(said, 1), both / max(true, 1)
    return precision, recall, 2 * precision * recall / max(precision + recall, 1e-12)


def bcubed(truth: np.ndarray, found: np.ndarray) -> tuple[float, float, float]:
    """BCubed precision, recall and F (Bagga and Baldwin 1998), each face weighing the same."""
    both = Counter(zip(truth.tolist(), found.tolist(), strict=True))
    true, said = Counter(truth.tolist()), Counter(found.tolist())
    precision = sum(n * n / said[f] for (_, f), n in both.items()) / len(truth)
    recall = sum(n * n / true[t] for (t, _), n in both.items()) / len(truth)
    return precision, recall, 2 * precision * recall / (precision + recall)


def labelled_faces(dataset: Path, aliases: dict[str, str]) -> tuple[list[str], list[str]]:
    """The folder name and the identity of each photo's largest accepted face."""
    with Ledger.open(dataset) as ledger:
        rows = ledger.query(
            """SELECT f.photo_id, m.identity_id, min(fi.uri) AS uri
               FROM faces f JOIN memberships m ON m.face_id = coalesce(f.duplicate_of, f.face_id)
               JOIN files fi ON fi.photo_id = f.photo_id
               WHERE f.status = 'ok' OR f.duplicate_of IS NOT NULL
               GROUP BY f.photo_id, m.identity_id, f.face_id, f.inter_ocular_px
               QUALIFY row_number() OVER (PARTITION BY f.photo_id ORDER BY f.inter_ocular_px DESC, f.face_id) = 1
               ORDER BY f.photo_id"""
        )
    folders = [path_of(uri).parent.name for uri in rows["uri"]]
    return [aliases.get(folder, folder) for folder in folders], rows["identity_id"].to_list()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="+", type=Path, help="folders whose sub-folders are named after people")
    parser.add_argument("--faces", default="auto", help="as for `likeness curate`")
    parser.add_argument(
        "--aliases", type=Path, help="JSON: folder name -> name; default: aliases.json beside the first folder"
    )
    parser.add_argument("--same-person", type=float, help="try another mean cosine than the recognizer's own figure")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--into", type=Path, help="keep the dataset here")
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/grouping.json")
    told = parser.parse_args()
    beside = told.aliases or told.photos[0].resolve().parent / "aliases.json"
    aliases = json.loads(beside.read_text()) if beside.is_file() else {}
    with tempfile.TemporaryDirectory() as scratch:
        dataset = told.into or Path(scratch) / "dataset"
        start = time.perf_counter()
        config = CurateConfig(faces=told.faces, group=GroupRules(same_person=told.same_person))
        summary = curate(told.photos, dataset, config, told.workers)
        seconds = time.perf_counter() - start
        names, identities = labelled_faces(dataset, aliases)
    truth, found = np.unique(names, return_inverse=True)[1], np.unique(identities, return_inverse=True)[1]
    pair, cube = pairwise(truth, found), bcubed(truth, found)
    keys = ("pair_p", "pair_r", "pair_f", "bcubed_p", "bcubed_r", "bcubed_f")
    ours = {key: round(value, 4) for key, value in zip(keys, (*pair, *cube), strict=True)}
    ours |= {
        "groups": len(set(found.tolist())),
        "people": len(set(names)),
        "faces": len(names),
        "seconds": round(seconds, 1),
    }
    print(f"{len(names)} labelled faces of {len(set(names))} people, recognizer {summary.faces_from}")
    finish("grouping", {"ours": ours}, told.keep)


if __name__ == "__main__":
    main()
