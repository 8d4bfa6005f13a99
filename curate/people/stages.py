"""The stage `label`: who is in which photo, from folders, a CSV or imported lists."""

from __future__ import annotations

from curate.config import CurateConfig
from curate.imports.listed_faces import given_labels
from curate.photos.labels import labels_told
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import File, Label, ListEntry


def label(ledger: Ledger, config: CurateConfig) -> None:
    """What folders or a CSV say of the photos; made anew each time, so that it lasts as long as it is said. Without,
    what imported lists say, which lasts."""
    rows, notices = labels_told(config.labels, ledger.read_rows(File))
    if config.labels is None:
        rows = given_labels(ledger.read_rows(ListEntry))
    ledger.record("label", "all", {"labels": config.labels}, rows, replace=(Label,), detail={"notices": notices})
