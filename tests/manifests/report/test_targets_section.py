"""Tests that the report shows what the targets are made of: enlargement, pixels outside the photo, and colours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import manifests.report.sections.targets_section as section
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import Face, Pair, Photo
from manifests.report.build_report import build_report
from tests.doubles.curation import curated_album, install, rows


def test_the_report_has_a_histogram_of_each_measure_of_the_targets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch)
    _, dataset = curated_album(tmp_path)
    targets = {pair.target: pair.split for pair in rows(dataset, Pair)}
    trained = min(face for face, split in targets.items() if split == "train")
    with Ledger.open(dataset, write=True) as ledger:
        usual = [replace(row, upsample=1.0, outside=0.0) for row in ledger.read_rows(Face)]
        poor = [replace(row, upsample=3.3, outside=0.25) if row.face_id == trained else row for row in usual]
        photo_id = next(row.photo_id for row in poor if row.face_id == trained)
        gray = [replace(row, gray=row.photo_id == photo_id) for row in ledger.read_rows(Photo)]
        ledger.record("double", "poor", {}, [*poor, *gray])
    drawn: dict[str, dict[str, dict[int, float]]] = {}
    draw = section.draw_histograms
    monkeypatch.setattr(
        section,
        "draw_histograms",
        lambda series, width, title: drawn.update({title: series}) or draw(series, width, title),
    )
    page = build_report(dataset).read_text(encoding="utf-8")
    enlargement, outside = (
        drawn["how many times the crop of 512 px is enlarged"],
        drawn["share of the crop outside the photo, %"],
    )
    counts = {split: sum(one == split for one in targets.values()) for split in targets.values()}
    others = counts | {"train": counts["train"] - 1}
    assert enlargement == {split: {4: count} | ({13: 1} if split == "train" else {}) for split, count in others.items()}
    assert outside == {split: {0: count} | ({12: 1} if split == "train" else {}) for split, count in others.items()}
    assert all(f'aria-label="{title}"' in page for title in drawn if drawn[title])
    with Ledger.open(dataset) as ledger:
        assert section.count_gray_targets(ledger) == (1, len(targets))
