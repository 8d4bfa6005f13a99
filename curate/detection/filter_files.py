"""Loads the filter sets of `--filters`: built-in sets by name, and sets from a TOML file of the user."""

from __future__ import annotations

import math
import re
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

from curate.detection.reasons import CROP_MISSING, NO_EMBEDDING, NOT_FOUND_AGAIN, PHOTO_VANISHED
from curate.face_filters import FILTER_SETS, TEST_FILTERS
from curate.photos.name_rules import LEFT_OUT
from manifests.errors import BadInput
from manifests.ledger.filters import Filter, FilterSet, check_filters
from manifests.ledger.records import DOUBTFUL_PERSON, NEAR_DUPLICATE, Face

# A filter in a file of the user must not have a reserved word as its reason. Reserved words are the statuses of faces,
# and the reasons of other stages.
RESERVED = {
    "ok",
    "dropped",
    "failed",
    NEAR_DUPLICATE,
    "decided",
    PHOTO_VANISHED,
    "file_replaced",
    *LEFT_OUT,
    CROP_MISSING,
    NO_EMBEDDING,
    NOT_FOUND_AGAIN,
    "face_dropped",
    "no_consent",
    "consent_missing",
    "opted_out",
    "purged",
    "photo_spans_splits",
    DOUBTFUL_PERSON,
    "listed_in_another_split",
}
BUILT_IN_REASONS = frozenset(rule.reason for filters in FILTER_SETS.values() for rule in filters.every)


def is_dropped_by_filter(face: Face) -> bool:
    """Returns whether a filter dropped a face, and not another stage or a decision."""
    return face.status == "dropped" and face.reason not in RESERVED


def load_filters(name: str) -> FilterSet:
    """Returns a built-in set by its name, or the set in a TOML file.

    The TOML file has a name, a version, and tables [[filter]] with a reason and an SQL predicate. Tables
    [[test_filter]] of the same form replace the built-in test filters. The line `test_filter = []` means that the set
    has no test filters. Raises BadInput if no set and no file has the name `name`, or if the file has an error.
    """
    if name in FILTER_SETS:
        return FILTER_SETS[name]
    path = Path(name)
    if not path.is_file():
        raise BadInput(f"--filters {name} is unknown. Give {', '.join(FILTER_SETS)}, or the path of a TOML file.")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"--filters {path} cannot be read: {error.strerror or error}.") from None
    except ValueError as error:  # tomllib and the UTF-8 decoder raise ValueError
        raise BadInput(f"--filters {path} is not TOML: {error}.") from None
    set_name, version = _read_name_and_version(content, path)
    rules = tuple(_read_filter(table, path, f"[[filter]] number {n}") for n, table in enumerate(content["filter"], 1))
    filters = FilterSet(set_name, version, rules, TEST_FILTERS)
    if "test_filter" in content:
        tables = enumerate(content["test_filter"], 1)
        test_rules = tuple(_read_filter(table, path, f"[[test_filter]] number {n}") for n, table in tables)
        filters = replace(filters, test_filters=test_rules)
    check_filters(insert_min_score(filters, 0.0))
    return filters


def insert_min_score(filters: FilterSet, min_score: float) -> FilterSet:
    """Returns the set in which the number `min_score` replaces the word `detector_min_score`."""
    number = f"{min_score:g}" if min_score >= 0 else f"({min_score:g})"

    def insert(rules: tuple[Filter, ...]) -> tuple[Filter, ...]:
        return tuple(
            replace(rule, sql=re.sub(r"\bdetector_min_score\b", number, rule.sql, flags=re.IGNORECASE))
            for rule in rules
        )

    return replace(filters, filters=insert(filters.filters), test_filters=insert(filters.test_filters))


def set_min_inter_ocular(filters: FilterSet, pixels: float) -> FilterSet:
    """Returns the set with a filter `too_small` that drops faces with fewer than `pixels` pixels between the eyes.

    If the set has no filter `too_small`, the new filter becomes the first filter. Raises BadInput if `pixels` is NaN or
    infinity.
    """
    if not math.isfinite(pixels):
        raise BadInput(f"--min-inter-ocular {pixels} is not a number of pixels. Give a number like 16.")
    rule = Filter("too_small", f"inter_ocular_px < {float(pixels)!r}")
    others = [other for other in filters.filters if other.reason != rule.reason]
    places = [place for place, other in enumerate(filters.filters) if other.reason == rule.reason] or [0]
    others.insert(places[0], rule)
    return replace(filters, name=f"{filters.name}, min inter-ocular {pixels:g}", filters=tuple(others))


def find_min_inter_ocular(filters: FilterSet) -> float:
    """Returns N if the set has a filter `too_small` with the predicate `inter_ocular_px < N`. Otherwise returns inf."""
    numbers = [
        re.fullmatch(r"inter_ocular_px < ([0-9.e+-]+)", rule.sql)
        for rule in filters.filters
        if rule.reason == "too_small"
    ]
    return float(numbers[0][1]) if numbers and numbers[0] else math.inf


def _read_name_and_version(content: dict[str, Any], path: Path) -> tuple[str, int]:
    if unknown := sorted(content.keys() - {"name", "version", "filter", "test_filter"}):
        raise BadInput(
            f"--filters {path}: {unknown[0]} is unknown. Use only name, version, [[filter]] and [[test_filter]]."
        )
    name, version = content.get("name"), content.get("version")
    if not (isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,39}", name)):
        raise BadInput(
            f"--filters {path} has no valid name. Write a name of 1 to 40 letters, digits, spaces, dots, underscores "
            'and dashes, as in name = "mine".'
        )
    if name in FILTER_SETS:
        raise BadInput(f"--filters {path} has the name of the built-in set {name}. Write another name.")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise BadInput(f"--filters {path} has no valid version. Write a whole number of 1 or more, as in version = 1.")
    for kind, tables in (("filter", content.get("filter")), ("test_filter", content.get("test_filter", []))):
        if not (isinstance(tables, list) and all(isinstance(table, dict) for table in tables)):
            raise BadInput(
                f"--filters {path} has no tables [[{kind}]]. Write a reason and its sql in each table [[{kind}]]."
            )
    return name, version


def _read_filter(table: dict[str, Any], path: Path, place: str) -> Filter:
    if table.keys() != {"reason", "sql"} or not all(isinstance(value, str) for value in table.values()):
        raise BadInput(f"--filters {path}: {place} must contain only a reason and its sql, as text.")
    if table["reason"] in RESERVED:
        raise BadInput(f"--filters {path}: the reason {table['reason']} belongs to another stage. Choose another word.")
    return Filter(table["reason"], table["sql"].strip())
