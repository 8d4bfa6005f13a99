"""Scores our grouping and other clustering methods against labels.

    python benchmarks/grouping_quality.py PHOTOS... --faces SPEC    folders with one sub-folder for each person
    python benchmarks/grouping_quality.py EMBEDDINGS.npz            embeddings E, float (n, d), and labels id, (n,)

All methods get the same embeddings in one run. Our method does not get photo ids here, because the other methods (the
peers) cannot use photo ids. The label of a photo is the name of its folder. The largest accepted face of the photo gets
this label. For the extra row "curate", `likeness curate` groups the labelled faces together with the faces of
bystanders, and uses the photo ids. `likeness curate` marks some people as doubtful. Each face of a doubtful person
counts as a person of its own.

Labels are not corrected, so wrong labels lower every score. If nearly all faces of a group have the same label, the
other faces of the group are suspects. The benchmark lists the suspects, and scores them like all other faces. The
thresholds of the peers are tuned on the labels. The peers are installed with the extra `peers`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from grouping_scores import score_grouping
from record_result import record_result

from curate.config import CurateConfig
from curate.detection.worth import measure_worth, read_worth_scale
from curate.people.clustering.group_embeddings import group_embeddings
from curate.run.pipeline import curate
from manifests.ledger.ledger import Ledger
from manifests.runtime.uris import path_of

NEIGHBOURS = 80  # number of neighbours of each face in the graphs of the peers
COSINES = (0.25, 0.30, 0.35, 0.40, 0.45, 0.50, 0.55, 0.60)
MOST_FOR_A_MATRIX = 20_000  # HAC and HDBSCAN keep the distances of all pairs of faces: 1.6 GB for 20,000 faces


def read_labelled_faces(
    dataset: Path, aliases: dict[str, str]
) -> tuple[list[str], list[str], np.ndarray, list[str], np.ndarray | None]:
    """Returns the labels, identities, embeddings, files and worths of the largest accepted face of each photo.

    A face of a doubtful person gets an identity of its own. The worth of a face is low if the recognizer hardly
    recognises the face (curate/detection/worth.py). The last value is None if the worth was not calibrated.
    """
    with Ledger.open(dataset) as ledger:
        rows = ledger.query(
            """SELECT f.photo_id, f.face_id, f.embedding_norm, min(fi.uri) AS uri,
                      CASE WHEN i.doubtful THEN m.face_id ELSE m.identity_id END AS identity_id
               FROM faces f JOIN memberships m ON m.face_id = coalesce(f.duplicate_of, f.face_id)
               JOIN identities i USING (identity_id) JOIN files fi ON fi.photo_id = f.photo_id
               WHERE f.status = 'ok' OR f.duplicate_of IS NOT NULL
               GROUP BY f.photo_id, f.face_id, f.embedding_norm, f.inter_ocular_px, 5
               QUALIFY row_number() OVER (PARTITION BY f.photo_id ORDER BY f.inter_ocular_px DESC, f.face_id) = 1
               ORDER BY f.photo_id"""
        )
        _, vectors = ledger.read_embeddings(rows["face_id"].to_list())
        scale = read_worth_scale(ledger)
    folders = [path_of(uri).parent.name for uri in rows["uri"]]
    names = [aliases.get(folder, folder) for folder in folders]
    files = [str(path_of(uri)) for uri in rows["uri"]]
    worth = None if scale is None else measure_worth(vectors, rows["embedding_norm"].to_numpy(), scale)
    return names, rows["identity_id"].to_list(), vectors, files, worth


def read_embeddings(path: Path) -> tuple[np.ndarray, list[str]]:
    """Returns the embeddings of a file as unit rows, float32 (n, d), and their labels."""
    file = np.load(path, allow_pickle=False)
    vectors, names = file["E"].astype(np.float32), [str(name) for name in file["id"]]
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if vectors.ndim != 2 or len(vectors) != len(names) or not len(names) or not (length > 0).all():
        raise ValueError(
            f"E has the shape {vectors.shape}, and id has {len(names)} entries; E must have two axes, one row for each "
            "entry of id, and no row of zeros"
        )
    return vectors / length, names


def list_peers(vectors: np.ndarray) -> Iterator[tuple[str, dict[str, Callable[[], np.ndarray]]]]:
    """Yields (name, functions) of each peer.

    `functions` maps a setting to a function that returns the group of each face.
    """
    import dlib
    import faiss
    from infomap import Infomap
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import pdist
    from sklearn.cluster import DBSCAN, HDBSCAN

    n = len(vectors)
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    cosine, near = index.search(vectors, min(NEIGHBOURS + 1, n))
    row, column = np.nonzero(near != np.arange(n)[:, None])
    pairs = np.sort(np.stack([row, near[row, column]], axis=1), axis=1)
    pairs, first = np.unique(pairs, axis=0, return_index=True)
    alike = cosine[row, column][first]

    def edges(least: float) -> list[tuple[int, int, float]]:
        keep = alike >= least
        return [(a, b, w) for (a, b), w in zip(pairs[keep].tolist(), alike[keep].tolist(), strict=True)]

    def infomap(least: float) -> np.ndarray:
        net = Infomap(two_level=True, silent=True, seed=1)
        for a, b, weight in edges(least):
            net.add_link(a, b, weight)
        labels = n + np.arange(n)  # a face without an edge becomes a group of its own
        for node, module in net.run().modules().items():
            labels[node] = module
        return labels

    def whispers(least: float) -> np.ndarray:
        return np.array(
            dlib.chinese_whispers([*edges(least), (n - 1, n - 1, 1e-9)])
        )  # the last edge makes dlib return a label for every face

    yield "infomap", {f"{least:.2f}": lambda least=least: infomap(least) for least in COSINES}
    yield "chinese_whispers", {f"{least:.2f}": lambda least=least: whispers(least) for least in COSINES}

    def dbscan(eps: float) -> np.ndarray:
        labels = DBSCAN(eps=eps, min_samples=3, metric="cosine").fit_predict(vectors)
        return np.where(labels < 0, n + np.arange(n), labels)

    yield "dbscan", {f"{eps:.2f}": lambda eps=eps: dbscan(eps) for eps in (0.30, 0.35, 0.40, 0.45, 0.50)}
    if n > MOST_FOR_A_MATRIX:
        return
    tree = linkage(pdist(vectors, "cosine"), "average")
    cuts = (0.45, 0.50, 0.55, 0.60, 0.65, 0.70, 0.75, 0.80, 0.85)
    yield "average_linkage_hac", {f"{cut:.2f}": lambda cut=cut: fcluster(tree, cut, "distance") for cut in cuts}

    def hdbscan(size: int) -> np.ndarray:
        labels = HDBSCAN(min_cluster_size=size, metric="euclidean", copy=True).fit_predict(vectors)
        return np.where(labels < 0, n + np.arange(n), labels)

    yield "hdbscan", {f"min {size}": lambda size=size: hdbscan(size) for size in (2, 3, 5)}


def find_suspects(names: list[str], labels: np.ndarray, files: list[str]) -> list[dict[str, Any]]:
    """Returns the suspects: faces whose label differs from the label of nearly all other faces of their group.

    Only groups of ten or more faces are checked, and only if at least nine in ten of their faces have the same label. A
    suspect looks like another person, or its label is wrong.
    """
    suspects = []
    for label, count in Counter(labels.tolist()).items():
        rows = np.flatnonzero(labels == label)
        name, most = Counter(names[row] for row in rows).most_common(1)[0]
        if count >= 10 and most >= 0.9 * count:
            suspects += [{"file": files[row], "label": names[row], "group": name} for row in rows if names[row] != name]
    return sorted(suspects, key=lambda one: one["file"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="+", type=Path, help="folders with a sub-folder for each person, or one .npz")
    parser.add_argument("--faces", default="auto", help="face models, as for `likeness curate`")
    parser.add_argument(
        "--aliases",
        type=Path,
        help="a JSON file that maps the name of a folder to the name of a person "
        "(default: aliases.json beside the first folder)",
    )
    parser.add_argument("--without-peers", action="store_true", help="score only our grouping")
    parser.add_argument("--name", default="grouping_quality", help="the NAME of benchmarks/results/NAME.json")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, help="the folder in which the dataset is kept")
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/NAME.json")
    options = parser.parse_args()
    if not options.without_peers and any(find_spec(package) is None for package in ("dlib", "infomap", "sklearn")):
        parser.error("The peers are not installed. Run pip install '.[peers]', or give --without-peers.")
    result: dict[str, Any] = {}
    if options.source[0].suffix == ".npz":
        if len(options.source) > 1:
            parser.error("Several sources are given, and the first is an .npz. Give one .npz, or only folders.")
        try:
            vectors, names = read_embeddings(options.source[0])
        except (OSError, ValueError, KeyError) as error:
            parser.error(
                f"{options.source[0]} must contain the arrays E (n rows of d finite numbers) and id (n numbers or "
                f"texts): {error}"
            )
        files, worth = [str(row) for row in range(len(vectors))], None
    else:
        beside = options.aliases or options.source[0].resolve().parent / "aliases.json"
        aliases = json.loads(beside.read_text()) if beside.is_file() else {}
        with tempfile.TemporaryDirectory() as scratch:
            dataset = options.out or Path(scratch) / "dataset"
            curate(options.source, dataset, CurateConfig(faces=options.faces), options.workers)
            names, identities, vectors, files, worth = read_labelled_faces(dataset, aliases)
        result["curate"] = score_grouping(names, np.unique(identities, return_inverse=True)[1])
    start = time.perf_counter()
    grouping = group_embeddings(vectors, worth=worth)
    seconds = time.perf_counter() - start
    assert grouping.doubtful is not None
    own_labels = len(vectors) + np.arange(len(vectors))  # each face of a doubtful person counts as a person of its own
    labels = np.where(grouping.doubtful, own_labels, grouping.labels)
    extra = {"seconds": round(seconds, 1), "threshold": round(grouping.threshold, 3)}
    result = {"ours": score_grouping(names, labels) | extra | {"false_match_rate": grouping.false_match_rate}} | result
    print(f"{len(names)} labelled faces of {len(set(names))} people")
    print(_format_line("ours", f"{grouping.threshold:.2f}", result["ours"]))
    for suspect in find_suspects(names, labels, files):
        print(f"suspect: {suspect['file']} is labelled {suspect['label']} and is in the group of {suspect['group']}")
    if not options.without_peers:
        result["peers"] = {}
        for name, settings in list_peers(vectors):
            rows = []
            for setting, run in settings.items():
                start = time.perf_counter()
                labels = run()
                row = score_grouping(names, labels) | {
                    "setting": setting,
                    "seconds": round(time.perf_counter() - start, 1),
                }
                rows.append(row)
                print(_format_line(name, setting, row), flush=True)
            result["peers"][name] = max(rows, key=lambda row: row["pair_f"] + row["bcubed_f"])
    record_result(options.name, result, options.keep)


def _format_line(name: str, setting: str, row: dict[str, Any]) -> str:
    pair = f"pairs P {row['pair_p']:.4f} R {row['pair_r']:.4f} F {row['pair_f']:.4f}"
    return f"{name:20s} {setting:6s} {pair}   BCubed F {row['bcubed_f']:.4f}   {row['groups']} groups"


if __name__ == "__main__":
    main()
