"""Reads the settings with which the faces are grouped again."""

from __future__ import annotations

from curate.config import CurateConfig, read_config
from manifests.errors import BadInput
from manifests.ledger.ledger import Ledger


def read_curation_settings(ledger: Ledger) -> tuple[CurateConfig, float]:
    """Returns the settings of the last curation, and `FaceModels.same_person` of the recognizer.

    Raises BadInput if no curation of the dataset has finished.
    """
    settings = ledger.read_detail("settings")
    if not settings:
        raise BadInput(
            f"No curation of {ledger.dataset} has finished yet. Run `likeness curate PHOTOS --out {ledger.dataset}` "
            "first."
        )
    return read_config(settings["config"]), float(settings["same_person"])
