"""Tests the evaluation on a frozen set of the doubles: what is measured, what is stored and what is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import manifests.pictures.untrusted_images
import train.evaluation.evaluator
import train.evaluation.systems.restore_case
from degrade.frozen.dataset_sets import make_set
from degrade.operations.pixels import shrink
from manifests.errors import BadInput, LedgerBroken
from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import LEDGER_NAME, crop_path
from manifests.ledger.records import Model
from manifests.pictures.images import decode
from manifests.privacy.run_cleanup import remove_faces_from_runs
from manifests.report.result_notices import make_notices
from manifests.report.result_tables import make_difference_rows
from tests.doubles import curation as doubles
from tests.doubles.frechet import frechet_distance
from tests.doubles.models.restorers import SIZE, Copying, use_in_evaluation
from tests.doubles.models.weights import random_alexnet
from tests.doubles.training_snapshots import write_snapshot
from train.benchmark.draw_references import _draw_wrong
from train.evaluation.cli import evaluate as command
from train.evaluation.cli import name_folders, print_evaluation
from train.evaluation.counterfactuals import counterfactuals, draw_metric_curve
from train.evaluation.evaluate import compare, evaluate
from train.evaluation.options import EvaluationOptions
from train.evaluation.presentation.html_page import render_page
from train.evaluation.presentation.text_tables import render_latex, render_markdown
from train.evaluation.results.aggregate import describe_interval
from train.evaluation.results.result_images import PageImages
from train.evaluation.sets.cases import read_frozen_set
from train.evaluation.statistics.measure_folder import write_folder_statistics
from train.evaluation.systems.system import list_counterfactual_differences
from train.metrics.fid import inception
from train.models.io import Restoration
from train.models.restorer import Restorer

INPUT = "LQ input"
CROWD = f"codeformer-train-{SIZE}-s0"
TWO = EvaluationOptions(references=2, metrics=("psnr", "ssim", "id_target", "id_references"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Makes a dataset of twelve people with a frozen test set."""
    root = tmp_path_factory.mktemp("evaluate")
    _, dataset = doubles.curated_album(root, people=12, each=4)
    make_set(dataset, "codeformer", "test", 0, SIZE, workers=1)
    return dataset


@pytest.fixture(scope="module")
def crowd(made: Path) -> Path:
    """Makes a copy of the dataset with a frozen set of the split train. This split has several people."""
    shutil.copytree(made, made.parent / "crowd")
    make_set(made.parent / "crowd", "codeformer", "train", 0, SIZE, workers=1)
    return made.parent / "crowd"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_in_evaluation(monkeypatch, Copying("maps"))
    return tmp_path


def test_a_model_that_copies_its_references_scores_as_one(made: Path, run: Path) -> None:
    result = evaluate(run, made, options=TWO)
    rows = {row["system"]: row for row in result["rows"]}
    # The set shows only one person, so there is no row with references of another person.
    assert list(rows) == [INPUT, "restored, no reference", "restored"]
    assert result["images"] == rows["restored"]["images"] > 0 and result["people"] >= 1
    # Without references, the restorer returns its input.
    for metric in ("psnr", "ssim", "id_target", "id_references"):
        assert rows["restored, no reference"][metric]["mean"] == pytest.approx(rows[INPUT][metric]["mean"])
        for row in rows.values():
            assert row[metric]["low"] <= row[metric]["mean"] <= row[metric]["high"]
    # The restored face is the mean of its references, so it is more similar to them than to the target.
    assert rows["restored"]["id_references"]["mean"] >= rows["restored"]["id_target"]["mean"] - 1e-3
    assert json.loads((run / result["file"]).read_text()) == json.loads(json.dumps(result))
    assert result["judge"]["is_the_datasets_own"] is True


def test_references_are_warped_to_the_lq_input_where_the_recipe_says_so(
    made: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, landmarks = Restorer.from_pretrained(run), np.arange(10, dtype=np.float32).reshape(5, 2)
    model.config = replace(model.config, parts=("maps", "warped"))
    module = ModuleType("train.data.warp")
    module.warp_to = lambda image, own, to: np.full_like(image, int((to == landmarks).all()))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "train.data.warp", module)
    monkeypatch.setattr(train.evaluation.systems.restore_case, "find_landmarks", lambda crop, models: landmarks)
    seen: list[torch.Tensor] = []
    watched = model.forward
    monkeypatch.setattr(model, "forward", lambda *told: seen.append(told[1]) or watched(*told))
    evaluate(run, made, options=TWO)
    assert seen and all(bool((references == 1 / 255).all()) for references in seen if references.shape[1])


def test_every_image_and_system_has_a_row_and_the_same_call_gives_the_same_figures(made: Path, run: Path) -> None:
    first = evaluate(run, made, options=TWO)
    table = pq.read_table(next(run.glob("evaluation-*.parquet"))).to_pylist()
    assert len(table) == 3 * first["images"]
    assert {row["references"] for row in table if row["system"] == "restored"} <= {1, 2}
    (run / first["file"]).unlink()
    assert evaluate(run, made, options=TWO) == first
    means = {row["psnr"]["mean"] for row in evaluate(run, made, options=replace(TWO, references=1))["rows"]}
    assert means != {row["psnr"]["mean"] for row in first["rows"]}


def test_another_judge_is_named_and_kept_apart(made: Path, run: Path) -> None:
    result = evaluate(run, made, options=replace(TWO, judge="other"))
    assert result["judge"]["is_the_datasets_own"] is False
    assert [path.name for path in run.glob("evaluation-*.json")] == [result["file"]]
    assert result["file"].endswith("-judge.json")


def test_wrong_references_are_of_another_person_of_the_set_and_do_not_help(crowd: Path, run: Path) -> None:
    result = evaluate(run, crowd, CROWD, replace(TWO, counts=(0, 1, 2)))
    assert [row["key"] for row in result["rows"]] == ["lq", "0", "1", "2", "wrong2"]
    table = pq.read_table(next(run.glob("evaluation-*.parquet"))).to_pylist()
    people = {row["identity_id"] for row in table}
    for row in table:
        assert row["shown_identity_id"] in people
        assert (row["shown_identity_id"] != row["identity_id"]) == (row["key"] == "wrong2" and not row["left_out"])
    counts = {(row["face_id"], row["key"]): row["references"] for row in table}
    assert all(counts[face, "wrong2"] == counts[face, "2"] for face, key in counts if key == "lq")
    by_name = {line["difference"]: line for line in result["differences"]}
    assert list(by_name) == ["right - none", "right - wrong", "wrong - none", "none - LQ"]
    # The restorer returns the mean of its references, so wrong references give a lower PSNR.
    means = {row["key"]: row["psnr"]["mean"] for row in result["rows"]}
    assert by_name["right - wrong"]["psnr"]["mean"] == pytest.approx(means["2"] - means["wrong2"])
    assert by_name["right - wrong"]["psnr"]["mean"] > 0
    assert by_name["none - LQ"]["psnr"]["mean"] == 0 and not by_name["none - LQ"]["psnr"]["excludes_zero"]


def test_wrong_references_do_not_change_with_people_who_do_not_win_the_draw() -> None:
    pool = {person: [(f"{person}{photo}", f"photo {person}{photo}") for photo in range(4)] for person in "abcdef"}
    chosen, faces = _draw_wrong(pool, "a", "photo a0", 2, "a0", 0)
    assert chosen in set("bcdef") and len(faces) == 2 and all(face.startswith(str(chosen)) for face in faces)
    (lost, *_) = set("bcdef") - {chosen}
    assert _draw_wrong({p: f for p, f in pool.items() if p != lost}, "a", "photo a0", 2, "a0", 0) == (chosen, faces)
    assert len({_draw_wrong(pool, "a", "photo a0", 2, f"a{n}", 0)[0] for n in range(40)}) == 5, "one stranger for all"
    # No other person has five photos, so there are no wrong references. A photo that also shows the target is never
    # used as a reference.
    assert _draw_wrong(pool, "a", "photo a0", 5, "a0", 0) == (None, [])
    both = {"a": pool["a"], "b": [("b0", "photo a0"), ("b1", "photo b1")]}
    assert _draw_wrong(both, "a", "photo a0", 1, "a0", 0) == ("b", ["b1"])


def test_one_person_alone_has_no_wrong_references_and_the_caption_says_so(
    made: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = evaluate(run, made, options=TWO)
    assert result["people"] == 1 and result["without_wrong_references"] == result["images"]
    assert [line["difference"] for line in result["differences"]] == ["right - none", "none - LQ"]
    print_evaluation(result, False)
    said = " ".join(capsys.readouterr().out.split())
    assert "There is no row with wrong references, because only one person is in the set" in said
    assert "the intervals say nothing about other people" in said and "about one figure in twenty is marked" in said


def test_intervals_over_few_people_say_so() -> None:
    few = describe_interval(list("abcde"))
    assert "over 5 people. With only 5 people" in few and "85%" in few
    many = describe_interval([str(i) for i in range(40)])
    assert many == "Intervals are 95% percentile bootstraps over 40 people"
    assert "over 40 images. There are only 2 people" in describe_interval(list("ab") * 20)
    assert "over 2 images. With only 2 images" in describe_interval(list("ab"))
    assert describe_interval(["a"]) == "There is only one image, so the intervals have no meaning"


def test_what_cannot_be_measured_is_one_sentence(made: Path, run: Path) -> None:
    with pytest.raises(BadInput, match="no frozen set nothing"):
        evaluate(run, made, lq_set="nothing")
    with pytest.raises(BadInput, match="--max-references 0 is too small"):
        evaluate(run, made, options=EvaluationOptions(references=0))
    with Ledger.open(made) as ledger:
        (name,) = ledger.query("SELECT DISTINCT lq_set FROM degradations")["lq_set"]
    Restorer.from_pretrained(run).config.__dict__["size"] = 2 * SIZE
    with pytest.raises(BadInput, match=f"images of {SIZE} px"):
        evaluate(run, made, lq_set=name)
    with pytest.raises(BadInput, match=f"likeness degrade {made}"):
        evaluate(run, made)


def test_references_are_drawn_from_all_photos_of_the_person_not_from_the_nearest(made: Path) -> None:
    frozen = read_frozen_set(made, SIZE, None, 3, seed=0)
    others = read_frozen_set(made, SIZE, None, 3, seed=1)
    assert frozen.images >= len(frozen.cases) > 0
    with Ledger.open(made) as ledger:
        nearest = dict(ledger.query("SELECT target, refs FROM pairs").iter_rows())
        crops = {face: frozen_crop(made, face) for refs in nearest.values() for face in refs}
    drawn = []
    for case in frozen.cases:
        names = [face for picture in case.references for face, crop in crops.items() if (crop == picture).all()]
        assert case.face_id not in names and set(names) <= set(nearest[case.face_id])
        drawn.append(names != list(nearest[case.face_id][:3]))
    assert any(drawn), "always the nearest first"
    pairs = list(zip(frozen.cases, others.cases, strict=True))
    assert any(not (a.references[0] == b.references[0]).all() for a, b in pairs), "the draw does not depend on the seed"


def frozen_crop(dataset: Path, face: str) -> np.ndarray:
    return shrink(decode(crop_path(dataset, face)), SIZE)


def test_a_run_that_has_seen_all_people_is_refused(made: Path, run: Path) -> None:
    case = read_frozen_set(made, SIZE, None, 1, seed=0).cases[0]
    with Ledger.open(made) as ledger:
        kin = ledger.query(
            "SELECT face_id FROM splits WHERE identity_id = ? AND face_id <> ?", case.identity_id, case.face_id
        )["face_id"][0]
    write_snapshot(run, made, {kin: "train"}, SIZE)
    with pytest.raises(BadInput, match=r"was trained on 1 person of the set .* Give --leave-out-seen"):
        evaluate(run, made)
    with pytest.raises(BadInput, match="No image is left to measure"):
        evaluate(run, made, options=replace(TWO, leave_out_seen=True))
    write_snapshot(run, made, {kin: "test"}, SIZE)
    result = evaluate(run, made, options=TWO)
    assert result["training_overlap"]["checked"] and not result["training_overlap"]["seen"]
    assert "No face of the set was found in the training." in " ".join(make_notices(result))


def test_people_that_a_run_has_seen_are_left_out_of_all_means(crowd: Path, run: Path, tmp_path: Path) -> None:
    cases = read_frozen_set(crowd, SIZE, CROWD, 2, seed=0).cases
    write_snapshot(run, crowd, {cases[0].face_id: "train"}, SIZE)
    seen = {case.face_id for case in cases if case.identity_id == cases[0].identity_id}
    options, page = replace(TWO, metrics=("psnr",), leave_out_seen=True), PageImages()
    result = evaluate(run, crowd, CROWD, options, page_images=page)
    table = pq.read_table(next(run.glob("evaluation-*.parquet"))).to_pylist()
    assert {row["face_id"] for row in table} == {case.face_id for case in cases} - seen
    assert result["images"] == len(cases) - len(seen)
    assert result["images_left_out"] == {"seen_in_training": len(seen), "not_in_every_folder": 0}
    assert set(result["training_overlap"]["seen_targets"]) == seen
    notices = " ".join(make_notices(result))
    assert (
        f"The people of {len(seen)} images of the set are in the training" in notices and "no reference" not in notices
    )
    html = render_page(result, page, 2)
    assert "How faces were compared with the training" in html and "other photos must" not in html
    # In a comparison, no system is measured on these images, and files for them are not reported as unknown.
    (tmp_path / "other").mkdir()
    for case in cases:
        cv2.imwrite(str(tmp_path / "other" / f"{case.face_id}.png"), case.target[:, :, ::-1])
    both = compare([run], [tmp_path / "other"], crowd, tmp_path / "out", CROWD, options)
    assert {row["images"] for row in both["rows"]} == {result["images"]} and both["extra"] == {"other": []}


def test_an_image_that_is_no_longer_the_frozen_one_is_refused(made: Path, run: Path) -> None:
    case = read_frozen_set(made, SIZE, None, 1, seed=0).cases[0]
    (path,) = (made / "lq").glob(f"*/{case.face_id}.png")
    whole = path.read_bytes()
    try:
        path.write_bytes(whole + b"x")
        with pytest.raises(LedgerBroken, match="manifest check"):
            evaluate(run, made)
    finally:
        path.write_bytes(whole)


def folder_of(made: Path, folder: Path, restore: Callable[[np.ndarray], np.ndarray]) -> tuple[Path, list[str]]:
    """Writes `restore(target)` for each image of the test set, as if another system had restored the image."""
    folder.mkdir()
    cases = read_frozen_set(made, SIZE, None, 2, seed=0).cases
    for case in cases:
        cv2.imwrite(str(folder / f"{case.face_id}.png"), restore(case.target)[:, :, ::-1])
    return folder, [case.face_id for case in cases]


def test_anybodys_outputs_are_measured_beside_a_run_on_the_images_that_all_have(
    made: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    perfect, faces = folder_of(made, tmp_path / "perfect", lambda image: image)
    broken, _ = folder_of(made, tmp_path / "broken", lambda image: image)
    (broken / f"{faces[0]}.png").unlink()
    (broken / f"{faces[1]}.png").write_bytes(b"no picture")
    shutil.copyfile(broken / f"{faces[2]}.png", broken / "somebody.png")
    folders, options = {"theirs": perfect, "broken": broken}, replace(TWO, partial=True)
    result = compare([run], folders, made, tmp_path / "out", options=options)
    rows = {row["key"]: row for row in result["rows"]}
    assert list(rows) == ["lq", f"{run.name}/0", f"{run.name}/2", "theirs", "broken"]
    assert rows["theirs"]["psnr"]["mean"] == 100 and rows["theirs"]["id_target"]["mean"] == pytest.approx(1)
    # All means are over the same images, and the notices give the number of the other images.
    common = len(faces) - 2
    assert {row["psnr"]["images"] for row in rows.values()} == {common} == {row["images"] for row in rows.values()}
    assert result["images_left_out"] == {"seen_in_training": 0, "not_in_every_folder": 2}
    assert result["extra"] == {"theirs": [], "broken": ["somebody.png"]}
    apart = {line["difference"]: line for line in result["differences"]}
    first = f"{run.name}/2"
    assert apart[f"theirs - {first}"]["psnr"]["mean"] == pytest.approx(100 - rows[first]["psnr"]["mean"])
    assert apart[f"broken - {first}"]["psnr"]["images"] == common
    table = pq.read_table(next((tmp_path / "out").glob("comparison-*.parquet"))).to_pylist()
    assert len(table) == 5 * common and json.loads((tmp_path / "out" / result["file"]).read_text())["rows"]
    print_evaluation(result, False)
    said = " ".join(capsys.readouterr().out.split())
    assert "not every folder has the image: 2 images of the set" in said and "somebody.png" in said
    assert "Wrong references are missing for 1 image" in " ".join(
        make_notices(result | {"without_wrong_references": 1})
    )


def test_folders_that_do_not_fit_the_set_are_refused_before_anything_is_measured(
    made: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("measure_systems", "measure_input", "measure_file"):
        monkeypatch.setattr(train.evaluation.evaluator, name, lambda *_: pytest.fail("measured"))
    folder, faces = folder_of(made, tmp_path / "folder", lambda image: image)
    whole = (folder / f"{faces[1]}.png").read_bytes()
    for change, message in (
        (lambda path: path.unlink(), f"has {len(faces) - 1} of {len(faces)} images of the set: the file of image"),
        (lambda path: path.write_bytes(b"no picture"), "cannot be read as a picture"),
    ):
        change(folder / f"{faces[1]}.png")
        with pytest.raises(BadInput, match=rf"{message}.*give --partial"):
            compare([], [folder], made, tmp_path / "out", options=TWO)
        (folder / f"{faces[1]}.png").write_bytes(whole)
    # a file of the wrong size is refused with --partial too
    cv2.imwrite(str(folder / f"{faces[-1]}.png"), np.zeros((SIZE * 2, SIZE * 3, 3), np.uint8))
    for partial in (False, True):
        with pytest.raises(
            BadInput, match=f"has {SIZE * 3} x {SIZE * 2} pixels, but the images of the set have {SIZE}"
        ):
            compare([], [folder], made, tmp_path / "out", options=replace(TWO, partial=partial))
    one, other = tmp_path / "one", tmp_path / "other"
    for place, face in ((one, faces[0]), (other, faces[1])):
        place.mkdir()
        (place / f"{face}.png").write_bytes(whole)
    with pytest.raises(BadInput, match="No image is in all folders"):
        compare([], [one, other], made, tmp_path / "out", options=replace(TWO, partial=True))


def test_a_folder_can_have_a_name_of_its_own(made: Path, tmp_path: Path) -> None:
    (tmp_path / "a=b").mkdir()
    assert name_folders(["x=here/out", "there/out", str(tmp_path / "a=b")]) == {
        "x": Path("here/out"), "out": Path("there/out"), "a=b": tmp_path / "a=b",
    }  # fmt: skip
    for arguments, message in (
        (["x=a", "x=b"], "have the name x"),
        (["a/b=c"], "NAME has no slash and is not lq"),
        (["=c"], "cannot use the name ''"),
        (["there/lq"], "cannot use the name 'lq'"),
    ):
        with pytest.raises(BadInput, match=message):
            name_folders(arguments)


@pytest.mark.filterwarnings("ignore")
def test_an_image_whose_pixels_are_no_numbers_is_refused_and_not_measured_as_black(
    made: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, faces = folder_of(made, tmp_path / "floats", lambda image: image)
    # The images must be decoded in another process.
    monkeypatch.setattr(manifests.pictures.untrusted_images, "_decode", lambda *_: pytest.fail("decoded here"))
    for number, value in enumerate((np.nan, np.inf, 0.5)):
        pixels = np.full((SIZE, SIZE), 0.25, np.float32)
        pixels[3, 4] = value
        (folder / f"{faces[number]}.png").unlink()
        Image.fromarray(pixels).save(folder / f"{faces[number]}.tiff")
    with pytest.raises(
        BadInput, match=r"cannot be read as a picture: it contains NaN or infinity\. Complete the folder"
    ):
        compare([], [folder], made, tmp_path / "out", options=TWO)
    result = compare([], [folder], made, tmp_path / "out", options=replace(TWO, partial=True))
    assert result["rows"][1]["psnr"]["images"] == len(faces) - 2 == result["images"]


def test_the_input_the_target_a_blurred_target_and_a_pasted_reference_are_told_apart(
    made: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tests `evaluate` with four folders of images, as if other systems had restored them."""
    cases = read_frozen_set(made, SIZE, None, 2, seed=0).cases
    answers = {
        "target": lambda case: case.target,
        "blurred": lambda case: cv2.GaussianBlur(case.target, (0, 0), 2),
        "input": lambda case: case.lq,
        "pasted": lambda case: case.references[0],
    }
    for name, answer in answers.items():
        (tmp_path / name).mkdir()
        for case in cases:
            cv2.imwrite(str(tmp_path / name / f"{case.face_id}.png"), answer(case)[:, :, ::-1])
    metrics = "psnr,ssim,ms_ssim,id_target,id_references,deg_judge,copy_ratio"
    folders = [tmp_path / name for name in answers]
    command(made, None, list(map(str, folders)), max_references=1, metrics=metrics, out=tmp_path / "out", as_json=True)
    mean = {
        row["key"]: {name: row[name]["mean"] for name in metrics.split(",")}
        for row in json.loads(capsys.readouterr().out)["rows"]
    }
    assert mean["lq"] == mean["input"]
    for name in ("psnr", "ssim", "ms_ssim"):
        assert mean["target"][name] > mean["blurred"][name] > mean["pasted"][name], (name, mean)
        assert mean["target"][name] > mean["input"][name], (name, mean)
    for name, turn in (("id_target", 1), ("deg_judge", -1)):
        best = max(mean, key=lambda system: turn * mean[system][name])
        assert best == "target" and turn * mean["pasted"][name] < turn * mean["blurred"][name], (name, mean)
    assert max(mean, key=lambda system: mean[system]["id_references"]) == "pasted"
    assert mean["pasted"]["copy_ratio"] == pytest.approx(1, abs=1e-6) and mean["target"]["copy_ratio"] == 0


def test_a_dataset_of_another_recognizer_is_refused(made: Path, run: Path) -> None:
    shutil.copytree(made, run / "other")
    with Ledger.open(run / "other", write=True) as ledger:
        (model,) = ledger.query("SELECT * FROM models WHERE role = 'recognizer'").rows(named=True)
        told = {key: model[key] for key in ("role", "file", "spec", "licence", "dim")}
        ledger.record("test", "all", {}, [Model(sha256="0" * 64, **told)])
    with pytest.raises(BadInput, match=r"curated with a different recognizer.*--faces"):
        evaluate(run, run / "other", options=TWO)


def test_a_folder_alone_is_measured_by_the_datasets_own_recognizer(made: Path, run: Path, tmp_path: Path) -> None:
    perfect, faces = folder_of(made, tmp_path / "perfect", lambda image: image)
    result = compare([], [perfect], made, tmp_path / "out", options=TWO)
    assert [row["key"] for row in result["rows"]] == ["lq", "perfect"] and result["images"] == len(faces)
    (tmp_path / "others").mkdir()
    shutil.copyfile(perfect / f"{faces[0]}.png", tmp_path / "others" / "me.png")
    with pytest.raises(BadInput, match="has the name of an image of the frozen set"):
        compare([], [tmp_path / "others"], made, tmp_path / "out", options=TWO)
    with pytest.raises(BadInput, match="Two of the compared folders have the name perfect"):
        compare([], [perfect, perfect], made, tmp_path / "out", options=TWO)


def test_a_restorer_that_gives_no_numbers_is_counted(made: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Restorer.from_pretrained(run)

    def restore_nothing(lq: torch.Tensor, *_: object, **__: object) -> Restoration:
        return Restoration(torch.full_like(lq, torch.nan), torch.zeros(1), None)

    monkeypatch.setattr(model, "forward", restore_nothing)
    rows = {row["key"]: row for row in evaluate(run, made, options=TWO)["rows"]}
    assert rows["2"]["unmeasured"] == rows["2"]["images"] and rows["2"]["psnr"] is None
    assert rows["lq"]["unmeasured"] == 0


def test_a_metric_that_cannot_be_had_is_a_sentence_and_the_rest_is_computed(made: Path, run: Path) -> None:
    result = evaluate(run, made, options=replace(TWO, metrics=("psnr", "fid", "fid_folder", "deg_published")))
    assert set(result["not_measured"]) == {"fid", "fid_folder", "deg_published"}
    assert list(result["metrics"]) == ["psnr", "fid", "fid_folder", "deg_published"]
    assert all(line["fid"] is None and line["psnr"] for line in result["rows"])
    told, paper = render_markdown(result), render_latex(result)
    assert (
        "| FID ↓ |" in told
        and "Not measured: FID." in told
        and "| – |" in told
        and "& FID" in paper
        and "& -- &" in paper
    )
    with pytest.raises(BadInput, match="There is no metric 'nothing'"):
        evaluate(run, made, options=replace(TWO, metrics=("nothing",)))


def test_the_tables_and_the_page_say_what_the_result_says(made: Path, run: Path) -> None:
    seen = PageImages()
    result = evaluate(run, made, options=replace(TWO, metrics=("psnr", "id_target", "fid")), page_images=seen)
    told, paper = render_markdown(result), render_latex(result)
    mean = f"{result['rows'][0]['psnr']['mean']:.2f}"
    for text in (told, paper):
        assert mean in text and "PSNR" in text and "over RGB in 8 bits" in text and "Not measured: FID." in text
    assert "\\toprule" in paper and "\\textbf{" in paper and paper.count("\\begin{tabular}") == 2
    assert told.count("|---|") == 2
    html = render_page(result, seen, 2)
    assert html.count("<article") == 2 and "2 of " in html and 'src="http' not in html and mean in html
    tree = HTMLParser()
    tree.feed(html)
    # The page shows the worst images first, and contains every picture.
    worst = min((row for row in seen.rows if row["key"] == "2"), key=lambda row: (row["id_target"], row["face_id"]))
    assert html.index(f'data-face="{worst["face_id"]}"') < html.rindex("<article")
    assert html.count("data:image/webp;base64,") >= 2 * 4


def test_restored_images_are_written_beside_the_result_and_belong_to_it(made: Path, run: Path) -> None:
    options, page = replace(TWO, metrics=("psnr",)), PageImages()
    result = evaluate(run, made, options=options, page_images=page, with_images=True)
    assert set(result["image_folders"]) == {"0", "2"} and result == json.loads((run / result["file"]).read_text())
    for (face, key), image in page.restored.items():
        if key != "lq":
            assert (decode(run / result["image_folders"][key] / f"{face}.png") == image).all()
    # A comparison with the written images gives the same figures, and writes the same images again.
    folder = run / result["image_folders"]["2"]
    other = compare([], [folder], made, run / "out", options=options, with_images=True)
    assert other["rows"][1]["psnr"] == next(row for row in result["rows"] if row["key"] == "2")["psnr"]
    copies = run / "out" / other["image_folders"][folder.name]
    assert [path.read_bytes() for path in sorted(copies.iterdir())] == [
        path.read_bytes() for path in sorted(folder.iterdir())
    ]
    # All images are removed, because the erased face may have been a reference of any image. A later evaluation that
    # writes no images removes the empty folders.
    images = [*run.rglob("*-images/*/*.png")]
    assert remove_faces_from_runs([run], ["0" * 32])["restored images"] == len(images) > 3
    assert not any(path.exists() for path in images)
    assert "image_folders" not in evaluate(run, made, options=options) and not folder.exists()


def test_a_name_for_a_paper_is_escaped() -> None:
    result = {
        "lq_set": "s", "images": 1, "people": 1, "images_in_set": 1, "without_wrong_references": 0, "left_out": {},
        "interval": "none",
        "judge": {"spec": "j", "is_the_datasets_own": False}, "unmeasured": [], "not_measured": {}, "differences": [],
        "metrics": {"psnr": {"title": "50% & more_", "unit": "", "better": "higher", "digits": 1, "convention": "c",
                             "source": "s", "without_a_figure": ""}},
        "rows": [{"key": "a", "system": "a_b", "images": 1, "unmeasured": 0, "psnr": None}],
    }  # fmt: skip
    assert r"50\% \& more\_" in render_latex(result) and r"a\_b & -- \\" in render_latex(result)
    # the minus of a number becomes $-$; a hyphen and the dash of a range do not
    row = {
        "key": "b",
        "system": "x-1, 2.0–3.0",
        "images": 1,
        "unmeasured": 0,
        "psnr": {"mean": -1, "low": -2, "high": 0, "images": 1},
    }
    found = render_latex(result | {"rows": [row]})
    assert "x-1, 2.0--3.0 & $-$1.0 [$-$2.0, 0.0]" in found


class Colours(torch.nn.Module):
    """Computes four features (B, 4) of pictures, uint8 (B, 3, S, S), instead of FID's network."""

    num_features = 4

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        floats = images.double() / 255
        return torch.cat([floats.mean((2, 3)), floats.diff(dim=3).abs().mean((1, 2, 3))[:, None]], 1)


def test_figures_of_a_whole_set_are_against_the_targets_or_the_named_folder(
    made: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inception, "explain_missing", lambda weights: None)
    monkeypatch.setattr(inception, "load_inception", lambda *_: Colours())
    same, faces = folder_of(made, tmp_path / "same", lambda image: image)
    soft, _ = folder_of(made, tmp_path / "soft", lambda image: cv2.GaussianBlur(image, (0, 0), 2))
    options = replace(TWO, metrics=("fid", "fid_folder", "psnr"), fid_folder=soft)
    result = compare([], [same, soft], made, tmp_path / "out", options=options)
    rows = {row["key"]: row for row in result["rows"]}
    assert rows["same"]["fid"]["mean"] < 1e-5 < rows["soft"]["fid"]["mean"]
    assert rows["soft"]["fid_folder"]["mean"] < 1e-5 < rows["same"]["fid_folder"]["mean"]
    assert rows["soft"]["fid"]["mean"] == pytest.approx(rows["same"]["fid_folder"]["mean"], abs=1e-5)
    assert rows["same"]["fid"]["images"] == len(faces) and "low" not in rows["same"]["fid"]
    assert "FID ↓" in render_markdown(result) and all("fid" not in line for line in result["differences"])
    assert "by the convention torch-fidelity" in result["metrics"]["fid"]["convention"]
    # FID has no value for each image, so the page cannot sort the images.
    pictures = PageImages()
    result = compare(
        [],
        [soft],
        made,
        tmp_path / "out",
        None,
        replace(options, metrics=("fid",), fid_folder=None),
        page_images=pictures,
    )
    page = render_page(result, pictures, 1)
    assert "Sorted by" not in page and f"1 of {len(faces)} images." in page and result["rows"][-1]["fid"]["mean"] > 0


def test_fid_against_statistics_is_fid_against_their_images(
    made: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inception, "explain_missing", lambda weights: None)
    monkeypatch.setattr(inception, "load_inception", lambda *_: Colours())
    monkeypatch.setattr(inception, "find_inception", lambda weights: made / LEDGER_NAME)
    monkeypatch.setattr(inception, "FEATURES", Colours.num_features)
    same, _ = folder_of(made, tmp_path / "same", lambda image: image)
    soft, faces = folder_of(made, tmp_path / "soft", lambda image: image[..., :1].repeat(3, 2))
    file = tmp_path / "soft.npz"
    measured = write_folder_statistics(soft, file, "clean-fid", None)
    assert measured["images"] == measured["gray_images"] == len(faces)
    options = replace(TWO, metrics=("fid", "fid_statistics"), fid_statistics=file)
    result = compare([], [same], made, tmp_path / "out", options=options)
    row = result["rows"][-1]
    targets = [cv2.imread(str(path))[..., ::-1] for path in same.iterdir()]
    expected = frechet_distance(targets, [image[..., :1].repeat(3, 2) for image in targets], Colours())
    assert row["fid_statistics"]["mean"] == pytest.approx(expected, abs=1e-9) and row["fid"]["mean"] < 1e-5 < expected
    assert row["fid_statistics"]["against"]["images"] == len(faces)
    for name in ("fid", "fid_statistics"):  # all FIDs of a table have one convention
        assert "by the convention clean-fid" in result["metrics"][name]["convention"]
    for changes, said in (
        ({"fid_convention": "pytorch-fid"}, "has the convention clean-fid, not pytorch-fid"),
        ({"metrics": ("psnr", "fid")}, "Add fid_statistics to --metrics"),
        ({"fid_statistics": None, "fid_convention": "tf"}, "There is no FID convention 'tf'"),
        (
            {"metrics": ("psnr",), "fid_statistics": None, "fid_convention": "clean-fid"},
            "nothing reads --fid-convention",
        ),
        ({"metrics": ("fid_folder",), "fid_statistics": None, "fid_folder": file}, "is not a folder"),
    ):
        with pytest.raises(BadInput, match=said):
            compare([], [same], made, tmp_path / "out", options=replace(options, **changes))
    monkeypatch.setattr(inception, "FEATURES", 2048)
    with pytest.raises(BadInput, match="statistics of 4 features, so another network made it"):
        compare([], [same], made, tmp_path / "out", options=options)


def test_psnr_leaves_out_a_border_and_says_so(made: Path, run: Path, tmp_path: Path) -> None:
    def paint_border(image: np.ndarray) -> np.ndarray:
        return np.pad(image[2:-2, 2:-2], ((2, 2), (2, 2), (0, 0)))

    folder, _ = folder_of(made, tmp_path / "framed", paint_border)
    options = replace(TWO, metrics=("psnr", "id_target"))
    conventions = []
    for border, is_exact in ((0, False), (2, True)):
        result = compare([], [folder], made, tmp_path / f"{border}", options=replace(options, crop_border=border))
        assert (result["rows"][-1]["psnr"]["mean"] == 100) == is_exact
        conventions.append(result["metrics"]["psnr"]["convention"])
        assert "crop_border" not in result["metrics"]["id_target"]["convention"]
    assert conventions[0].endswith("(crop_border=0)") and conventions[1].endswith("crop_border=2")
    for changes, said in (
        ({"crop_border": SIZE // 2}, "leaves too little of images of"),
        ({"crop_border": 2, "metrics": ("id_target",)}, "psnr, ssim, psnr_y, ssim_y read --crop-border"),
    ):
        with pytest.raises(BadInput, match=said):
            compare([], [folder], made, tmp_path / "out", options=replace(options, **changes))


def test_each_metric_says_its_libraries_and_its_weights(made: Path, run: Path, tmp_path: Path) -> None:
    weights = random_alexnet(tmp_path / "weights")
    result = evaluate(run, made, options=replace(TWO, metrics=("psnr", "lpips_alex", "id_target"), weights=weights))
    psnr, alex, identity = (result["metrics"][name] for name in ("psnr", "lpips_alex", "id_target"))
    assert psnr["libraries"]["torchmetrics"] == version("torchmetrics") and psnr["weights"] == []
    (file,) = alex["weights"]
    assert file["sha256"] == hashlib.sha256((weights / file["file"]).read_bytes()).hexdigest()
    assert file["is_published"] is False and file["licence"].startswith("BSD")
    assert result["judge"]["sha256"] in [one["sha256"] for one in identity["weights"]]
    (notice,) = (notice for notice in make_notices(result) if "published file" in notice)
    assert file["file"] in notice and "LPIPS (AlexNet)" in notice
    shown = f"; {file['file']} (sha256 {file['sha256'][:8]}, licence: BSD-3-Clause (torchvision))"
    assert shown in render_markdown(result) and shown in render_latex(result)


def test_who_leaves_out_images_gains_nothing(made: Path, run: Path, tmp_path: Path) -> None:
    lazy, faces = folder_of(made, tmp_path / "lazy", lambda image: cv2.GaussianBlur(image, (0, 0), 3))
    honest, _ = folder_of(made, tmp_path / "honest", lambda image: cv2.GaussianBlur(image, (0, 0), 1))
    (lazy / f"{faces[0]}.png").unlink()
    options = replace(TWO, metrics=("psnr", "id_target"), partial=True)
    result = compare([], [lazy, honest], made, tmp_path / "out", options=options)
    assert {row["images"] for row in result["rows"]} == {len(faces) - 1}
    (bold,) = (line for line in render_latex(result).splitlines() if "\\textbf" in line)
    assert bold.startswith("honest & \\textbf{") and bold.count("\\textbf{") == 2


def test_the_curve_shows_every_departure_from_the_right_references(crowd: Path, run: Path) -> None:
    options = replace(TWO, metrics=("psnr", "id_target", "takeover"))
    result = counterfactuals(run, crowd, CROWD, options)
    keys = [row["key"] for row in result["rows"]]
    assert keys[:6] == ["lq", "0", "1", "2", "4", "8"]
    assert set(keys[6:]) == {
        f"{way}2"
        for way in ("shuffled", "repeated", "blurred", "turned", "unlike", "wrong", "trusted", "trusted_wrong")
    }
    rows = {row["key"]: row for row in result["rows"]}
    # The restorer returns the mean of its references. The order therefore changes nothing, and repeating one reference
    # changes nothing either.
    assert result["largest_change_by_order"] <= 1
    assert rows["repeated2"]["psnr"]["mean"] == pytest.approx(rows["1"]["psnr"]["mean"])
    # `takeover` is also measured in the rows with right references, for comparison.
    assert rows["trusted_wrong2"]["takeover"]["mean"] > 0.5 and rows["trusted2"]["takeover"]["mean"] == 0
    # As in `restore`, most wrong references are left out, except in the rows with trusted references.
    assert rows["wrong2"]["takeover"]["mean"] < rows["trusted_wrong2"]["takeover"]["mean"]
    left_out = result["left_out"]
    assert left_out["wrong2"] > left_out["2"] and left_out["trusted2"] == left_out["trusted_wrong2"] == 0
    assert result["have"]["0"] == result["images"] >= result["have"]["2"] and result["have"]["8"] == 0
    names = {line["difference"] for line in result["differences"]}
    assert names == {name for name, *_ in list_counterfactual_differences(2)}
    drawn = ElementTree.fromstring(draw_metric_curve(result))
    words = " ".join(node.text or "" for node in drawn.iter() if node.tag.endswith("text"))
    assert "references of another pose" in words and "wrong references" in words
    assert (
        len(list(run.glob(f"counterfactuals-{CROWD}-*.json"))) == len(list(run.glob("counterfactuals-*.parquet"))) == 1
    )


def test_a_system_has_the_same_figures_in_evaluate_and_in_counterfactuals(crowd: Path, run: Path) -> None:
    """Tests that both commands give the same figures. `counterfactuals` reads more references than `evaluate`. Only the
    curve of `counterfactuals` uses the additional references."""
    options = replace(TWO, counts=(0, 1, 2), metrics=("id_target", "id_references", "copy_ratio", "takeover"))
    ours = {row["key"]: row | {"system": ""} for row in evaluate(run, crowd, CROWD, options)["rows"]}
    assert ours["2"]["copy_ratio"]["mean"] > 0
    more = counterfactuals(run, crowd, CROWD, options)
    theirs = {row["key"]: row | {"system": ""} for row in more["rows"]}
    assert more["have"]["4"] == 0 < more["have"]["2"] and {key: theirs[key] for key in ours} == ours
    shown = [
        {
            (row["face_id"], row["key"]): row["shown_identity_id"]
            for row in pq.read_table(next(run.glob(f"{name}-*.parquet"))).to_pylist()
        }
        for name in ("evaluation", "counterfactuals")
    ]
    assert shown[0].items() <= shown[1].items()


def test_what_cannot_be_compared_is_refused_before_anything_is_measured(
    made: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fine, _ = folder_of(made, tmp_path / "fine", lambda image: image)
    stranger = doubles.save(tmp_path / "strange" / "a.png", np.zeros((SIZE, SIZE, 3), np.uint8)).parent
    large, own = Copying("maps"), Restorer.from_pretrained(run)
    large.config.__dict__["size"] = 2 * SIZE
    loaded = {"large": large}
    pick = classmethod(lambda cls, folder, base_model=None: loaded.get(Path(folder).parent.name, own))
    monkeypatch.setattr(Restorer, "from_pretrained", pick)
    for name in ("measure_systems", "measure_input", "measure_file"):
        monkeypatch.setattr(train.evaluation.evaluator, name, lambda *_: pytest.fail("measured"))
    for runs, folders, message in (
        ([run, tmp_path / "large"], [], "compare restorers of the same size"),
        ([run], [fine, stranger], "has the name of an image of the frozen set"),
        ([], [fine, tmp_path / "nowhere"], "is not a folder"),
    ):
        with pytest.raises(BadInput, match=message):
            compare(runs, folders, made, tmp_path / "out", options=TWO)


def test_a_difference_that_is_printed_as_zero_has_no_mark() -> None:
    figure = {"low": 1e-6, "high": 3e-6, "images": 9, "people": 9, "people_above": 9, "excludes_zero": True}
    metric = {"title": "PSNR", "unit": "", "better": "higher", "digits": 4}
    result = {"metrics": {"psnr": metric}, "differences": [{"difference": "a - b", "psnr": figure | {"mean": 2e-6}}]}
    ((_, cell),) = make_difference_rows(result)
    assert cell.startswith("+0.0000") and "*" not in cell and cell.endswith(" 9/9")
    result["differences"][0]["psnr"] = figure | {"mean": 6e-5}
    assert " * 9/9" in make_difference_rows(result)[0][1]
    assert "*" not in make_difference_rows(result, 3)[0][1]
