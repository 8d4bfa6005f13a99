"""Has a class for the rows of each table of the ledger.

The file tables_and_columns.sql explains each field of the classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

SPLITS = ("train", "val", "test")
# A reason in the table `splits`: the faces of the person may show several strangers.
DOUBTFUL_PERSON = "doubtful_person"
# The reason of a face that was dropped because another face in use shows the same picture.
NEAR_DUPLICATE = "near_duplicate"


@dataclass(frozen=True)
class File:
    uri: str
    photo_id: str | None
    bytes: int | None
    mtime_ns: int | None
    status: str
    reason: str | None = None
    ctime_ns: int | None = None
    sha256: str | None = None
    samples: str | None = None
    orientation: int | None = None
    taken: datetime | None = None
    taken_offset: int | None = None
    taken_from: str | None = None
    taken_doubt: str | None = None
    camera_model: str | None = None


@dataclass(frozen=True)
class Photo:
    photo_id: str
    width: int
    height: int
    phash: str
    source: str | None = None
    licence: str | None = None
    consent: str | None = None
    sidecar_consent: str | None = None
    status: str = "ok"
    reason: str | None = None
    notice: str | None = None
    min_eyes: float | None = None
    format: str | None = None
    jpeg_quality: int | None = None
    camera: bool | None = None
    gray: bool | None = None
    border: float | None = None
    phash256: str | None = None
    samples: str | None = None
    orientation: int | None = None
    decoder: str | None = None
    taken: datetime | None = None
    taken_offset: int | None = None
    taken_from: str | None = None
    taken_doubt: str | None = None


@dataclass(frozen=True)
class Face:
    face_id: str
    photo_id: str
    box: tuple[float, ...]
    landmarks5: tuple[float, ...]
    landmarks68: tuple[float, ...] | None
    det_score: float
    inter_ocular_px: float
    yaw: float
    pitch: float
    roll: float
    sharpness: float
    blockiness: float
    exposure: float
    upsample: float
    phash: str
    duplicate_of: str | None = None
    status: str = "ok"
    reason: str | None = None
    shard: str | None = None
    shard_row: int | None = None
    noise: float | None = None
    crop_sha256: str | None = None
    outside: float | None = None
    turn: int | None = 0
    landmark_error: float | None = None
    luma_dct: str | None = None
    detail: float | None = None
    clipped: float | None = None
    dark: float | None = None
    embedding_norm: float | None = None
    embedding_device: str | None = None

    @property
    def representative(self) -> str:
        """The id of the face that is used in place of a near-duplicate, or the face's own id."""
        return self.duplicate_of or self.face_id


def remove_embedding(face: Face) -> Face:
    """Returns the row of a face without its embedding."""
    return replace(face, shard=None, shard_row=None, embedding_norm=None, embedding_device=None)


@dataclass(frozen=True)
class Identity:
    identity_id: str
    name: str | None = None
    locked: bool = False
    doubtful: bool = False


@dataclass(frozen=True)
class Membership:
    face_id: str
    identity_id: str
    confidence: float
    margin: float
    source: str = "cluster"
    worth: float | None = None


@dataclass(frozen=True)
class DecisionRow:
    decision_id: int
    kind: str
    faces: str
    made: datetime
    name: str | None = None
    undoes: int | None = None


@dataclass(frozen=True)
class Label:
    photo_id: str
    label: str
    truth: bool
    number: int = 0
    box: tuple[float, ...] | None = None


@dataclass(frozen=True)
class ListEntry:
    photo_id: str
    label: str | None = None
    split: str | None = None
    refs: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Pair:
    target: str
    refs: tuple[str, ...]
    similarities: tuple[float, ...]
    policy: str
    split: str
    gap_days: tuple[int | None, ...] | None = None


@dataclass(frozen=True)
class Split:
    face_id: str
    identity_id: str
    split: str
    policy: str
    locked: bool = False
    status: str = "ok"
    reason: str | None = None
    no_target: str | None = None


@dataclass(frozen=True)
class Degradation:
    lq_set: str
    face_id: str
    preset: str
    seed: int
    size: int
    theta: str
    sha256: str


@dataclass(frozen=True)
class Model:
    role: str
    file: str
    spec: str
    sha256: str
    licence: str
    dim: int | None = None


@dataclass(frozen=True)
class KeptOutMark:
    mark: str
    kind: str
    reason: str
    made: datetime
    embedding: tuple[float, ...] | None = None
    recognizer: str | None = None
    samples: str | None = None
    bands: tuple[str, ...] | None = None
    places: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Purge:
    purge_id: int
    made: datetime
    removed: str


@dataclass(frozen=True)
class CleanedVersion:
    iteration: str
    round: int
    face_id: str
    defect: str
    parent: str
    checkpoint: str
    checkpoint_sha256: str
    metrics: str
    sha256: str | None
    status: str = "ok"
    reason: str | None = None


@dataclass(frozen=True)
class TrainingImage:
    iteration: str
    round: int
    face_id: str
    version: int | None


Record = (
    File
    | Photo
    | Face
    | Identity
    | Membership
    | DecisionRow
    | Label
    | ListEntry
    | Pair
    | Split
    | Degradation
    | Model
    | KeptOutMark
    | Purge
    | CleanedVersion
    | TrainingImage
)

# maps a class to its table, and to the key columns of this table
TABLES: dict[type, tuple[str, tuple[str, ...]]] = {
    File: ("files", ("uri",)),
    Photo: ("photos", ("photo_id",)),
    Face: ("faces", ("face_id",)),
    Identity: ("identities", ("identity_id",)),
    Membership: ("memberships", ("face_id",)),
    DecisionRow: ("decisions", ("decision_id",)),
    Label: ("labels", ("photo_id", "number")),
    ListEntry: ("list_entries", ("photo_id",)),
    Pair: ("pairs", ("target",)),
    Split: ("splits", ("face_id",)),
    Degradation: ("degradations", ("lq_set", "face_id")),
    Model: ("models", ("role", "file")),
    KeptOutMark: ("kept_out", ("mark",)),
    Purge: ("purges", ("purge_id",)),
    CleanedVersion: ("versions", ("iteration", "round", "face_id")),
    TrainingImage: ("training_images", ("iteration", "round", "face_id")),
}

# maps a table to the columns that order its rows
KEYS: dict[str, tuple[str, ...]] = {
    **dict(TABLES.values()),
    "stages": ("stage", "unit", "config_hash"),
}
