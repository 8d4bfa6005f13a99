"""The page of an evaluation: tables, and the pictures beside each other, sorted by any figure, worst first."""

from __future__ import annotations

import base64
import math
from typing import Any

import cv2
import jinja2
import numpy as np

from degrade.operations.pixels import shrink
from manifests.report.result_tables import make_notices, make_tables, make_title
from train.evaluation.evaluate import PagePictures

SCREEN_PIXELS = 176  # pixels of a picture on the page
FILE_PIXELS = 256  # at most, in the file, where a picture is larger
QUALITY = 82  # of WebP
MAX_REFERENCES = 4  # shown of an image's


def render_page(result: dict[str, Any], pictures: PagePictures, images: int) -> str:
    """One HTML file with nothing outside it.

    At most `images` images, the worst by identity to the target, where it was measured, else by the first metric, of
    the system that is shown the right references.
    """
    metrics = {name: one for name, one in result["metrics"].items() if any(name in row for row in pictures.rows)}
    leading = "id_target" if "id_target" in metrics else next(iter(metrics))
    leader = _leader(result)
    of: dict[str, dict[str, dict[str, Any]]] = {}
    for row in pictures.rows:
        of.setdefault(row["face_id"], {})[row["key"]] = row
    sign = -1 if metrics[leading]["better"] == "lower" else 1

    def rank(case: Any) -> tuple[float, str]:
        value = of[case.face_id].get(leader, {}).get(leading, math.nan)
        return (sign * value if math.isfinite(value) else -math.inf, case.face_id)

    chosen = sorted(pictures.cases, key=rank)[:images]
    lines = [line for line in result["rows"] if line["key"] != "lq"]
    names = {line["key"]: line["system"] for line in lines}
    cases = [
        {
            "face": case.face_id,
            "lq": encode_image(case.lq),
            "target": encode_image(case.target),
            "references": [encode_image(crop, FILE_PIXELS // 2) for crop in case.references[:MAX_REFERENCES]],
            "restored": [
                {
                    "key": key,
                    "system": names[key],
                    "reason": row["reason"],
                    "picture": None if row["reason"] else encode_image(pictures.of[case.face_id, key]),
                }
                for key, row in of[case.face_id].items()
                if key != "lq"
            ],
        }
        for case in chosen
    ]
    figures = {
        case.face_id: {
            key: {name: row[name] if math.isfinite(row[name]) else None for name in metrics}
            for key, row in of[case.face_id].items()
        }
        for case in chosen
    }
    loader = jinja2.PackageLoader("train.evaluation", "")
    template = jinja2.Environment(loader=loader, autoescape=True).get_template("page.html.j2")
    return template.render(
        title=make_title(result),
        tables=make_tables(result),
        notes=make_notices(result),
        metrics=metrics,
        first=leading,
        lines=lines,
        leader=leader,
        cases=cases,
        images=len(pictures.cases),
        figures=figures,
        shown=SCREEN_PIXELS,
    )


def _leader(result: dict[str, Any]) -> str:
    """The system that the page begins with: the first that is shown all the right references."""
    keys = [line["key"] for line in result["rows"] if line["key"] != "lq"]
    return next((key for key in keys if key.split("/")[-1] == str(result["references"])), keys[0])


def encode_image(image: np.ndarray, size: int = FILE_PIXELS) -> str:
    """A picture, uint8 (S, S, 3), as a data URL, at most `size` pixels a side."""
    small = shrink(image, size) if image.shape[0] > size else image
    done, data = cv2.imencode(".webp", np.ascontiguousarray(small[:, :, ::-1]), [cv2.IMWRITE_WEBP_QUALITY, QUALITY])
    assert done
    return "data:image/webp;base64," + base64.b64encode(data.tobytes()).decode()
