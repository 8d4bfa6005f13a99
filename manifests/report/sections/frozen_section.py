"""Reads the frozen sets for the report.

Some low-quality images are shown beside their crops, with the degradation in words.
"""

from __future__ import annotations

import json
from typing import Any

from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import crop_path
from manifests.report.thumbnails import make_thumbnail

IMAGES = 12  # number of images that the page shows for each frozen set

_DEGRADED_IMAGES = """
SELECT lq_set, face_id, theta FROM degradations
QUALIFY row_number() OVER (PARTITION BY lq_set ORDER BY md5(face_id)) <= ? ORDER BY lq_set, face_id"""


def read_frozen_sets(ledger: Ledger) -> list[dict[str, Any]]:
    """Returns each frozen set with some of its images.

    An image has the crop, the low-quality image and the degradation.
    """
    dataset = ledger.dataset
    images_of: dict[str, list[tuple[str, str, str]]] = {}
    for lq_set, face, theta in ledger.query(_DEGRADED_IMAGES, IMAGES).rows():
        crop = make_thumbnail(crop_path(dataset, face), 128)
        lq = make_thumbnail(dataset / "lq" / lq_set / f"{face}.png", 128)
        images_of.setdefault(lq_set, []).append((crop, lq, describe_theta(json.loads(theta))))
    return [{"name": name, "images": images} for name, images in images_of.items()]


def describe_theta(theta: dict[str, Any]) -> str:
    """Returns the steps of a degradation in one line, such as `blur 3.1 · ÷5.2 · noise 8 · JPEG 72`."""
    words = []
    for step in theta.get("steps", []):
        match step:
            case {"op": "blur", "kernel": "iso", "sigma_x": sigma}:
                words.append(f"blur {sigma:.1f}")
            case {"op": "blur", "sigma_x": sigma_x, "sigma_y": sigma_y}:
                words.append(f"blur {sigma_x:.1f} by {sigma_y:.1f}")
            case {"op": "downsample", "factor": factor}:
                words.append(f"÷{factor:.1f}")
            case {"op": "noise", "sigma": sigma}:
                words.append(f"noise {sigma:.0f}")
            case {"op": "jpeg", "quality": quality}:
                words.append(f"JPEG {quality}")
            case {"op": "upsample" | "quantise"}:
                pass
            case _:
                words.append(str(step.get("op", "?")))
    return " · ".join(words)
