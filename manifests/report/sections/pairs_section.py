"""Reads splits and reference pairs for the report: counts for each split, some targets, and statistics of all pairs.

The statistics are the number of targets of each person, the number of references of each target, the poses, the
similarities and the years between target and reference. In the plots, the references of one target together have weight
1, because a training first draws a target, and then draws references of this target.
"""

from __future__ import annotations

from typing import Any

from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import crop_path
from manifests.ledger.records import SPLITS
from manifests.report.plots import draw_bars, draw_histograms
from manifests.report.thumbnails import make_thumbnail

PAIRS = 8  # Number of targets that the page shows.
REFERENCES = 4  # Number of references that the page shows for each target.
TOP = 10  # The page shows the share of all targets that belong to the TOP people with the most targets.
MIN_COUNTS = (1, 2, 4, 8)  # For each of these numbers, the table counts the targets with at least so many references.
DEGREES = 10  # Width of a bin of yaw or pitch, in degrees.
COSINE = 0.05  # Width of a bin of cosine similarity.
YEARS = 1  # Width of a bin of the time between two photos, in years.

_SPLIT_ORDER = "CASE {} WHEN 'train' THEN 1 WHEN 'val' THEN 2 ELSE 3 END"

_SPLITS = f"""
SELECT s.split, count(DISTINCT s.identity_id) AS people, count(*) AS faces, count(p.target) AS targets,
       count(*) FILTER (WHERE s.status <> 'ok') AS set_aside, bool_or(s.locked) AS locked
FROM splits s LEFT JOIN pairs p ON p.target = s.face_id
GROUP BY 1 ORDER BY {_SPLIT_ORDER.format("s.split")}"""

# Selects targets of as many different people as possible. The order depends only on the ids.
_EXAMPLE_PAIRS = """
SELECT p.target, p.refs, p.similarities, p.split FROM pairs p JOIN splits s ON s.face_id = p.target
WHERE len(p.refs) > 0
ORDER BY row_number() OVER (PARTITION BY s.identity_id ORDER BY md5(p.target)), md5(s.identity_id)
LIMIT ?"""

_TARGETS_OF_PEOPLE = """
SELECT count(*) AS n FROM pairs p JOIN splits s ON s.face_id = p.target
WHERE len(p.refs) > 0 GROUP BY s.identity_id ORDER BY n DESC"""

_REFERENCES_OF_SPLITS = f"""
SELECT split, count(*) AS targets, median(len(refs)) AS median,
       {", ".join(f"count(*) FILTER (WHERE len(refs) >= {n}) AS at_least_{n}" for n in MIN_COUNTS)}
FROM pairs WHERE len(refs) > 0 GROUP BY 1 ORDER BY {_SPLIT_ORDER.format("split")}"""

# Counts the people in each bin. Bin n has the people with more than 2^(n - 1) and at most 2^n photos.
_PHOTOS_OF_PEOPLE = """
SELECT CAST(ceil(log2(n)) AS INTEGER) AS bin, count(*) FROM (
    SELECT count(DISTINCT f.photo_id) AS n FROM splits s JOIN faces f USING (face_id)
    WHERE s.status = 'ok' GROUP BY s.identity_id)
GROUP BY 1"""

_SIMILARITIES = f"""
SELECT split, CAST(floor(cosine / {COSINE}) AS INTEGER) AS bin, sum(share) FROM (
    SELECT split, unnest(similarities) AS cosine, 1 / len(refs) AS share FROM pairs)
GROUP BY ALL ORDER BY ALL"""

_GAPS = f"""
SELECT split, CAST(floor(days / {365.25 * YEARS}) AS INTEGER) AS bin, sum(share) FROM (
    SELECT split, unnest(gap_days) AS days, 1 / len(refs) AS share FROM pairs)
WHERE days IS NOT NULL GROUP BY ALL ORDER BY ALL"""


def read_splits(ledger: Ledger) -> list[dict[str, Any]]:
    """Returns the counts of people, faces and targets for each split."""
    return ledger.query(_SPLITS).rows(named=True)


def read_pairs(ledger: Ledger) -> list[dict[str, Any]]:
    """Returns a few targets with their first references. A reference has its picture and its cosine to the target."""
    return [
        {
            "target": make_thumbnail(crop_path(ledger.dataset, target), 128),
            "split": split,
            "references": [
                (make_thumbnail(crop_path(ledger.dataset, ref), 128), f"{cosine:.2f}")
                for ref, cosine in zip(refs[:REFERENCES], similarities[:REFERENCES], strict=True)
            ],
        }
        for target, refs, similarities, split in ledger.query(_EXAMPLE_PAIRS, PAIRS).rows()
    ]


def read_coverage(ledger: Ledger) -> dict[str, Any]:
    """Returns statistics and plots of all pairs. Without pairs, `targets` is 0 and there are no plots."""
    targets_of_people = ledger.query(_TARGETS_OF_PEOPLE)["n"].to_list()
    targets = sum(targets_of_people)
    plots = (
        _draw_photos(ledger),
        *_draw_poses(ledger),
        _draw_by_split(ledger, _SIMILARITIES, COSINE, "cosine of target and reference"),
        _draw_by_split(ledger, _GAPS, YEARS, "years between target and reference"),
    )
    return {
        "targets": targets,
        "people": len(targets_of_people),
        "top": min(TOP, len(targets_of_people)),
        "top_share": 100 * sum(targets_of_people[:TOP]) / max(targets, 1),
        "min_counts": MIN_COUNTS,
        "splits": ledger.query(_REFERENCES_OF_SPLITS).rows(named=True),
        "policies": ledger.query("SELECT DISTINCT policy FROM pairs ORDER BY 1")["policy"].to_list(),
        "rules": ledger.read_detail("pair"),
        "plots": [plot for plot in plots if plot],
    }


def _draw_photos(ledger: Ledger) -> str:
    """Returns a bar plot: the number of people with 1 photo, 2 photos, 3 to 4 photos, 5 to 8 photos, and so on."""
    people_of_bin = dict(ledger.query(_PHOTOS_OF_PEOPLE).iter_rows())
    if not people_of_bin:
        return ""
    names = ["1", "2", *(f"≤{1 << n}" for n in range(2, max(people_of_bin) + 1))]
    bars = [(names[n], people_of_bin.get(n, 0)) for n in range(max(people_of_bin) + 1)]
    return draw_bars(bars, "people by number of photos")


def _draw_poses(ledger: Ledger) -> list[str]:
    """Returns a plot of yaw and a plot of pitch. Each plot has a histogram of the targets and one of the references."""
    plots = []
    for angle, ends in (("yaw", ("left", "right")), ("pitch", ("up", "down"))):
        bins = f"CAST(floor(f.{angle} / {DEGREES}) AS INTEGER)"
        targets = ledger.query(
            f"SELECT {bins} AS bin, count(*) FROM pairs p JOIN faces f ON f.face_id = p.target WHERE len(p.refs) > 0 "
            "GROUP BY 1"
        )
        references = ledger.query(
            f"""SELECT {bins} AS bin, sum(share) FROM (SELECT unnest(refs) AS ref, 1 / len(refs) AS share FROM pairs) p
                JOIN faces f ON f.face_id = p.ref GROUP BY 1"""
        )
        series = {"targets": dict(targets.iter_rows()), "references": dict(references.iter_rows())}
        plots.append(draw_histograms(series, DEGREES, f"{angle} in degrees, {ends[0]} to {ends[1]}"))
    return plots


def _draw_by_split(ledger: Ledger, query: str, width: float, title: str) -> str:
    """Returns a plot with a histogram of each split.

    `query` selects rows (split, number of a bin, weight). `width` is the width of a bin.
    """
    rows = list(ledger.query(query).iter_rows())
    series: dict[str, dict[int, float]] = {}
    for split in SPLITS:
        if bins := {number: share for name, number, share in rows if name == split}:
            series[split] = bins
    return draw_histograms(series, width, title)
