"""The stage `embed` computes the embeddings of accepted faces without an embedding, and of faces whose shard is lost.

The same faces always form the same batches, and the embedding of a face does not depend on the other faces of its
batch. A resumed run therefore writes the same bytes as an uninterrupted run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from curate.config import CurateConfig
from curate.detection.crops import read_crop
from curate.detection.reasons import CROP_MISSING
from curate.detection.shards import FaceBatch, embed_and_write, fail_face, find_intact_shards, remove_shards
from curate.faces.align import crop_for_recognizer
from curate.faces.interface import FaceModels
from curate.faces.load import load_faces_once
from manifests.ledger.decisions.decision_log import DROPPED_BY_DECISION
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import NEAR_DUPLICATE, Face, Photo, remove_embedding
from manifests.runtime.files import sha256_bytes
from manifests.runtime.progress import Progress
from manifests.runtime.workers import BatchMap

FACES_A_BATCH = 64


def embed(
    ledger: Ledger, config: CurateConfig, models: FaceModels, map_batches: BatchMap, progress: Progress
) -> list[str]:
    """Embeds the accepted faces that have no embedding in an intact shard, and removes shards that no face uses.

    Returns notices about failures of the device.
    """
    recognizer = {"recognizer": models.recognizer_sha256()}
    faces = ledger.read_rows(Face)
    intact_shards = find_intact_shards(ledger.dataset, faces)
    rows = [remove_embedding(face) for face in faces if face.shard is not None and face.shard not in intact_shards]
    if rows:
        ledger.record("embed", "lost shards", recognizer, rows)
    to_embed = [
        face
        for face in faces
        if face.shard not in intact_shards
        and (face.status == "ok" or face.reason in (NEAR_DUPLICATE, DROPPED_BY_DECISION))
    ]
    embed_one_batch = partial(embed_batch, faces=config.faces, device=models.device_to_load, dataset=ledger.dataset)
    batches, done = make_batches(to_embed), 0
    failures: dict[str, None] = {}  # a dict, because it keeps the order and drops repeated sentences
    for batch, embedded in zip(batches, map_batches(embed_one_batch, batches), strict=True):
        ledger.record("embed", name_batch(batch), recognizer, embedded.rows)
        failures |= dict.fromkeys(embedded.failures)
        done += len(batch)
        progress("embed", done, len(to_embed))
    remove_shards(
        ledger.dataset, set(ledger.query("SELECT DISTINCT shard FROM faces WHERE shard IS NOT NULL")["shard"])
    )
    return list(failures)


def make_batches(faces: Sequence[Face]) -> list[list[Face]]:
    """Divides the faces into batches.

    The faces of each lost shard are one batch, in their old order. The other faces form the last batches, sorted by id,
    with FACES_A_BATCH faces in each batch.
    """
    by_id = sorted(faces, key=lambda face: face.face_id)
    new = [face for face in by_id if face.shard is None]
    faces_of_shard: dict[str, list[Face]] = defaultdict(list)
    for face in sorted((face for face in by_id if face.shard is not None), key=lambda face: face.shard_row or 0):
        faces_of_shard[str(face.shard)].append(face)
    starts = range(0, len(new), FACES_A_BATCH)
    return [
        *(faces_of_shard[shard] for shard in sorted(faces_of_shard)),
        *(new[start : start + FACES_A_BATCH] for start in starts),
    ]


def name_batch(batch: Sequence[Face]) -> str:
    """Returns the name of a batch in the ledger. The name depends only on the ids of the faces."""
    return sha256_bytes(" ".join(face.face_id for face in batch).encode())[:24]


def embed_batch(batch: Sequence[Face], faces: str, device: str, dataset: Path) -> FaceBatch:
    """Embeds a batch of faces from their crops and writes the shard. Returns the ledger rows of the faces.

    `faces` is the spec of the face models, which run on `device`. A face fails with a reason if its crop is missing or
    its embedding is not finite.
    """
    models = load_faces_once(faces, device)
    chips: list[np.ndarray] = []
    readable_faces: list[Face] = []
    rows: list[Photo | Face] = []
    for face in batch:
        try:
            chips.append(crop_for_recognizer(read_crop(dataset, face.face_id), models.template, models.size))
            readable_faces.append(face)
        except (OSError, ValueError):
            rows.append(fail_face(face, CROP_MISSING))
    rows += embed_and_write(dataset, readable_faces, chips, models)
    return FaceBatch(rows, models.list_failures())
