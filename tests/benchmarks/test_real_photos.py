"""Tests the benchmark that measures a restorer on photos whose faces were not degraded by a program."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from tests.doubles import curation as doubles
from tests.places import REPOSITORY
from train.restore.decisions.outcomes import FaceOutcome, PhotoOutcome

sys.path.append(str(REPOSITORY / "benchmarks"))
import real_photos
from face_sheets import HEIGHT, WIDTH, draw_tile, write_sheets
from PIL import Image
from real_faces import MAX_FINENESS, NO_FACE, ROWS, Face, Figures, find_counted_faces
from real_photos import add_outcome, format_summary, measure_faces, summarise
from unsharp_mask import find_amount, sharpen_face

EMPTY = np.zeros((8, 8, 3), np.uint8)


def make_face(decision: str = "restored", sharpness: float = 1.2, agreement: float = 40.0) -> Face:
    face = Face("web", "a.png", EMPTY, decision=decision)
    if decision == "restored":
        values = zip(ROWS, (1, 1.4, 1.2, sharpness), (68, 35, 55, agreement), (0.5, 0.4, 0.6, 0.6), strict=True)
        face.rows = {row: Figures(ratio, psnr, cosine, None) for row, ratio, psnr, cosine in values}
        face.sharpness_in_log = 1.3
    return face


def test_the_goals_follow_from_the_faces() -> None:
    summary = summarise([make_face(), make_face(sharpness=0.9), make_face("less_sharp")])
    assert summary["decisions"]["total"] == {"restored": 2, "less_sharp": 1} and summary["share_restored"] == 0.667
    assert summary["table"]["restored"]["sharpness_ratio"]["least"] == 0.9
    goals = summary["goals"]
    assert goals["two_thirds_restored"] and not goals["every_face_sharp"] and goals["identity_not_below_input"]
    assert goals["beats_unsharp_mask_in_agreement"] and goals["beats_unsharp_mask_in_identity_to_input"] is None
    assert not goals["beats_faint_mask_in_agreement"] and not goals["beats_faint_mask_in_identity_to_references"]
    assert not summarise([make_face(agreement=30.0)])["goals"]["beats_unsharp_mask_in_agreement"]
    assert "2 of 3 restored; not restored: 1 less_sharp" in format_summary(summary)


def test_nothing_is_measured_if_every_face_was_kept() -> None:
    summary = summarise([make_face("disagrees"), Face("web", "b.png", EMPTY)])
    assert summary["decisions"]["web"] == {"disagrees": 1, NO_FACE: 1} and summary["table"]["restored"]
    assert summary["goals"]["every_face_sharp"] is None and "not measured" in format_summary(summary)


def test_a_sharp_face_does_not_count_and_the_written_photo_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, models = doubles.photo([0, 5], 0), doubles.models("double")
    path = doubles.save(tmp_path / "two.png", before)
    fineness = iter([MAX_FINENESS - 0.01, MAX_FINENESS])
    monkeypatch.setattr("real_faces.measure_fineness", lambda face: next(fineness))
    ((_, faces),) = find_counted_faces("web", [path], models, 64)
    face, sharp = faces
    assert face is not None and face.found is not None and face.measured is not None and sharp is None
    doubles.save(tmp_path / "out.png", sharpen_face(before, face.measured.crop, face.found.landmarks5, 1.0))
    box = tuple(map(float, face.found.box))
    restored, kept = FaceOutcome(box, None, True, "restored", ""), FaceOutcome(box, None, False, "less_sharp", "")
    add_outcome(faces, PhotoOutcome(str(path), str(tmp_path / "out.png"), "ok", None, (restored, kept)), {})
    assert face.decision == "restored" and face.after is not None
    # The "restored" face is the clean face after a faint mask of the amount 1, so the benchmark must find the amount 1.
    assert measure_faces([face], models) == pytest.approx(1.0, abs=0.05)
    assert face.rows["restored"].sharpness_ratio == pytest.approx(face.rows["faint_mask"].sharpness_ratio, rel=0.02)
    assert face.rows["restored"].sharpness_ratio > 1.1 and face.rows["lq_input"].identity_to_input > 0.999
    add_outcome(faces, PhotoOutcome(str(path), None, "failed", "why"), {})
    assert face.decision == "failed"


def test_the_amount_is_found_and_is_0_for_a_result_that_is_not_sharper() -> None:
    assert find_amount(lambda amount: 1 + amount / 2, 1.5) == pytest.approx(1, abs=0.01)
    assert find_amount(lambda amount: 1 + amount / 2, 0.8) == 0


def test_the_sheets_hold_every_tile_at_its_own_size(tmp_path: Path) -> None:
    tiles = [draw_tile([np.full((900, 700, 3), level, np.uint8)], f"{level}") for level in range(1, 8)]
    paths = write_sheets(tiles, tmp_path / "sheets", "faces")
    sheets = [np.asarray(Image.open(path)) for path in paths]
    assert len(paths) == 2 and all(sheet.shape[0] <= HEIGHT and sheet.shape[1] <= WIDTH for sheet in sheets)
    for level in range(1, 8):
        assert sum((sheet == level).all(2).sum() for sheet in sheets) >= 900 * 700


def test_a_missing_folder_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["real_photos.py", "--run", "run", "--data", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"lq_raw_real is not a folder: name the folder .* with --data\."):
        real_photos.main()
