"""Makes the notices of a result. A reader needs these sentences to understand the figures.

manifests/report/result_tables.py explains what a result is. manifests/report/set_notices.py makes the notices about the
set and the training.
"""

from __future__ import annotations

from manifests.report.result_tables import MARK, Result, count_people, knows_people, list_main_systems, list_slices
from manifests.report.set_notices import (
    explain_extra_files,
    explain_left_out,
    explain_missing_targets,
    explain_set,
    explain_training,
    explain_unmeasured_images,
)
from manifests.runtime.text import format_count

FEWEST_IMAGES = 5  # A slice with fewer images than this (ours) is never named as the worst slice.
# IPS is the identity to the references. IPS also rises if a restorer copies a reference. The metrics of COPYING show
# such copying, but need targets. The metrics of WITHOUT_TARGETS need no targets, and show how far a restored image is
# from its input.
IPS, COPYING, WITHOUT_TARGETS = "id_references", ("id_target", "copy_ratio"), ("id_input", "input_agreement")


def make_notices(result: Result) -> list[str]:
    """Returns the notices that a reader needs to understand the figures."""
    judge = result["judge"]
    judge_name = judge["spec"].rsplit("/", 1)[-1]  # the folder is left out, because its path is private
    is_imported = result.get("set_problems") is not None
    whose = "the restorer's" if is_imported else "the dataset's"
    own = f" ({whose} own recognizer, which a loss may have used in the training of the restorer)"
    notices = [
        f"{result['interval']}. Identity is measured by {judge_name}{own if judge['is_the_datasets_own'] else ''}."
    ]
    return [
        *notices,
        *explain_set(result),
        *explain_left_out(result),
        *explain_training(result),
        *explain_unmeasured_images(result),
        *_explain_partial_metrics(result),
        *explain_extra_files(result),
        *_explain_missing_metrics(result),
        *_explain_gate(result),
        *_explain_other_weights(result),
        *explain_missing_targets(result),
        *_explain_input_metrics(result),
        *_explain_missing_faces(result),
        *[f"{name} is not compared, because {why}." for name, why in result.get("not_compared", {}).items()],
        *_explain_copying(result),
        *_explain_marks(result),
        *_explain_slices(result),
    ]


def _explain_slices(result: Result) -> list[str]:
    """Returns a notice with the worst slices of each main system, and a notice for each column that gives no slices."""
    notices = []
    for key, system in list_main_systems(result).items():
        overall = next(row for row in result["rows"] if row["key"] == key)
        clauses: dict[str, list[str]] = {}  # maps a slice to texts about the metrics by which it is the worst slice
        for name, metric in result["metrics"].items():
            sign = {"higher": 1, "lower": -1}.get(metric["better"])
            candidates = [
                (sign * row[name]["mean"], f"{column['title']} {one['name']} ({format_count(one['images'], 'image')})")
                for column, one in list_slices(result)
                for row in one["rows"]
                if sign and row["key"] == key and row.get(name) and row[name]["images"] >= FEWEST_IMAGES
            ]
            if candidates and sign:
                worst, label = min(candidates)
                text = f"{metric['title']} {sign * worst:.{metric['digits']}f}"
                clauses.setdefault(label, []).append(
                    f"{text} (all images: {overall[name]['mean']:.{metric['digits']}f})"
                )
        if clauses:
            worst_slices = "; ".join(f"{label}: {', '.join(texts)}" for label, texts in clauses.items())
            notices.append(
                f"The worst slices of {system}: {worst_slices}. Slices of fewer than {FEWEST_IMAGES} images do not "
                "count."
            )
    for column, reason in result.get("not_sliced", {}).items():
        notices.append(f"There are no slices by {column}, because {reason}.")
    return notices


def _explain_partial_metrics(result: Result) -> list[str]:
    """Returns notices about metrics that were measured for some images of a system, and not for others."""
    titles_of: dict[tuple[str, int, int, str], list[str]] = {}
    for row in result["rows"]:
        measured = row["images"] - row["unmeasured"]
        for name, metric in result["metrics"].items():
            figure, why = row[name], metric["without_a_figure"]
            if figure is None or "people" not in figure or figure["images"] == measured or not why:
                continue
            if figure["people"] < result["people"] and knows_people(result):
                why += f"; the measured images show {count_people(figure['people'])}"
                why += ", and the interval is computed over images" if figure["over"] == "images" else ""
            key = row["system"], measured - figure["images"], measured, why
            titles_of.setdefault(key, []).append(metric["title"])
    return [
        f"{system}: no value of {', '.join(titles)} for {without} of {format_count(measured, 'image')} ({why})."
        for (system, without, measured, why), titles in titles_of.items()
    ]


def _explain_missing_metrics(result: Result) -> list[str]:
    """Returns notices about metrics that could not be measured, one for each reason."""
    titles_of: dict[str, list[str]] = {}
    for name, reason in result["not_measured"].items():
        titles_of.setdefault(reason, []).append(result["metrics"][name]["title"])
    return [f"Not measured: {', '.join(titles)}. {reason}" for reason, titles in titles_of.items()]


def _explain_gate(result: Result) -> list[str]:
    """Returns notices about the identity gate of the NTIRE challenge, or [] if the result has no such gate."""
    if (gate := result.get("ntire_gate")) is None:
        return []
    if "reason" in gate:
        return [f"The identity gate of the NTIRE challenge was not applied. {gate['reason']}"]
    notices = []
    for row in result["rows"]:
        if (own := gate["systems"].get(row["key"])) is None:
            continue
        counts = ", ".join(f"{subset} {count}" for subset, count in own["below"].items())
        notices.append(
            f"{row['system']} {'passes' if own['passes'] else 'fails'} the identity gate of the NTIRE challenge: "
            f"{sum(own['below'].values())} of {own['images']} faces are below the threshold ({counts}). At most "
            f"{gate['most_below']} faces may be below it."
        )
    return notices


def _explain_other_weights(result: Result) -> list[str]:
    """Returns a notice for each file of weights that differs from the published file of this name."""
    titles_of: dict[str, list[str]] = {}
    for name, metric in result["metrics"].items():
        if name in result["not_measured"]:
            continue
        for file in metric.get("weights", ()):
            if file["is_published"] is False:
                titles_of.setdefault(f"{file['file']} (sha256 {file['sha256'][:8]})", []).append(metric["title"])
    return [
        f"{file} is not the published file of this name. Do not compare {', '.join(titles)} with published values."
        for file, titles in titles_of.items()
    ]


def _explain_input_metrics(result: Result) -> list[str]:
    """Returns a notice if the result has metrics that compare an image with the LQ input.

    The notice says why the LQ input itself has no values of these metrics."""
    measured = {name for row in result["rows"] for name in WITHOUT_TARGETS if row.get(name) is not None}
    titles = [result["metrics"][name]["title"] for name in WITHOUT_TARGETS if name in measured]
    if not titles or all(row["key"] != "lq" for row in result["rows"]):
        return []
    return [f"Not measured for the LQ input: {' and '.join(titles)}. The LQ input would be compared with itself."]


def _explain_missing_faces(result: Result) -> list[str]:
    """Returns a notice about restored images in which the judge finds no face."""
    counts = []
    for row in result["rows"]:
        figure = row.get("face_restored")
        if figure is not None and (without := round((1 - figure["mean"]) * figure["images"])):
            counts.append(f"{without} of {figure['images']} ({row['system']})")
    if not counts:
        return []
    return [
        f"Images in which the judge finds no face: {'; '.join(counts)}. The judge treats these "
        "images as aligned faces, so the means of identity include them."
    ]


def list_counterweights(result: Result) -> tuple[str, ...]:
    """Returns the metrics that show whether a restorer copies its references. A table with IPS needs these metrics."""
    return COPYING if result.get("has_targets", True) else WITHOUT_TARGETS


def _explain_copying(result: Result) -> list[str]:
    """Returns a notice if a result with references has IPS, but has no targets or lacks a metric of
    `list_counterweights`."""
    missing = [name for name in list_counterweights(result) if name not in result["metrics"]]
    if IPS not in result["metrics"] or not result.get("with_references", True):
        return []
    if not missing and result.get("has_targets", True):
        return []
    if not missing:
        return [
            "The identity to the references (IPS) also rises if a restorer copies a reference. Without targets, no "
            "metric measures copying. Read IPS together with the identity to the input and the agreement with the "
            "input."
        ]
    return [
        "The identity to the references (IPS) also rises if a restorer copies a reference. To see copying, add "
        f"{' and '.join(missing)} to --metrics."
    ]


def _explain_marks(result: Result) -> list[str]:
    """Returns a list with the notice that explains MARK. The list is empty if the result has no paired differences."""
    if not result["differences"]:
        return []
    if "test" in result:
        return [
            f"{MARK} marks a difference that is significant ({result['test']}, over all figures of the table). A "
            "difference that was measured on fewer than five images, or that is printed as zero, is never marked. "
            f"{result['test_limit']}n/m means that the mean difference is above zero for n of m people."
        ]
    return [
        f"{MARK} marks a difference whose interval excludes zero. Even without a true difference, about one figure in "
        "twenty is marked. With few people, more figures are marked. A difference that was measured on fewer than five "
        "images, or that is printed as zero, is never marked. n/m means that the mean difference is above zero for n "
        "of m people."
    ]
