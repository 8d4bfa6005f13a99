"""Tests the evaluation on imported sets: sets without targets, sets of other sizes, and the counts of problems."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from manifests.errors import BadInput, LedgerBroken
from manifests.report.result_notices import make_notices
from manifests.report.result_tables import make_title
from tests.doubles import curation as doubles
from tests.doubles.models.restorers import SIZE, Copying, use_in_evaluation
from tests.doubles.training_snapshots import write_snapshot
from train.benchmark.imported.import_benchmark import import_benchmark
from train.data.landmarks import detect_faces
from train.evaluation.counterfactuals import counterfactuals, draw_metric_curve
from train.evaluation.evaluate import compare, evaluate
from train.evaluation.options import EvaluationOptions
from train.evaluation.presentation.html_page import render_page
from train.evaluation.presentation.text_tables import render_latex, render_markdown
from train.evaluation.results.result_images import PageImages
from train.evaluation.results.set_problems import NO_FACE, NOT_ALIGNED, SEVERAL_FACES, find_face_problem
from train.evaluation.sets.embedder import make_embedder
from train.evaluation.sets.imported_set import read_imported_set
from train.metrics.input_agreement import agree_with_input

TWO = EvaluationOptions(references=2)
TOML = 'lq = "lq/{person}_{n}.png"\nreferences = "refs/{person}/*"\n'


def draw_face(person: int, seed: int, side: int = SIZE) -> np.ndarray:
    """Returns an aligned face of the doubles, RGB uint8 (side, side, 3)."""
    return cv2.resize(doubles.face(person, seed), (side, side), interpolation=cv2.INTER_AREA)


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[:, :, ::-1])


def make_set(folder: Path, side: int = SIZE, with_targets: bool = False, with_references: bool = True) -> Path:
    """Makes a set of three people with two LQ images each, imports it, and returns the benchmark."""
    for person in range(3):
        for number in range(2):
            face = draw_face(person, number, side)
            save(folder / f"set/lq/p{person}_{number}.png", cv2.GaussianBlur(face, (0, 0), side / 32))
            if with_targets:
                save(folder / f"set/gt/p{person}_{number}.png", face)
            if with_references:
                save(folder / f"set/refs/p{person}/{number}.png", draw_face(person, 10 + number, side))
    text = TOML if with_references else TOML.splitlines()[0] + "\n"
    (folder / "set.toml").write_text(text + ('target = "gt/{person}_{n}.png"\n' if with_targets else ""))
    import_benchmark(folder / "set", str(folder / "set.toml"), folder / "bench")
    return folder / "bench"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_in_evaluation(monkeypatch, Copying("maps"))
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def test_without_targets_target_metrics_are_absent_with_a_reason_and_ips_has_its_counterweights(
    tmp_path: Path, run: Path
) -> None:
    bench = make_set(tmp_path)
    result = evaluate(run, tmp_path / "set", str(bench), TWO)
    assert result["images"] == result["images_in_set"] == 6 and result["people"] == 3
    rows = {row["key"]: row for row in result["rows"]}
    assert list(rows) == ["lq", "0", "2", "wrong2"]
    measured = [name for name in result["metrics"] if rows["2"][name] is not None]
    assert measured == ["id_references", "id_input", "input_agreement", "face_restored"]
    assert not {"psnr", "ssim", "id_target", "copy_ratio"} & set(rows["2"])
    # The restorer returns the mean of its references, or its input if there are no references.
    assert rows["0"]["id_input"]["mean"] == pytest.approx(1) and rows["0"]["input_agreement"]["mean"] == 100
    assert rows["2"]["id_references"]["mean"] > rows["0"]["id_references"]["mean"]
    assert rows["2"]["input_agreement"]["mean"] < 40 and rows["lq"]["id_input"] is None
    notices = " ".join(make_notices(result))
    assert "Absent are PSNR, SSIM" in notices and "Without targets, no metric measures copying" in notices
    assert "Not measured for the LQ input: identity to input and agreement with input." in notices
    assert "PSNR" not in render_latex(result).split(r"\toprule")[1]
    (file,) = run.glob("evaluation*.json")
    assert json.loads(file.read_text()) == json.loads(json.dumps(result))


def test_a_metric_that_needs_a_target_is_a_reason_and_not_zero(tmp_path: Path, run: Path) -> None:
    bench = make_set(tmp_path)
    options = replace(TWO, metrics=("psnr", "fid", "id_references"))
    result = evaluate(run, tmp_path / "set", str(bench), options)
    assert result["not_measured"] == {"psnr": "The set has no targets.", "fid": "The set has no targets."}
    assert all(row["psnr"] is None for row in result["rows"])
    # Only IPS is measured, and a notice names the metrics that show whether references are copied.
    assert any("id_input and input_agreement" in notice for notice in make_notices(result))
    (file,) = run.glob("evaluation*.parquet")
    table = pq.read_table(file).to_pylist()
    assert "psnr" not in table[0] and all(math.isfinite(row["id_references"]) for row in table)


def test_with_targets_an_imported_set_has_the_usual_metrics(tmp_path: Path, run: Path) -> None:
    bench = make_set(tmp_path, with_targets=True)
    result = evaluate(run, tmp_path / "set", str(bench), replace(TWO, metrics=("psnr", "id_target", "copy_ratio")))
    rows = {row["key"]: row for row in result["rows"]}
    assert rows["0"]["psnr"]["mean"] == rows["lq"]["psnr"]["mean"] and result["not_measured"] == {}
    assert result["without_wrong_references"] == 0 and rows["wrong2"]["images"] == 6
    for case in read_imported_set(bench, tmp_path / "set", 2).cases:
        assert case.wrong_identity_id not in (case.identity_id, None) and len(case.wrong) == 2


def test_a_set_is_measured_at_its_own_size(tmp_path: Path, run: Path) -> None:
    bench = make_set(tmp_path, side=2 * SIZE, with_targets=True)
    images, options = PageImages(), replace(TWO, metrics=("psnr",))
    result = evaluate(run, tmp_path / "set", str(bench), options, page_images=images)
    assert result["size"] == 2 * SIZE
    assert {image.shape for image in images.restored.values()} == {(2 * SIZE, 2 * SIZE, 3)}
    case = images.cases[0]
    small = cv2.resize(case.lq, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    large = cv2.resize(small, (2 * SIZE, 2 * SIZE), interpolation=cv2.INTER_CUBIC)
    assert np.array_equal(images.restored[case.face_id, "0"], large)


def test_a_set_without_references_or_people_is_measured(tmp_path: Path, run: Path) -> None:
    folder = tmp_path / "set"
    for number in range(6):
        save(folder / f"{number}.png", draw_face(number, 0))
    import_benchmark(folder, "folder", tmp_path / "bench", with_images=True)
    images = PageImages()
    result = evaluate(run, tmp_path / "bench", None, TWO, page_images=images)
    assert [row["key"] for row in result["rows"]] == ["lq", "0"] and "id_references" not in result["metrics"]
    assert ": 6 images, " in make_title(result)
    notices = " ".join(make_notices(result))
    assert "The set does not say who is on each image" in notices and "The set has no references" in notices
    page = render_page(result, images, 6)
    assert page.count("The set has no targets.") == 6 and "6 images" in render_markdown(result)
    compared = compare([run], [], tmp_path / "bench", tmp_path / "out", None, replace(TWO, metrics=("id_input",)))
    assert [row["key"] for row in compared["rows"]] == ["lq", "run/0"]


def test_images_of_others_match_by_name_and_the_judge_needs_no_run(tmp_path: Path, run: Path) -> None:
    bench = make_set(tmp_path, side=2 * SIZE)
    for person in range(3):
        for number in range(2):
            save(tmp_path / f"others/p{person}_{number}_00.png", draw_face(person, number, 2 * SIZE))
    (tmp_path / "others/p0_1_00.png").unlink()
    options = replace(TWO, judge="double", partial=True)
    result = compare([run], [tmp_path / "others"], tmp_path / "set", tmp_path / "out", str(bench), options)
    assert result["images_left_out"]["not_in_every_folder"] == 1 and not result["unmeasured"]
    assert result["differences"][0]["keys"] == ["others", "run/2"] and result["differences"][0]["images"] == 5
    alone = compare([], [tmp_path / "others"], tmp_path / "set", tmp_path / "alone", str(bench), options)
    row = next(row for row in result["rows"] if row["key"] == "others")
    assert [one for one in alone["rows"] if one["key"] == "others"] == [row]


def test_problems_of_the_set_and_faces_that_are_not_found_are_counted(tmp_path: Path, run: Path) -> None:
    for number in range(5):
        save(tmp_path / f"set/{number}.png", draw_face(number, 0))
    save(tmp_path / "set/dark.png", np.zeros((SIZE, SIZE, 3), np.uint8))
    save(tmp_path / "set/wide.png", np.zeros((SIZE, 2 * SIZE, 3), np.uint8))
    import_benchmark(tmp_path / "set", "folder", tmp_path / "bench")
    result = evaluate(run, tmp_path / "set", str(tmp_path / "bench"), replace(TWO, metrics=("face_restored",)))
    assert result["images"] == 6 and result["images_in_set"] == 7
    counts = {meaning.split(",")[0]: count for meaning, count in result["set_problems"].items()}
    not_square = "LQ images and targets that are not square"
    no_face = "LQ images in which the judge finds no face"
    assert counts == {not_square: 1, "gray pictures": 2, no_face: 1}  # one person of the doubles is gray
    notices = " ".join(make_notices(result))
    assert "Measured: 6 of 7 LQ images of the set" in notices and "no face: 1" in notices
    assert "Images in which the judge finds no face: 1 of 6 (LQ input); 1 of 6 (restored, no reference)" in notices


def test_several_faces_and_faces_in_another_place_are_told_apart() -> None:
    judge, side = doubles.models("double"), 96

    def find_problem(image: np.ndarray) -> str | None:
        return find_face_problem(detect_faces(image, judge), side)

    assert find_problem(draw_face(0, 0, side)) is None
    assert find_problem(np.zeros((side, side, 3), np.uint8)) == NO_FACE
    aside = np.zeros((side, side, 3), np.uint8)
    aside[60:90, 60:90] = draw_face(1, 0, 30)
    assert find_problem(aside) == NOT_ALIGNED
    several = np.zeros((side, side, 3), np.uint8)
    several[:, :70] = cv2.resize(draw_face(0, 0, side), (70, side))
    several[:24, 72:96] = draw_face(1, 0, 24)
    assert find_problem(several) == SEVERAL_FACES


def test_counterfactuals_run_without_targets_and_the_plot_says_what_is_missing(tmp_path: Path, run: Path) -> None:
    bench = make_set(tmp_path)
    options = EvaluationOptions(references=2, metrics=("id_target", "id_references"))
    result = counterfactuals(run, tmp_path / "set", str(bench), options)
    assert {"0", "1", "2", "shuffled2", "blurred2", "wrong2"} <= {row["key"] for row in result["rows"]}
    with pytest.raises(BadInput, match=r"--plot draws identity to target, .* The set has no targets\."):
        draw_metric_curve(result)


def test_a_changed_or_missing_photo_stops_the_evaluation(tmp_path: Path, run: Path) -> None:
    bench = make_set(tmp_path)
    with pytest.raises(BadInput, match="contains no copies of the photos"):
        evaluate(run, bench, None, TWO)
    with pytest.raises(BadInput, match="leave --set and --benchmark out"):
        evaluate(run, bench, "a set", TWO)
    (tmp_path / "set/refs/p0/0.png").unlink()
    with pytest.raises(LedgerBroken, match="is missing or cannot be read"):
        evaluate(run, tmp_path / "set", str(bench), TWO)
    save(tmp_path / "set/refs/p0/0.png", draw_face(5, 5))
    with pytest.raises(LedgerBroken, match="has changed since"):
        evaluate(run, tmp_path / "set", str(bench), TWO)


def test_the_references_have_the_order_and_the_number_of_the_benchmark(tmp_path: Path) -> None:
    bench, models = make_set(tmp_path), doubles.models("double")
    one = read_imported_set(bench, tmp_path / "set", 1, embed=make_embedder(models)).cases[0]
    two = read_imported_set(bench, tmp_path / "set", 1, 2, make_embedder(models)).cases[0]
    assert len(one.references) == 1 and len(two.references) == 2 and len(two.wrong) == 1
    assert np.array_equal(one.references[0], two.references[0])
    assert two.reference_embeddings.shape == (2, models.dim)


# --- the metric `input_agreement` ---


def test_the_agreement_is_high_for_the_truth_and_low_for_another_face() -> None:
    truth = draw_face(0, 0, 64)
    lq = cv2.GaussianBlur(truth, (0, 0), 3)
    assert agree_with_input(lq, lq) == 100
    assert agree_with_input(truth, lq) > 35 > agree_with_input(draw_face(1, 0, 64), lq)
    tinted = np.clip(truth.astype(int) + np.array([20, 0, 0]), 0, 255).astype(np.uint8)
    assert agree_with_input(tinted, lq) < agree_with_input(truth, lq) - 5


def test_the_agreement_equals_a_hand_calculation() -> None:
    rng = np.random.default_rng(0)
    restored, lq = rng.integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)
    blurs = (0, *(16 * 0.002 * 2 ** (step / 2) for step in range(10)))
    errors = [
        np.mean((lq - (cv2.GaussianBlur(restored.astype("f4"), (0, 0), s) if s else restored.astype("f4"))) ** 2)
        for s in blurs
    ]
    assert agree_with_input(restored, lq) == pytest.approx(10 * math.log10(255**2 / min(errors)), abs=1e-4)


def write_training(run: Path, folder: Path, photos: dict[str, np.ndarray]) -> None:
    """Curates photos, and writes the snapshot of a run that was trained on all of them."""
    for name, photo in photos.items():
        doubles.save(folder / "photos" / f"{name}.png", photo)
    with pytest.MonkeyPatch.context() as patch:
        doubles.install(patch)
        doubles.curated(folder / "photos", folder / "dataset")
    faces = dict.fromkeys(doubles.name_faces(folder / "dataset").values(), "train")
    write_snapshot(run, folder / "dataset", faces, SIZE)


def test_people_of_an_imported_set_are_found_in_the_training(tmp_path: Path, run: Path) -> None:
    bench = make_set(tmp_path, with_targets=True)
    write_training(run, tmp_path / "known", {f"{seed}": doubles.photo([1], seed) for seed in (40, 41)})
    with pytest.raises(BadInput, match=r"1 person of the set \(2 images\): \w+ .* Give --leave-out-seen"):
        evaluate(run, tmp_path / "set", str(bench), TWO)
    options = replace(TWO, leave_out_seen=True, metrics=("psnr",))
    result = evaluate(run, tmp_path / "set", str(bench), options)
    overlap = result["training_overlap"]
    assert overlap["checked"] and list(overlap["how"]) == ["picture", "person"]
    assert overlap["seen_targets"] == ["p1_0", "p1_1"] and result["images"] == 4
    assert (overlap["set_faces"], overlap["set_groups"]) == (12, 3)
    assert [one["kind"] for one in overlap["seen"]] == ["person"]
    assert overlap["expected_pairs"] is None  # the training has only one person, so it has no pairs of strangers
    notices = " ".join(make_notices(result))
    assert (
        "compared the pictures and people of the set" in notices
        and "2 images of the set are in the training. No mean uses" in notices
    )
    assert evaluate(run, tmp_path / "set", str(bench), options) == result  # now from the cache


def test_strangers_of_an_imported_set_are_measured(tmp_path: Path, run: Path) -> None:
    bench = make_set(tmp_path, with_references=False)
    write_training(run, tmp_path / "other", {f"{seed}": doubles.photo([7], seed) for seed in (40, 41)})
    result = evaluate(run, tmp_path / "set", str(bench), replace(TWO, metrics=("face_restored",)))
    assert result["training_overlap"]["checked"] and not result["training_overlap"]["seen"]
    assert result["images"] == 6 and result["training_overlap"]["set_faces"] == 6
