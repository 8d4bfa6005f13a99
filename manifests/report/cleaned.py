"""The page's part on cleaned training targets: what `likeness iterate` tried and what it kept, worst first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from manifests.ledger.cleaned_targets import find_newest_iteration, version_path
from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import crop_path
from manifests.report.pictures import thumbnail

SHOWN = 24  # kept versions a round: those that are least like their originals


def cleaned(ledger: Ledger, dataset: Path) -> dict[str, Any]:
    """Of the newest iteration: a line a round, and its kept versions, the lowest identity first; empty without one."""
    iteration = find_newest_iteration(ledger)
    if iteration is None:
        return {}
    rounds: dict[int, dict[str, Any]] = {}
    for number, reason, count in ledger.query(
        """SELECT round, reason, count(*) AS n FROM versions WHERE iteration = ?
           GROUP BY ALL ORDER BY round, n DESC, reason""",
        iteration,
    ).iter_rows():
        line = rounds.setdefault(number, {"round": number, "tried": 0, "kept": 0, "dropped": [], "images": []})
        line["tried"] += count
        if reason is None:
            line["kept"] = count
        else:
            line["dropped"].append((reason.replace("_", " "), count))
    kept = ledger.query(
        """SELECT round, face_id, metrics FROM versions WHERE iteration = ? AND status = 'ok'
           QUALIFY row_number() OVER (PARTITION BY round ORDER BY (metrics->>'$.identity')::FLOAT, face_id) <= ?
           ORDER BY round, (metrics->>'$.identity')::FLOAT, face_id""",
        iteration,
        SHOWN,
    )
    for number, face, metrics in kept.iter_rows():
        found = json.loads(metrics)
        rounds[number]["images"].append(
            (
                thumbnail(crop_path(dataset, face), 128),
                thumbnail(version_path(dataset, iteration, number, face), 128),
                f"identity {found['identity']:.2f} · sharpness {found['before']['sharpness']:.2f} to "
                f"{found['after']['sharpness']:.2f}",
            )
        )
    return {"iteration": iteration, "rounds": list(rounds.values())}
