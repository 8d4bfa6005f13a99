"""What the reference pairs are like as a whole: who holds them, how many each target has, which poses they show."""

from __future__ import annotations

from typing import Any

from manifests.ledger.ledger import Ledger
from manifests.report.pictures import bars, outlines

TOP = 10  # people whose share of all targets is told
COUNTS = (1, 2, 4, 8)  # references a target has at least; training draws up to 4
DEGREES = 10  # width of a bin of yaw or pitch
COSINE = 0.05  # width of a bin of similarity


def coverage(ledger: Ledger) -> dict[str, Any]:
    """Figures and drawings for the page; `targets` is 0 and the rest empty where there is no pair.

    References count as training draws them: each target's share one draw.
    """
    shares = ledger.query(
        """SELECT count(*) AS n FROM pairs p JOIN splits s ON s.face_id = p.target
           WHERE len(p.refs) > 0 GROUP BY s.identity_id ORDER BY n DESC"""
    )["n"].to_list()
    splits = ledger.query(
        f"""SELECT split, count(*) AS targets, median(len(refs)) AS median,
                   {", ".join(f"count(*) FILTER (WHERE len(refs) >= {n}) AS at_least_{n}" for n in COUNTS)}
            FROM pairs WHERE len(refs) > 0 GROUP BY 1
            ORDER BY CASE split WHEN 'train' THEN 1 WHEN 'val' THEN 2 ELSE 3 END"""
    ).rows(named=True)
    total = sum(shares)
    return {
        "targets": total,
        "counts": COUNTS,
        "splits": splits,
        "people": len(shares),
        "top": min(TOP, len(shares)),
        "top_share": 100 * sum(shares[:TOP]) / max(total, 1),
        "policies": ledger.query("SELECT DISTINCT policy FROM pairs ORDER BY 1")["policy"].to_list(),
        "rules": ledger.read_detail("pair"),
        "drawn": [drawn for drawn in (_photos(ledger), *_poses(ledger), _similarities(ledger)) if drawn],
    }


def _photos(ledger: Ledger) -> str:
    """People by their number of photos: 1, 2, up to 4, up to 8, and so on."""
    people = dict(
        ledger.query(
            """SELECT CAST(ceil(log2(n)) AS INTEGER) AS bin, count(*) FROM (
                   SELECT count(DISTINCT f.photo_id) AS n FROM splits s JOIN faces f USING (face_id)
                   WHERE s.status = 'ok' GROUP BY s.identity_id)
               GROUP BY 1"""
        ).iter_rows()
    )
    if not people:
        return ""
    counts = [(str(1 << n), people.get(n, 0)) for n in range(max(people) + 1)]
    return bars(counts, "people by number of photos, up to")


def _poses(ledger: Ledger) -> list[str]:
    drawn = []
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
        drawn.append(outlines(series, DEGREES, f"{angle}, degrees, {ends[0]} to {ends[1]}"))
    return drawn


def _similarities(ledger: Ledger) -> str:
    found = ledger.query(
        f"""SELECT split, CAST(floor(cosine / {COSINE}) AS INTEGER) AS bin, sum(share) FROM (
                SELECT split, unnest(similarities) AS cosine, 1 / len(refs) AS share FROM pairs)
            GROUP BY ALL ORDER BY ALL"""
    )
    series: dict[str, dict[int, float]] = {}
    for split in ("train", "val", "test"):
        own = {bin: share for name, bin, share in found.iter_rows() if name == split}
        if own:
            series[split] = own
    return outlines(series, COSINE, "cosine of target and reference")
