"""Tests that the report is one file with all sections, and that a missing section is replaced by a sentence."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from curate.config import PairRules
from manifests.errors import BadInput, LedgerMissing
from manifests.ledger.decisions.applied_decisions import mark_decisions_applied
from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import crop_path
from manifests.ledger.records import (
    DecisionRow,
    Degradation,
    File,
    Identity,
    Label,
    Membership,
    Pair,
    Photo,
    Record,
    Split,
)
from manifests.report.build_report import build_report
from manifests.runtime.files import sha256_file
from manifests.runtime.uris import uri_of
from tests.doubles.training import dataset, face_of, recognizer_onnx

THETA = {
    "version": 1,
    "steps": [
        {"op": "blur", "kernel": "iso", "sigma_x": 3.14, "sigma_y": 3.14, "size": 41, "angle": 0.0},
        {"op": "downsample", "factor": 5.2, "interpolation": "bilinear"},
        {"op": "noise", "sigma": 8.0, "gray": False, "seed": 1},
        {"op": "jpeg", "quality": 72},
        {"op": "upsample", "interpolation": "bilinear"},
    ],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Makes a dataset of three people with four photos each, with dropped photos and faces.

    One person has four grouped faces. Another person has a single grouped face, which is dropped from its split.
    """
    made = dataset(tmp_path / "data<set", recognizer_onnx(tmp_path / "recognizer.onnx"), people=3)
    rows: list[object] = [
        File("file:///p/ok.jpg", "photo0-0", 1, 1, "ok"),
        File("file:///p/letter.jpg", None, 1, 1, "failed", "not_an_image"),
        Photo("photo0-0", 10, 10, "0" * 16),
        Photo("photo9", 10, 10, "0" * 16, status="dropped", reason="no_face"),
        *(Identity(f"person{n}") for n in range(3)),
        *(Membership(face_of(0, n).face_id, "person0", 0.9 - n / 10, 0.4 - n / 10) for n in range(4)),
        face_of(2, 4),
        Membership(face_of(2, 4).face_id, "person2", 1.0, 1.0),
        Split(face_of(2, 4).face_id, "person2", "val", "identity", False, "dropped", "photo_spans_splits"),
        Degradation("gfpgan-val-64-s0", face_of(2, 0).face_id, "gfpgan", 0, 64, json.dumps(THETA), "0"),
    ]
    lq = made / "lq" / "gfpgan-val-64-s0" / f"{face_of(2, 0).face_id}.png"
    lq.parent.mkdir(parents=True)
    shutil.copy(crop_path(made, face_of(2, 0).face_id), lq)
    detail = {"threshold": 0.3, "histogram": {"edges": [-1, 0, 0.5, 1], "within": [0, 1, 5], "between": [9, 2, 0]}}
    with Ledger.open(made, write=True) as ledger:
        ledger.record("group", "all", {}, rows, detail=detail)  # type: ignore[arg-type]
    return made


def test_labels_and_the_newest_decisions_are_shown_and_a_long_name_wraps(folder):
    assert "<h3>Decisions</h3>" not in build_report(folder).read_text(encoding="utf-8")
    faces = json.dumps({"faces": [{"photo": "a" * 64, "box": [0, 0, 1, 1]}]})
    acts = [DecisionRow(n, "lock", faces, datetime(2026, 1, 1)) for n in range(1, 25)]
    acts += [DecisionRow(25, "rename", faces, datetime(2026, 1, 1), name="<" + "x" * 254)]
    acts += [DecisionRow(26, "undo", "{}", datetime(2026, 1, 1), undoes=24)]
    with Ledger.open(folder, write=True) as ledger:
        ledger.record("settings", "all", {}, [*acts, Label("photo0-0", "Ann", False)], detail={"config": {}})
        mark_decisions_applied(ledger, 26)
    page = build_report(folder).read_text(encoding="utf-8")
    table = page[page.index("<h3>Decisions</h3>") :].partition("</table>")[0]
    assert table.count("<tr>") == 21 and f'<td class="wrap">rename &lt;{"x" * 254}</td>' in table
    assert "undone by 26" in table and "undo 24" in table and "td.wrap { overflow-wrap: anywhere" in page
    assert "The number of labelled photos is 1. The number of different labels is 1. The labels are hints" in page


def training_run(run: Path) -> Path:
    (run / "samples").mkdir(parents=True)
    (run / "config.json").write_text(json.dumps({"recipe": {"name": "tiny"}, "seed": 7}))
    lines = [{"kind": "train", "images": n, "pixel": 1 / n, "edge": 0.1, "identity": 0.5} for n in (320, 640)]
    lines += [{"kind": "val", "images": n, "psnr_lq": 20, "psnr_restored": 21 + n / 640} for n in (0, 640)]
    (run / "stats.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"kind": "tr')
    (run / "evaluation.json").write_text(json.dumps(a_result("psnr", "id_target")))
    return run


def a_result(*names: str) -> dict[str, Any]:
    """Returns a result of `likeness evaluate` with these metrics."""
    mean = {"mean": 21.5, "low": 21.25, "high": 21.75, "images": 4, "people": 1, "over": "images"}
    apart = {"mean": 1.5, "low": 1.25, "high": 1.75, "images": 4, "people": 1, "excludes_zero": False}
    told = {"unit": "dB", "better": "higher", "digits": 2, "source": "<somebody>", "without_a_figure": ""}
    return {
        "lq_set": "gfpgan-val-64-s0", "checkpoint": "checkpoint-640", "unseen_in_training": "checked",
        "images": 4, "images_in_set": 5, "people": 1, "without_wrong_references": 4,
        "left_out": {"4": 1}, "interval": "95% bootstrap",
        "judge": {"spec": "here/dlib", "sha256": "0", "is_the_datasets_own": False},
        "metrics": {
            name: {"title": f"Title of {name}", "convention": "as it is computed", **told} for name in (*names, "fid")
        },
        "not_measured": {"fid": "No weights."}, "unmeasured": [],
        "rows": [
            {"key": "4", "system": "restored", "images": 4, "unmeasured": 0, "fid": None} | dict.fromkeys(names, mean)
        ],
        "differences": [{"difference": "right - none", "keys": ["4", "0"], "images": 4, "people": 1,
                         **dict.fromkeys(names, apart | {"people_above": 1})}],
    }  # fmt: skip


def test_the_page_needs_nothing_but_itself(folder: Path) -> None:
    run = training_run(folder / "run")
    shutil.copy(crop_path(folder, face_of(0, 0).face_id), run / "samples" / "00000640.png")
    page = build_report(folder).read_text(encoding="utf-8")
    assert not re.search(
        r"""(src|href)=["'](?!data:|#|(people|suggestions|dropped).html)|url\(|@import|<script|<link""", page
    )
    assert page.count("data:image/jpeg;base64,") > 20
    assert "data&lt;set" in page and "data<set" not in page


def test_every_part_is_there(folder: Path) -> None:
    page = build_report(folder, [training_run(folder / "run")]).read_text(encoding="utf-8")
    for words in (
        "not an image",
        "no face was found",
        "the photo also shows a person of another split",
        "person0",
        "Least certain faces",
        "same person at 0.3 or more",
        "targets with references",
        "blur 3.1 · ÷5.2 · noise 8 · JPEG 72",
        "pixel loss",
        "PSNR on validation, dB",
        "recipe tiny",
        "gfpgan-val-64-s0: 4 images of 1 person, checkpoint-640",
        "Title of psnr, dB ↑",
        "21.50<small>[21.25, 21.75]",
        "right - none",
        "Identity is measured by dlib.",
        "Not measured: Title of fid. No weights.",
        "as it is computed (&lt;somebody&gt;)",
    ):
        assert words in page, words
    # three losses, and two curves of the validation: of the restored faces and of the LQ faces
    assert page.count("<polyline") == 5


def test_results_are_shown_whatever_was_measured_and_what_is_broken_is_named(folder: Path) -> None:
    run = training_run(folder / "first")
    (run / "evaluation.json").write_text(json.dumps(a_result("lmd")))
    (run / "counterfactuals-judge.json").write_text(json.dumps(a_result("takeover")))
    (run / "evaluation-judge.json").write_text('{"rows": []}')
    page = build_report(folder).read_text(encoding="utf-8")
    assert "Title of lmd" in page and "Title of takeover" in page and "Title of psnr" not in page
    assert (
        "The file evaluation-judge.json of the run first is broken, or another version of Likeness wrote the file"
        in page
    )


PICTURE = "data:image/webp;base64,AA"


def a_sheet(picture: str = PICTURE) -> dict[str, Any]:
    """Returns the content of a file that `likeness restore --page-data` writes."""
    face = {"photo": "<old>.jpg", "reason": "It was uncertain.", "lq": picture, "restored": PICTURE}
    face |= {"references": [PICTURE] * 2, "figures": [["NIQE", "9.1", "4.2"]]}
    told = {"restorer": "run", "photos": 3, "faces": [face], "undone": {"No face was found.": 2}}
    metric = {"title": "NIQE", "better": "lower", "convention": "luma", "source": "them"}
    return told | {"missing": {"MUSIQ": "It is not here."}, "metrics": [metric]}


def test_sheets_of_restored_photos_are_shown(folder: Path) -> None:
    run = training_run(folder / "run")
    assert "Restored photos" not in build_report(folder).read_text(encoding="utf-8")
    (run / "restored").mkdir()
    (run / "restored" / "grandma.json").write_text(json.dumps(a_sheet()))
    (run / "restored" / "fetched.json").write_text(json.dumps(a_sheet("https://example.org/a.png")))
    page = build_report(folder).read_text(encoding="utf-8")
    assert page.count(PICTURE) == 4 and "example.org" not in page
    for words in ("grandma", "1 face of 3 photos", "&lt;old&gt;.jpg", "NIQE 9.1 → 4.2", "It was uncertain.",
                  "Not restored: 2 photos. No face was found.", "Not measured: MUSIQ. It is not here.",
                  "fetched.json of the run run is broken"):  # fmt: skip
        assert words in page, words


def test_the_funnel_adds_up(folder: Path) -> None:
    page = build_report(folder).read_text(encoding="utf-8")
    steps = re.findall(r'<div class="step"><div><b>(\d+)</b>.*?</div></div></div>', page, re.DOTALL)
    reasons = re.findall(r'<div class="reasons">(.*?)</div>', page, re.DOTALL)
    sums = [sum(int(n) for n in re.findall(r"<b>(\d+)</b>", line)) for line in reasons]
    assert [int(total) for total in steps] == sums == [2, 13, 13, 13]


def test_balance_and_coverage_of_the_pairs(folder: Path) -> None:
    """Tests a dataset of three people with four photos each.

    Every target has three references, and each person has a third of all targets.
    """
    page = build_report(folder).read_text(encoding="utf-8")
    for words in (
        "The dataset has 12 targets of 3 people. "
        "The 3 people with the most targets together have 100.0% of all targets.",
        "people by number of photos",
        "yaw in degrees, left to right",
        "pitch in degrees, up to down",
        "cosine of target and reference",
        "how many times the crop of 512 px is enlarged",
        "sharpness at 128 px",
        " come from photos without colours.",
    ):
        assert words in page, words
    row = r"<tr><td>train</td>" + "".join(rf'<td class="n">{n} ?(<small>.*?</small>)?</td>' for n in (8, 8, 8, 0, 0, 3))
    assert re.search(row, page)


def test_who_has_too_few_photos_is_told_in_the_funnel(folder: Path) -> None:
    with Ledger.open(folder, write=True) as ledger:
        detail = {**asdict(PairRules(min_photos=6)), "left_out": {}}
        ledger.record("pair", "all", {}, replace=(Pair,), detail=detail)
    page = build_report(folder).read_text(encoding="utf-8")
    assert "fewer than 6 photos of that person" in page and "no reference pair yet" in page
    assert "cosine of target and reference" not in page


def test_a_test_face_that_is_only_a_reference_is_counted_in_the_funnel(folder: Path) -> None:
    with Ledger.open(folder, write=True) as ledger:
        row = next(row for row in ledger.read_rows(Split) if row.identity_id == "person0")
        pairs = [pair for pair in ledger.read_rows(Pair) if pair.target != row.face_id]
        ledger.record("pair", "all", {}, [replace(row, no_target="outside_photo"), *pairs], replace=(Pair,))
    page = build_report(folder).read_text(encoding="utf-8")
    assert "<b>1</b> face: a test face whose crop lies partly outside the photo" in page


def test_missing_parts_are_said_with_the_command_that_makes_them(tmp_path: Path) -> None:
    with Ledger.open(tmp_path, write=True):
        pass
    page = build_report(tmp_path).read_text(encoding="utf-8")
    for words in (
        "not grouped into people yet",
        "no reference pair yet",
        "likeness degrade",
        "likeness train",
        "likeness evaluate",
    ):
        assert words in page, words


def test_filters_are_shown_with_what_each_removed_and_a_few_of_its_faces(folder: Path, tmp_path: Path) -> None:
    assert 'id="filters"' not in build_report(folder).read_text(encoding="utf-8")
    Image.new("RGB", (200, 100), "red").save(tmp_path / "there.png")
    Image.new("RGB", (200, 100), "green").save(tmp_path / "changed.png")
    rows: list[Record] = []
    for name, photo_id in (("there", sha256_file(tmp_path / "there.png")), ("changed", "another"), ("gone", "gone")):
        rows.append(File(uri_of(tmp_path / f"{name}.png"), photo_id, 1, 1, "ok"))
        dropped = replace(face_of(0, 0), face_id=name, photo_id=photo_id, box=(150.0, 20.0, 250.0, 120.0), shard=None)
        rows.append(replace(dropped, status="dropped", reason="odd_<one>"))
    rule = {"reason": "odd_<one>", "sql": "yaw < 3 & 4", "first": 1234, "alone": 2345, "only": 345}
    detail = {"name": "mine", "version": 7, "faces": 9999, "kept": 8765, "filters": [rule]}
    detail["test_filters"] = [{"reason": "outside_photo", "sql": "outside > 0.25"}]
    with Ledger.open(folder, write=True) as ledger:
        ledger.record("screen", "all", {}, rows, detail=detail)
    page = build_report(folder).read_text(encoding="utf-8")
    section = page[page.index('id="filters"') : page.index('id="people"')]
    for words in (
        "<b>mine</b>, version 7",
        "9,999 faces and kept 8,765 faces",
        "odd &lt;one&gt;",
        "yaw &lt; 3 &amp; 4",
        "is used only as a reference, and not as a target, if one of these conditions is true: <code>outside "
        "&gt; 0.25</code>.",
        "345",
    ):
        assert words in section, words
    assert "1,234" in section and "2,345" in section and section.count("<img") == 1


def test_a_crop_that_is_gone_costs_no_page(folder: Path) -> None:
    shutil.rmtree(folder / "faces")
    assert build_report(folder).is_file()


def test_what_is_no_run_or_no_dataset_is_a_sentence(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="not a training run"):
        build_report(folder, [tmp_path])
    with pytest.raises(LedgerMissing):
        build_report(tmp_path)
    assert not (tmp_path / "report").exists()


def test_the_report_says_that_a_curation_did_not_finish(folder: Path) -> None:
    assert "did not finish" not in build_report(folder).read_text()
    with Ledger.open(folder, write=True) as ledger:
        ledger.record("curate", "all", {}, detail={"finished": False})
    assert "<b>The last <code>likeness curate</code> did not finish</b>" in build_report(folder).read_text()
