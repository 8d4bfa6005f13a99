"""The stage `worth` calibrates the worth of faces: a measure of how well the recognizer can recognise a face.

The embeddings of all unrecognisable faces point in nearly one direction, whatever the cause: blur, noise, a mask or a
drawing (Deng et al. 2021, "Harnessing Unrecognizable Faces"). The embeddings of two unrecognisable faces are therefore
similar, even if the faces show different people. The embedding of an unrecognisable face is also short before it is
normalised. The worth of a face follows from length x (1 - cosine): the length of its embedding, and the cosine between
the embedding and the direction of the unrecognisable faces.

The calibration needs no labels. The stage damages copies of some good faces of the collection until nobody can be
recognised. The scale of the worth is chosen so that the median of the damaged faces is 0 and the median of the good
faces is 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from curate.detection.crops import read_crop
from curate.detection.damage import DAMAGES
from curate.faces.align import crop_for_recognizer
from curate.faces.interface import FaceModels
from manifests.ledger.decisions.decision_log import DROPPED_BY_DECISION
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import NEAR_DUPLICATE, Face
from manifests.runtime.files import sha256_bytes

_VERSION = 1  # If the damages or the formula change, increase this number: every dataset is then calibrated again.
# Number of good faces that are damaged (ours). We tried 16 to 128 faces, of one person and of many people. With each of
# these numbers, a share of .07 to .17 of the clear faces counted as poor.
_SAMPLE = 64
_MIN_SAMPLE = 4  # With fewer than 4 good faces (ours), the worth is not calibrated.
# If a tenth (ours) or more of the damaged faces has a worth above .5 (ours), the calibration is not used. In this case,
# the worth would not distinguish damaged faces from good faces.
_MAX_CONFUSION, _MIDDLE = 0.1, 0.5


@dataclass(frozen=True)
class WorthScale:
    """The calibration of the worth for one recognizer and one collection."""

    centre: tuple[float, ...]  # (d,), of length 1: the direction of the embeddings of unrecognisable faces.
    low: float  # Median result of `_measure_lengths` for the damaged faces. This result means a worth of 0.
    high: float  # Median result of `_measure_lengths` for the good faces. This result means a worth of 1.


def record_worth_scale(ledger: Ledger, models: FaceModels) -> None:
    """Calibrates the worth of faces, and records the scale in the ledger, as the detail of the stage `worth`.

    If the recognizer and the sample of good faces are those of the recorded scale, the stage does nothing.
    """
    sample = choose_good_faces(ledger.read_rows(Face)) if models.embed_raw is not None else []
    key = sha256_bytes(" ".join([str(_VERSION), models.recognizer_sha256(), *(f.face_id for f in sample)]).encode())
    if ledger.read_detail("worth").get("sample") == key:
        return
    scale = None if len(sample) < _MIN_SAMPLE else _calibrate(ledger, sample, models)
    ledger.record("worth", "all", {}, detail={"sample": key, "scale": None if scale is None else asdict(scale)})


def read_worth_scale(ledger: Ledger) -> WorthScale | None:
    """Returns the recorded scale, or None if the worth of faces could not be calibrated."""
    scale = ledger.read_detail("worth").get("scale")
    return None if scale is None else WorthScale(tuple(scale["centre"]), scale["low"], scale["high"])


def measure_worth(vectors: np.ndarray, norms: np.ndarray, scale: WorthScale) -> np.ndarray:
    """Returns the worth of faces, float32 (n,): about 0 for unrecognisable faces, about 1 for good faces.

    `vectors` are unit embeddings, float32 (n, d), and `norms` are their lengths before they were normalised, (n,).
    """
    lengths = _measure_lengths(vectors, norms, np.array(scale.centre))
    return ((lengths - scale.low) / (scale.high - scale.low)).astype(np.float32)


def choose_good_faces(faces: Sequence[Face]) -> list[Face]:
    """Returns at most _SAMPLE accepted faces with long embeddings, sorted by face id.

    Near-duplicates and faces that a decision drops count as accepted, so that a second curation chooses the same faces.
    The half of the faces with the shorter embeddings is left out, because a collection may contain many poor faces. The
    remaining faces are sorted by face id, and the sample is evenly spaced among them.
    """
    reasons = (None, NEAR_DUPLICATE, DROPPED_BY_DECISION)
    known = [face for face in faces if face.reason in reasons and face.embedding_norm is not None]
    ordered = sorted(known, key=lambda face: (-(face.embedding_norm or 0.0), face.face_id))
    best = sorted(ordered[: (len(ordered) + 1) // 2], key=lambda face: face.face_id)
    places = np.unique(np.linspace(0, len(best) - 1, min(_SAMPLE, len(best))).astype(int)).tolist() if best else []
    return [best[place] for place in places]


def find_worth_scale(vectors: np.ndarray, norms: np.ndarray, damaged: np.ndarray) -> WorthScale | None:
    """Returns the scale, or None if the embeddings do not distinguish the damaged faces from the good faces.

    `vectors` (n, d) and `norms` (n,) are the unit embeddings of good faces and their lengths. `damaged` (k, n, d) are
    the embeddings of these n faces after each of k damages, before the normalisation.
    """
    # The embedding of a damaged face still has a part in the direction of the good face. The part in the direction of
    # the good face is removed, so that the centre depends on the damage and not on the people in the sample.
    lengths = np.linalg.norm(damaged, axis=2)  # (k, n)
    directions = damaged / np.maximum(lengths, 1e-12)[:, :, None]
    own = np.einsum("knd,nd->kn", directions, vectors)
    centre = (directions - own[:, :, None] * vectors).mean(axis=(0, 1))
    length = float(np.linalg.norm(centre))
    if not length > 0:
        return None
    centre = (centre / length).round(6)
    poor = _measure_lengths(directions, lengths, centre)
    low, high = round(float(np.median(poor)), 6), round(float(np.median(_measure_lengths(vectors, norms, centre))), 6)
    if not high > low or (poor > low + _MIDDLE * (high - low)).mean() >= _MAX_CONFUSION:
        return None
    return WorthScale(tuple(centre.tolist()), low, high)


def _calibrate(ledger: Ledger, sample: Sequence[Face], models: FaceModels) -> WorthScale | None:
    assert models.embed_raw is not None
    readable: list[Face] = []
    chips: list[np.ndarray] = []
    for face in sample:
        try:
            chips.append(crop_for_recognizer(read_crop(ledger.dataset, face.face_id), models.template, models.size))
            readable.append(face)
        except (OSError, ValueError):  # the stage `embed` reports a lost crop
            continue
    if len(readable) < _MIN_SAMPLE:
        return None
    rng = np.random.default_rng(0)
    damaged = np.stack([models.embed_raw(np.stack([damage(chip, rng) for chip in chips])) for damage in DAMAGES])
    _, vectors = ledger.read_embeddings([face.face_id for face in readable])
    return find_worth_scale(vectors, np.array([face.embedding_norm for face in readable]), damaged.astype(np.float64))


def _measure_lengths(directions: np.ndarray, lengths: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Returns length x (1 - cosine to `centre`) for each embedding, (...).

    `directions` (..., d) are unit embeddings, and `lengths` (...) are their lengths before they were normalised.
    """
    return np.asarray(lengths * (1 - directions @ centre), np.float64)
