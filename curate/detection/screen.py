"""Which faces are good enough, and if not, why: a filter set over recorded columns. Loosening it needs no detection."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from curate.config import FILTER_SETS
from manifests.errors import BadInput
from manifests.ledger.filters import Filter, FilterSet, check_filters, find_removals
from manifests.ledger.records import Face

# reasons that other stages give to a face, or that would read like a status
RESERVED = {
    "ok",
    "dropped",
    "failed",
    "near_duplicate",
    "decided",
    "file_vanished_or_changed",
    "file_replaced",
    "crop_missing",
    "no_embedding",
    "not_found_again",
    "face_dropped",
    "no_consent",
    "consent_missing",
    "opted_out",
    "purged",
    "photo_spans_splits",
    "listed_in_another_split",
}
BUILT_IN = frozenset(rule.reason for found in FILTER_SETS.values() for rule in found.filters)


def screen(faces: Sequence[Face], sizes: Sequence[tuple[int, int]], filters: FilterSet) -> list[str | None]:
    """A face's reason is that of the first filter that removes it, or None. `sizes` are the photos' (width, height)."""
    return first_reasons(find_removals(faces, sizes, filters), filters)


def first_reasons(removed: np.ndarray, filters: FilterSet) -> list[str | None]:
    """The reason of the first true column of each row of bool (faces, filters), or None."""
    if not filters.filters:
        return [None] * len(removed)
    first = np.where(removed.any(1), removed.argmax(1), -1)
    return [None if nth < 0 else filters.filters[nth].reason for nth in first.tolist()]


def tally(removed: np.ndarray, filters: FilterSet) -> dict[str, Any]:
    """What each filter removed, of bool (faces, filters): as the first that does, asked alone, and as the only one."""
    hits = removed.sum(1)
    first = removed & (removed.cumsum(1) == 1)
    return {
        "name": filters.name,
        "version": filters.version,
        "faces": len(removed),
        "kept": int((hits == 0).sum()),
        "filters": [
            {
                "reason": rule.reason,
                "sql": rule.sql,
                "first": int(first[:, i].sum()),
                "alone": int(removed[:, i].sum()),
                "only": int((removed[:, i] & (hits == 1)).sum()),
            }
            for i, rule in enumerate(filters.filters)
        ],
    }


def load_filters(name: str) -> FilterSet:
    """A built-in set by its name, or one from a TOML file: name, version, and tables [[filter]] of reason and sql.

    Raises BadInput for anything else, with a sentence that says what to mend.
    """
    if name in FILTER_SETS:
        return FILTER_SETS[name]
    path = Path(name)
    if not path.is_file():
        raise BadInput(f"--filters {name} is neither a file nor one of the built-in sets: {', '.join(FILTER_SETS)}.")
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"--filters {path} cannot be read: {error.strerror or error}.") from None
    except ValueError as error:  # TOML's and Unicode's errors
        raise BadInput(f"--filters {path} is not TOML: {error}.") from None
    found = FilterSet(
        *_top(told, path), tuple(_filter(table, path, nth) for nth, table in enumerate(told["filter"], 1))
    )
    check_filters(resolved(found, 0.0))
    return found


def resolved(filters: FilterSet, detector_min_score: float) -> FilterSet:
    """The set with the detector's own least score written in the place of `detector_min_score`."""
    said = f"{detector_min_score:g}" if detector_min_score >= 0 else f"({detector_min_score:g})"
    return replace(
        filters,
        filters=tuple(
            replace(rule, sql=re.sub(r"\bdetector_min_score\b", said, rule.sql, flags=re.IGNORECASE))
            for rule in filters.filters
        ),
    )


def with_min_inter_ocular(filters: FilterSet, pixels: float) -> FilterSet:
    """The set with its filter too_small asking for this many pixels between the eyes; put first where it has none.

    Raises BadInput for a number that is not finite.
    """
    if not math.isfinite(pixels):
        raise BadInput(f"--min-inter-ocular {pixels} is no number of pixels: say one like 16.")
    rule = Filter("too_small", f"inter_ocular_px < {float(pixels)!r}")
    others = [found for found in filters.filters if found.reason != rule.reason]
    places = [nth for nth, found in enumerate(filters.filters) if found.reason == rule.reason] or [0]
    others.insert(places[0], rule)
    return replace(filters, name=f"{filters.name}, min inter-ocular {pixels:g}", filters=tuple(others))


def _top(told: dict[str, Any], path: Path) -> tuple[str, int]:
    if strange := sorted(told.keys() - {"name", "version", "filter"}):
        raise BadInput(
            f"--filters {path} says {strange[0]}, which means nothing here: name, version and [[filter]] do."
        )
    name, version, tables = told.get("name"), told.get("version"), told.get("filter")
    if not (isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,39}", name)):
        raise BadInput(
            f'--filters {path} needs a name of 1 to 40 letters, digits, spaces, dots and dashes, as in name = "mine".'
        )
    if name in FILTER_SETS:
        raise BadInput(f"--filters {path} is named {name}, like a built-in set: give it a name of its own.")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise BadInput(f"--filters {path} needs a version, a whole number from 1, as in version = 1.")
    if not (isinstance(tables, list) and all(isinstance(table, dict) for table in tables)):
        raise BadInput(f"--filters {path} needs tables [[filter]], each with a reason and its sql.")
    return name, version


def _filter(table: dict[str, Any], path: Path, nth: int) -> Filter:
    if table.keys() != {"reason", "sql"} or not all(isinstance(value, str) for value in table.values()):
        raise BadInput(f"--filters {path}: [[filter]] number {nth} needs a reason and its sql, both text, and no more.")
    if table["reason"] in RESERVED:
        raise BadInput(f"--filters {path}: the reason {table['reason']} belongs to another stage: choose another word.")
    return Filter(table["reason"], table["sql"].strip())
