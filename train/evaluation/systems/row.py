"""Defines the row of one image under one system."""

from typing import Any

# The values of one image under one system (train/evaluation/systems/rows.py). The keys are face_id, identity_id, key
# and system (the key and the name of the system), references and left_out (numbers of references), shown_identity_id,
# reason (why the image could not be measured, or None), and the names of the metrics.
Row = dict[str, Any]
