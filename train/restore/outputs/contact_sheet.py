"""Make the contact sheet of restored photos, as HTML or as JSON.

The sheet shows each face before the restoration, its references, and the restored face. There is no target, so the
sheet shows only metrics that need no target.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from manifests.runtime.text import make_printable
from train.data.tensors import to_tensor
from train.metrics.measure import explain_missing
from train.metrics.networks.no_reference import WEIGHTS, load_no_reference
from train.metrics.registry import METRICS
from train.restore.decisions.outcomes import PhotoOutcome
from train.restore.outputs.page_images import FILE_PIXELS, MAX_REFERENCES, SCREEN_PIXELS, encode_image
from train.restore.references.reference_photos import References

KEPT = "No face of the photo was changed."


@dataclass(frozen=True)
class _Face:
    photo: str
    # All images are uint8 (S, S, 3).
    lq: np.ndarray
    references: tuple[np.ndarray, ...]
    restored: np.ndarray


@dataclass
class ContactSheet:
    """Collects the faces of one call of `restore`. `restore` gets the method `add` as its argument `on_face`."""

    faces: list[_Face] = field(default_factory=list)

    def add(self, photo: Path, lq: np.ndarray, references: References, restored: np.ndarray) -> None:
        """Adds a restored face. `lq` and `restored` are uint8 (S, S, 3)."""
        crops = tuple(references.crops[:MAX_REFERENCES])
        self.faces.append(_Face(str(photo), lq, crops, restored))

    def build(self, restorer: str, outcomes: Sequence[PhotoOutcome], weights: Path | None) -> dict[str, Any]:
        """Returns the sheet as a dict that can be written as JSON. Images are data URLs.

        The sheet contains no path except `restorer`. `weights` is the folder with the weights of the metrics. The sheet
        lists the metrics whose weights are missing, and the reasons. The sheet also has each reason why photos were not
        restored, with the number of photos. The report shows the sheets in the folder RUN/restored
        (manifests/report/sections/run_section.py).
        """
        missing = {name: why for name in WEIGHTS if (why := explain_missing(name, weights)) is not None}
        metrics = {name: load_no_reference(name, weights) for name in WEIGHTS if name not in missing}
        reasons = {
            one.photo: " ".join([*([one.reason] if one.reason else []), *(face.sentence for face in one.faces)])
            for one in outcomes
        }
        titles_by_reason: dict[str, list[str]] = {}
        for name, why in missing.items():
            titles_by_reason.setdefault(why, []).append(METRICS[name].title)
        not_restored = Counter(
            KEPT if one.status == "kept" else one.reason or ""
            for one in outcomes
            if one.status != "ok" and (one.reason is not None or one.status == "kept")
        )
        return {
            "restorer": make_printable(restorer),
            "photos": len(outcomes),
            "faces": [
                {
                    "photo": make_printable(Path(face.photo).name),
                    "reason": make_printable(reasons.get(face.photo) or ""),
                    "lq": encode_image(face.lq),
                    "restored": encode_image(face.restored),
                    "references": [encode_image(crop, FILE_PIXELS // 2) for crop in face.references],
                    "figures": _measure_face(metrics, face),
                }
                for face in self.faces
            ],
            "undone": {make_printable(reason): count for reason, count in not_restored.items()},
            "missing": {", ".join(titles): why for why, titles in titles_by_reason.items()},
            "metrics": [
                {"title": metric.title, "better": metric.better, "convention": metric.convention,
                 "source": metric.source}
                for metric in (METRICS[name] for name in metrics)
            ],
        }  # fmt: skip


def render_sheet(sheet: dict[str, Any]) -> str:
    """Returns the HTML file of a sheet from `ContactSheet.build`. The file loads nothing from outside."""
    loader = jinja2.PackageLoader("train.restore.outputs", "")
    template = jinja2.Environment(loader=loader, autoescape=True).get_template("sheet.html.j2")
    return template.render(sheet, shown=SCREEN_PIXELS)


def _measure_face(metrics: dict[str, Callable[..., list[float]]], face: _Face) -> list[tuple[str, str, str]]:
    """Returns (title, value before, value after) for each metric. If a value cannot be computed, it is a dash."""
    figures = []
    for name, measure in metrics.items():
        metric = METRICS[name]
        values = [
            measure(to_tensor(image)[None])[0] if image.shape[0] >= metric.min_side else math.nan
            for image in (face.lq, face.restored)
        ]
        before, after = (f"{value:.{metric.digits}f}" if math.isfinite(value) else "–" for value in values)
        figures.append((metric.title, before, after))
    return figures
