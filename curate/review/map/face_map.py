"""Computes a map of all faces in two dimensions: faces that look alike are near each other (t-SNE by openTSNE).

The map depends only on the embeddings. Two computations on one machine give the same map. The map is stored in
DATASET/map/, in a file whose name is a hash of the faces and their embeddings. If the faces change, the next map gets
another name, and the old file is removed.

On one core that other programs also used, the map of 10,000 faces took 26 seconds. The map of 100,000 faces with
embeddings of 512 dimensions took 120 seconds and .85 GiB of memory (`python benchmarks/face_map.py`,
benchmarks/results/face_map.json). The number of iterations is fixed. The time of the search for neighbours grows faster
than the number of faces.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from curate.people.clustering.neighbours import find_neighbours
from curate.review.web.background import Report
from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import MAPS
from manifests.runtime.files import ARRAY_ERRORS, write_atomically

VERSION = 1  # Raise this number if a change of this file changes the map of the same embeddings.
# The number of nearest faces that decide the place of a face: three times the perplexity, as t-SNE's paper advises.
NEIGHBOURS = 30
PERPLEXITY = NEIGHBOURS / 3  # We chose 10, because most people of a collection have fewer than 30 faces.
# With fewer faces than LEAST (ours), each face has too few neighbours for t-SNE. The map then shows the two principal
# components of the embeddings.
LEAST = 3 * NEIGHBOURS
EXACT = 20_000  # With more faces than this number (ours), the search for neighbours is approximate.
# The iterations, the exaggeration and the momentum of openTSNE's two phases. Our first phase has 100 iterations (ours).
# openTSNE's first phase has 250, but on 100,000 synthetic faces, more than 100 iterations did not change the map
# visibly.
_PHASES = ((100, 12.0, 0.5), (250, 1.0, 0.8))
_STEP = 10  # Number of iterations from one report of the progress to the next.
SIDE = 65535  # The coordinates of a face on the map are integers from 0 to SIDE.


@dataclass(frozen=True)
class FaceMap:
    """The places of n faces."""

    face_ids: tuple[str, ...]
    places: np.ndarray  # uint16 (n, 2): x and y from 0 to SIDE


def hash_faces(face_ids: Sequence[str], shards: Sequence[str], rows: Sequence[int]) -> str:
    """Returns a hash of the faces and their embeddings.

    The name of a shard is the sha256 of its embeddings. The hash therefore needs only the names and the rows.
    """
    digest = hashlib.sha256(f"map {VERSION}\n".encode())
    for face, shard, row in zip(face_ids, shards, rows, strict=True):
        digest.update(f"{face} {shard} {row}\n".encode())
    return digest.hexdigest()


def read_key(ledger: Ledger) -> tuple[str, tuple[str, ...]]:
    """Returns the hash that names the present map, and the faces of the map, ordered by face id.

    The map has every face that is in use and has an embedding.
    """
    frame = ledger.query(
        "SELECT face_id, shard, shard_row FROM faces WHERE status = 'ok' AND shard IS NOT NULL ORDER BY face_id"
    )
    faces = frame["face_id"].to_list()
    return hash_faces(faces, frame["shard"].to_list(), frame["shard_row"].to_list()), tuple(faces)


def read_map(dataset: Path, key: str, face_ids: tuple[str, ...]) -> FaceMap | None:
    """Returns the stored map, or None if the map was not computed yet or its file is damaged."""
    try:
        places = np.load(_map_path(dataset, key))
    except ARRAY_ERRORS:
        return None
    if places.shape != (len(face_ids), 2) or places.dtype != np.uint16:
        return None
    return FaceMap(face_ids, places)


def compute_map(dataset: Path, report: Report) -> np.ndarray:
    """Computes the present map, stores the map in the dataset, and returns the places of its faces."""
    with Ledger.open(dataset) as ledger:
        key, face_ids = read_key(ledger)
        _, embeddings = ledger.read_embeddings(face_ids)
    places = place_faces(embeddings, report)
    buffer = io.BytesIO()
    np.save(buffer, places)
    try:
        write_atomically(_map_path(dataset, key), buffer.getvalue())
        for path in (dataset / MAPS).glob("*.npy"):
            if path != _map_path(dataset, key):
                path.unlink(missing_ok=True)
    except OSError:
        pass  # the server keeps the map in memory, and the next server computes it again
    return places


def place_faces(embeddings: np.ndarray, report: Report = lambda *_: None) -> np.ndarray:
    """Returns the place of each face, uint16 (n, 2), from unit embeddings, float32 (n, d)."""
    n = len(embeddings)
    if n < LEAST:
        return _scale(_project(embeddings))
    from openTSNE import TSNEEmbedding
    from openTSNE.affinity import PerplexityBasedNN
    from openTSNE.nearest_neighbors import PrecomputedNeighbors

    report("Looking for the neighbours of each face", 0, 1)
    near = find_neighbours(embeddings, np.arange(n), NEIGHBOURS, -1.0, EXACT)
    # An approximate search may find fewer neighbours. The face itself, at a large distance, replaces each missing
    # neighbour.
    rows = np.where(near.rows < 0, np.arange(n)[:, None], near.rows).astype(np.int64)
    distances = np.sqrt(np.maximum(2 - 2 * np.where(near.rows < 0, -1.0, near.cosines), 0.0))
    # With one thread, the result does not depend on the machine's number of cores.
    neighbours = PrecomputedNeighbors(rows, distances)
    affinities = PerplexityBasedNN(knn_index=neighbours, perplexity=PERPLEXITY, n_jobs=1)
    start = _project(embeddings)
    start *= 1e-4 / max(float(start[:, 0].std()), 1e-12)  # openTSNE's own start has this standard deviation
    places = TSNEEmbedding(start, affinities, n_jobs=1, random_state=0)
    before, total = 0, sum(iterations for iterations, _, _ in _PHASES)
    for iterations, exaggeration, momentum in _PHASES:

        def tell(iteration: int, *_: object, before: int = before) -> None:
            report("Placing the faces", before + iteration, total)

        places = places.optimize(
            iterations, exaggeration=exaggeration, momentum=momentum, callbacks=tell, callbacks_every_iters=_STEP
        )
        before += iterations
    return _scale(np.asarray(places))


def _project(embeddings: np.ndarray) -> np.ndarray:
    """Returns the two principal components of the embeddings, float64 (n, 2). The signs of the components are the same
    on every run."""
    n, d = embeddings.shape
    if n == 0:
        return np.zeros((0, 2))
    centred = embeddings - embeddings.mean(0)
    _, axes = np.linalg.eigh((centred.T @ centred).astype(np.float64))
    axes = axes[:, ::-1][:, :2]
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])
    projected = (centred @ axes.astype(np.float32)).astype(np.float64)
    return projected if d > 1 else np.column_stack([projected, np.zeros(n)])


def _scale(places: np.ndarray) -> np.ndarray:
    """Scales places to uint16 (n, 2), so that the places fill a square. Both directions have the same scale."""
    if not len(places):
        return np.zeros((0, 2), np.uint16)
    low, high = places.min(0), places.max(0)
    size = max(float((high - low).max()), 1e-12)
    centred = (places - (low + high) / 2) / size + 0.5
    return np.asarray((centred * SIDE).round(), np.uint16)


def _map_path(dataset: Path, key: str) -> Path:
    return dataset / MAPS / f"{key}.npy"
