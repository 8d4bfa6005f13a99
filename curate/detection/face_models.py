"""Chooses the face models of a dataset, records them, and sets the options that depend on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from curate.config import CurateConfig
from curate.detection.filter_files import insert_min_score
from curate.faces.errors import FaceModelError
from curate.faces.interface import FaceModels
from curate.faces.load import load_faces_once
from manifests.errors import BadInput
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import Model


def choose_face_models(ledger: Ledger, spec: str, device: str = "cpu") -> FaceModels:
    """Loads the face models of `--faces SPEC` on a device, and records their files.

    A dataset never changes its recognizer. Raises BadInput if `spec` names another recognizer, because embeddings of
    two recognizers cannot be compared.
    """
    recorded_models = ledger.read_rows(Model)
    recognizers = [model for model in recorded_models if model.role == "recognizer"]
    if spec == "auto" and recognizers:
        spec = recognizers[0].spec
    models = load_faces_once(spec, device)
    if recognizers and recognizers[0].sha256 != models.recognizer_sha256():
        raise BadInput(
            f"{ledger.dataset} was made with the recognizer {recognizers[0].file} of {recognizers[0].spec}. Embeddings "
            f"of two recognizers cannot be compared. Give --faces {recognizers[0].spec}, or start a new dataset."
        )
    rows = [
        Model(
            file.role,
            file.path.name,
            models.spec,
            file.sha256,
            file.licence,
            models.dim if file.role == "recognizer" else None,
        )
        for file in models.files
    ]
    used_files = {row.file for row in rows}
    unused_files = [
        model.file for model in recorded_models if model.role != "landmarks" and model.file not in used_files
    ]
    ledger.record("models", models.recognizer_sha256(), {}, rows, delete=[("models", "file", unused_files)])
    return models


def check_same_models(_: None, spec: str, device: str, sha256s: Sequence[str]) -> None:
    """Loads the face models on a node of a cluster. Raises FaceModelError if the node has no models of this spec, or if
    its model files have other hashes.

    `sha256s` are the hashes of the driver's model files.
    """
    models = load_faces_once(spec, device)
    if tuple(file.sha256 for file in models.files) != tuple(sha256s):
        raise FaceModelError(
            f"The files of the face models {spec} differ from those of the driver. Copy the driver's files to this "
            "node."
        )


def insert_model_settings(config: CurateConfig, models: FaceModels) -> CurateConfig:
    """Returns the configuration with the spec and the thresholds of the models."""
    group = config.group
    if group.same_person is None and not models.strangers_near_zero:
        group = replace(group, same_person=models.same_person)
    return replace(config, faces=models.spec, screen=insert_min_score(config.screen, models.min_score), group=group)
