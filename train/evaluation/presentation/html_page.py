"""Make the HTML page of an evaluation, with its tables and its images side by side.

The reader of the page chooses the metric by which the images are sorted.
"""

from __future__ import annotations

import math
from typing import Any

import jinja2

from manifests.report.result_notices import make_notices
from manifests.report.result_tables import describe_source, make_tables, make_title
from manifests.report.set_notices import list_training_checks
from train.evaluation.results.result_images import PageImages
from train.evaluation.sets.cases import Case
from train.restore.outputs.page_images import FILE_PIXELS, MAX_REFERENCES, SCREEN_PIXELS, encode_image


def render_page(result: dict[str, Any], page_images: PageImages, max_images: int) -> str:
    """Returns one HTML file that loads nothing from outside.

    The page shows at most `max_images` images, the worst images first. The worst images are those with the worst
    identity to the target when the restorer gets all references of the right person. If the identity was not measured,
    the first metric with a value for each image decides which images are worst. If only metrics of whole sets were
    measured, the images are in the order of their names.
    """
    metrics = {name: one for name, one in result["metrics"].items() if any(name in row for row in page_images.rows)}
    first_metric = "id_target" if "id_target" in metrics else next(iter(metrics), None)
    first_system = _choose_first_system(result)
    rows_of: dict[str, dict[str, dict[str, Any]]] = {}  # face id -> key -> row
    for row in page_images.rows:
        rows_of.setdefault(row["face_id"], {})[row["key"]] = row

    def rank(case: Case) -> tuple[float, str]:
        if first_metric is None:
            return 0.0, case.face_id
        sign = -1 if metrics[first_metric]["better"] == "lower" else 1
        value = rows_of[case.face_id].get(first_system, {}).get(first_metric, math.nan)
        return (sign * value if math.isfinite(value) else -math.inf, case.face_id)

    worst = sorted(page_images.cases, key=rank)[:max_images]
    averages = [average for average in result["rows"] if average["key"] != "lq"]
    names = {average["key"]: average["system"] for average in averages}
    cases = [
        {
            "face": case.face_id,
            "lq": encode_image(case.lq),
            "target": None if case.target is None else encode_image(case.target),
            "references": [encode_image(crop, FILE_PIXELS // 2) for crop in case.references[:MAX_REFERENCES]],
            "restored": [
                {
                    "key": key,
                    "system": names[key],
                    "reason": row["reason"],
                    "image": None if row["reason"] else encode_image(page_images.restored[case.face_id, key]),
                }
                for key, row in rows_of[case.face_id].items()
                if key != "lq"
            ],
        }
        for case in worst
    ]
    figures = {
        case.face_id: {
            key: {name: row[name] if math.isfinite(row[name]) else None for name in metrics}
            for key, row in rows_of[case.face_id].items()
        }
        for case in worst
    }
    loader = jinja2.PackageLoader("train.evaluation.presentation", "")
    template = jinja2.Environment(loader=loader, autoescape=True).get_template("page.html.j2")
    return template.render(
        title=make_title(result),
        tables=make_tables(result),
        notices=make_notices(result),
        training_checks=list_training_checks(result),
        metrics=metrics,
        described=result["metrics"].values(),
        describe_source=describe_source,
        first_metric=first_metric,
        averages=averages,
        first_system=first_system,
        cases=cases,
        images=len(page_images.cases),
        figures=figures,
        pixels=SCREEN_PIXELS,
    )


def _choose_first_system(result: dict[str, Any]) -> str:
    """Returns the key of the first system that gets all references of the right person. At first, the page is sorted by
    this system.
    """
    keys = [average["key"] for average in result["rows"] if average["key"] != "lq"]
    return next((key for key in keys if key.split("/")[-1] == str(result["references"])), keys[0])
