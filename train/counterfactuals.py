"""What a restorer is shown of a person, rightly or wrongly, and what difference it made: paired, image by image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from degrade.presets import seeded
from train.cases import Case
from train.metrics.intervals import mean_interval
from train.reference_photos import References, to_tensor

Row = dict[str, Any]


@dataclass(frozen=True)
class System:
    """A row of the evaluation's table; `key` is its name in JSON."""

    key: str
    name: str
    references: int = 0  # at most
    wrong: bool = False  # of another person
    restored: bool = True  # False: the LQ input itself


def systems(references: int, counts: Sequence[int] = ()) -> tuple[System, ...]:
    """The rows with up to `references` references, and with each number in `counts` that lies between."""
    between = sorted({count for count in counts if 0 < count < references})
    return (
        System("lq", "LQ input", restored=False),
        System("0", "restored, no reference"),
        *(System(str(count), f"restored, {count} reference{'s' * (count > 1)}", count) for count in between),
        System(str(references), "restored", references),
        System(f"wrong{references}", "restored, wrong references", references, wrong=True),
    )


def compared(references: int) -> tuple[tuple[str, str, str], ...]:
    """The differences that say whether references help, and whether it matters whose they are: name, key, key."""
    full, wrong = str(references), f"wrong{references}"
    return ("right - none", full, "0"), ("right - wrong", full, wrong), ("none - LQ", "0", "lq")


def shown(case: Case, system: System) -> References | None:
    """The references that `system` is shown for `case`; None where there are no wrong ones to show.

    Fewer are the first of more, so that a curve over their number adds photos and exchanges none.
    """
    crops, embeddings = (case.wrong, case.wrong_embeddings) if system.wrong else (
        case.references, case.reference_embeddings
    )  # fmt: skip
    if not crops or embeddings is None:
        return None
    every = References(torch.stack([to_tensor(crop) for crop in crops]), torch.from_numpy(np.asarray(embeddings)))
    return References(every.crops[: system.references], every.embeddings[: system.references])


def differences(
    rows: Sequence[Row], pairs: Sequence[tuple[str, str, str]], metrics: Sequence[str], seed: int
) -> list[Row]:
    """For each (name, key, key) of `pairs` and each metric, the mean over images of the first minus the second.

    Over the images that have both; a pair without any is left out. A metric's entry holds mean, low, high (95%
    percentile bootstrap, see intervals.bootstrap_unit), `excludes_zero`, and `people_above`: of how many of the people
    the mean difference is above zero.
    """
    by_system: dict[str, dict[str, Row]] = {}
    for row in rows:
        by_system.setdefault(row["key"], {})[row["face_id"]] = row
    found = []
    for name, first, second in pairs:
        ours, theirs = by_system.get(first, {}), by_system.get(second, {})
        both = [face for face in ours if face in theirs]
        if not both:
            continue
        people = [ours[face]["identity_id"] for face in both]
        line: Row = {"difference": name, "images": len(both), "people": len(set(people))}
        for metric in metrics:
            values = [ours[face][metric] - theirs[face][metric] for face in both]
            interval = mean_interval(values, people, seeded(seed, "difference", metric))
            own: dict[str, list[float]] = {}
            for person, value in zip(people, values, strict=True):
                own.setdefault(person, []).append(value)
            line[metric] = {
                "mean": interval.mean,
                "low": interval.low,
                "high": interval.high,
                "excludes_zero": interval.excludes_zero(),
                "people_above": sum(float(np.mean(some)) > 0 for some in own.values()),
            }
        found.append(line)
    return found
