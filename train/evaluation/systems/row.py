"""Defines the row of one image for one system, and the labels of rows if several runs are in one table."""

from typing import Any

# The values of one image for one system (train/evaluation/systems/rows.py). The keys are face_id, identity_id, key
# and system (the key and the name of the system), references and left_out (numbers of references), shown_identity_id,
# reason (why the image could not be measured, or None), and the names of the metrics.
Row = dict[str, Any]


def label_row(row: Row, label: str) -> Row:
    """Returns a row whose key and system begin with `label`, the name of a run.

    The row of an LQ image does not change, because all runs share it.
    """
    if row["key"] == "lq":
        return row
    return row | {"key": label_key(row["key"], label), "system": label_system(row["system"], label)}


def label_key(key: str, label: str) -> str:
    """Returns the key of a system in a table of several runs. An empty label changes nothing."""
    return key if key == "lq" or not label else f"{label}/{key}"


def label_system(system: str, label: str) -> str:
    """Returns the name of a system in a table of several runs. An empty label changes nothing."""
    return f"{label}: {system}" if label else system
