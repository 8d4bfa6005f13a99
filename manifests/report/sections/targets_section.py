"""Draws histograms of the measures of all targets."""

from __future__ import annotations

from manifests.ledger.ledger import Ledger
from manifests.ledger.records import SPLITS
from manifests.report.plots import draw_histograms

# For each measure: an SQL expression on a face f and its photo p, the width of a bin, the largest value, and a title
# with the unit. Larger values count as the largest value.
_MEASURES: tuple[tuple[str, float, float, str], ...] = (
    ("512 / f.upsample", 64, 1536, "width of the crop in the photo, photo pixels"),
    ("f.upsample", 0.25, 6, "how many times the crop of 512 px is enlarged"),
    ("100 * f.outside", 2, 100, "share of the crop outside the photo, %"),
    ("f.inter_ocular_px", 16, 512, "distance between the eyes, photo pixels"),
    ("f.sharpness", 0.05, 2, "sharpness at 128 px"),
    ("f.detail", 0.01, 0.5, "fine detail at the size of the crop"),
    ("p.jpeg_quality", 5, 100, "JPEG quality of the photo, 1 to 100"),
    ("f.blockiness", 0.1, 3, "strength of JPEG blocks; 1 is none"),
    ("f.noise", 1, 25, "noise, standard deviation of luma (0 to 255)"),
    ("f.exposure", 0.05, 1, "mean luma of the face, 0 to 1"),
    ("100 * f.clipped", 2, 100, "overexposed pixels of the face, %"),
    ("100 * f.dark", 2, 100, "underexposed pixels of the face, %"),
)
_HISTOGRAM = """
SELECT t.split, CAST(floor(least({0}, {2}) / {1}) AS INTEGER) AS bin, count(*)
FROM pairs t JOIN faces f ON f.face_id = t.target JOIN photos p USING (photo_id)
WHERE {0} IS NOT NULL GROUP BY ALL ORDER BY ALL"""
_GRAY = """
SELECT count(*) FILTER (p.gray), count(*)
FROM pairs t JOIN faces f ON f.face_id = t.target JOIN photos p USING (photo_id)"""


def draw_targets(ledger: Ledger) -> list[str]:
    """Returns a plot for each measure as SVG, with a histogram of each split. Measures without values have no plot."""
    plots = []
    for expression, width, cap, title in _MEASURES:
        series: dict[str, dict[int, float]] = {}
        for split, number, count in ledger.query(_HISTOGRAM.format(expression, width, cap)).iter_rows():
            series.setdefault(split, {})[number] = count
        in_order = {split: series[split] for split in SPLITS if split in series}
        plots.append(draw_histograms(in_order, width, title))
    return [plot for plot in plots if plot]


def count_gray_targets(ledger: Ledger) -> tuple[int, int]:
    """Returns the number of targets from photos without colours, and the number of all targets."""
    gray, every = ledger.query(_GRAY).row(0)
    return int(gray), int(every)
