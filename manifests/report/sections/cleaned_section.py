"""Reads the cleaned versions of training targets for the report: counts for each round, and some kept versions."""

from __future__ import annotations

import json
from typing import Any

from manifests.ledger.cleaned_targets import find_newest_iteration, version_path
from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import crop_path
from manifests.report.thumbnails import make_thumbnail

# Number of kept versions that the page shows for each round. The version that is least similar to its original comes
# first.
IMAGES = 24

_COUNTS = """
SELECT round, reason, count(*) AS n FROM versions WHERE iteration = ?
GROUP BY ALL ORDER BY round, n DESC, reason"""

_KEPT_VERSIONS = """
SELECT round, face_id, metrics FROM versions WHERE iteration = ? AND status = 'ok'
QUALIFY row_number() OVER (PARTITION BY round ORDER BY (metrics->>'$.identity')::FLOAT, face_id) <= ?
ORDER BY round, (metrics->>'$.identity')::FLOAT, face_id"""


def read_cleaned_versions(ledger: Ledger) -> dict[str, Any]:
    """Returns the rounds of the newest iteration, with counts and pictures of kept versions.

    Returns {} without an iteration.
    """
    iteration = find_newest_iteration(ledger)
    if iteration is None:
        return {}
    rounds: dict[int, dict[str, Any]] = {}
    for number, reason, count in ledger.query(_COUNTS, iteration).iter_rows():
        entry = rounds.setdefault(number, {"round": number, "restored": 0, "kept": 0, "dropped": [], "images": []})
        entry["restored"] += count
        if reason is None:
            entry["kept"] = count
        else:
            entry["dropped"].append((reason.replace("_", " "), count))
    for number, face, text in ledger.query(_KEPT_VERSIONS, iteration, IMAGES).iter_rows():
        metrics = json.loads(text)
        rounds[number]["images"].append(
            (
                make_thumbnail(crop_path(ledger.dataset, face), 128),
                make_thumbnail(version_path(ledger.dataset, iteration, number, face), 128),
                f"identity {metrics['identity']:.2f} · sharpness {metrics['before']['sharpness']:.2f} to "
                f"{metrics['after']['sharpness']:.2f}",
            )
        )
    return {"iteration": iteration, "rounds": list(rounds.values())}
