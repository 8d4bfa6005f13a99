"""A page of restored photos, for which no truth is known: each face as it came, the references, restored."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
import numpy as np

from train.metrics.measure import available
from train.metrics.noreference import WEIGHTS, load_no_reference
from train.metrics.table import METRICS
from train.pages import REFERENCES, SHOWN, STORED, embedded
from train.reference_photos import References, to_image, to_tensor


@dataclass(frozen=True)
class _Face:
    photo: str
    lq: np.ndarray
    references: tuple[np.ndarray, ...]
    restored: np.ndarray


@dataclass
class Sheet:
    """The faces of one call of `restore`; `add` is its `watch`."""

    faces: list[_Face] = field(default_factory=list)

    def add(self, photo: Path, lq: np.ndarray, references: References, restored: np.ndarray) -> None:
        """lq and restored uint8 (S,S,3), references as they were shown."""
        seen = tuple(to_image(crop) for crop in references.crops[:REFERENCES])
        self.faces.append(_Face(str(photo), lq, seen, restored))

    def html(self, restorer: str, reasons: Sequence[str | None], weights: Path | None) -> str:
        """One HTML file with nothing outside it; no-reference metrics where they can be had, else why not."""
        missing = {name: why for name in WEIGHTS if (why := available(name, weights)) is not None}
        judges = {name: load_no_reference(name, weights) for name in WEIGHTS if name not in missing}
        loader = jinja2.PackageLoader("train", "")
        template = jinja2.Environment(loader=loader, autoescape=True).get_template("sheet.html.j2")
        return template.render(
            restorer=restorer,
            faces=[
                {
                    "photo": Path(face.photo).name,
                    "lq": embedded(face.lq),
                    "restored": embedded(face.restored),
                    "references": [embedded(crop, STORED // 2) for crop in face.references],
                    "figures": _figures(judges, face),
                }
                for face in self.faces
            ],
            reasons=Counter(reason for reason in reasons if reason is not None),
            missing=missing,
            judges=[METRICS[name] for name in judges],
            shown=SHOWN,
        )


def _figures(judges: dict[str, Callable[..., list[float]]], face: _Face) -> list[tuple[str, str, str]]:
    """Title, of the face as it came, of the restored one."""
    found = []
    for name, judge in judges.items():
        metric = METRICS[name]
        values = [
            judge(to_tensor(image)[None])[0] if image.shape[0] >= metric.least else math.nan
            for image in (face.lq, face.restored)
        ]
        told = [f"{value:.{metric.digits}f}" if math.isfinite(value) else "–" for value in values]
        found.append((metric.title, told[0], told[1]))
    return found
