"""Restored photos, for which no truth is known: each face as it came, the references, restored; a page, or data."""

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
from train.data.tensors import to_image, to_tensor
from train.evaluation.html_page import REFERENCES, SHOWN, STORED, encode_picture
from train.metrics.measure import explain_missing
from train.metrics.no_reference import WEIGHTS, load_no_reference
from train.metrics.registry import METRICS
from train.restore.reference_photos import References
from train.restore.restore_photo import PhotoOutcome


@dataclass(frozen=True)
class _Face:
    photo: str
    lq: np.ndarray
    references: tuple[np.ndarray, ...]
    restored: np.ndarray


@dataclass
class ContactSheet:
    """The faces of one call of `restore`; `add` is its `watch`."""

    faces: list[_Face] = field(default_factory=list)

    def add(self, photo: Path, lq: np.ndarray, references: References, restored: np.ndarray) -> None:
        """lq and restored uint8 (S,S,3), references as they were shown."""
        seen = tuple(to_image(crop) for crop in references.crops[:REFERENCES])
        self.faces.append(_Face(str(photo), lq, seen, restored))

    def build(self, restorer: str, rows: Sequence[PhotoOutcome], weights: Path | None) -> dict[str, Any]:
        """What a page says, plain enough for JSON: every picture a data URL, no path but the restorer's.

        `likeness report` shows what lies in RUN/restored/ as it is (manifests/report/runs.py). No-reference metrics
        where they can be had, else why not. A reason is a face's where it was restored, else counted over photos.
        """
        missing = {name: why for name in WEIGHTS if (why := explain_missing(name, weights)) is not None}
        judges = {name: load_no_reference(name, weights) for name in WEIGHTS if name not in missing}
        said = {row.photo: row.reason for row in rows}
        lacking: dict[str, list[str]] = {}
        for name, why in missing.items():
            lacking.setdefault(why, []).append(METRICS[name].title)
        undone = Counter(row.reason for row in rows if row.status != "ok" and row.reason is not None)
        return {
            "restorer": make_printable(restorer),
            "photos": len(rows),
            "faces": [
                {
                    "photo": make_printable(Path(face.photo).name),
                    "reason": make_printable(said.get(face.photo) or ""),
                    "lq": encode_picture(face.lq),
                    "restored": encode_picture(face.restored),
                    "references": [encode_picture(crop, STORED // 2) for crop in face.references],
                    "figures": _figures(judges, face),
                }
                for face in self.faces
            ],
            "undone": {make_printable(reason): count for reason, count in undone.items()},
            "missing": {", ".join(titles): why for why, titles in lacking.items()},
            "metrics": [
                {"title": metric.title, "better": metric.better, "convention": metric.convention,
                 "source": metric.source}
                for metric in (METRICS[name] for name in judges)
            ],
        }  # fmt: skip


def render_sheet(facts: dict[str, Any]) -> str:
    """One HTML file of `ContactSheet.build` with nothing outside it."""
    loader = jinja2.PackageLoader("train.restore", "")
    template = jinja2.Environment(loader=loader, autoescape=True).get_template("sheet.html.j2")
    return template.render(facts, shown=SHOWN)


def _figures(judges: dict[str, Callable[..., list[float]]], face: _Face) -> list[tuple[str, str, str]]:
    """Title, of the face as it came, of the restored one."""
    found = []
    for name, judge in judges.items():
        metric = METRICS[name]
        values = [
            judge(to_tensor(image)[None])[0] if image.shape[0] >= metric.min_side else math.nan
            for image in (face.lq, face.restored)
        ]
        told = [f"{value:.{metric.digits}f}" if math.isfinite(value) else "–" for value in values]
        found.append((metric.title, told[0], told[1]))
    return found
