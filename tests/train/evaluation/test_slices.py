"""Tests that results are divided into slices of the set, and that the worst slice is named."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import cv2
import duckdb
import numpy as np
import pytest

import train.evaluation.evaluator
from degrade.frozen.dataset_sets import make_set
from manifests.errors import BadInput
from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import LEDGER_NAME
from manifests.report.result_notices import make_notices
from manifests.report.result_tables import make_slice_tables, make_tables
from tests.doubles import curation as doubles
from tests.doubles.models.restorers import SIZE
from tests.places import REPOSITORY
from train.benchmark.freeze import freeze
from train.evaluation.evaluate import compare
from train.evaluation.evaluator import Evaluator
from train.evaluation.options import EvaluationOptions
from train.evaluation.presentation.text_tables import render_latex, render_markdown
from train.evaluation.sets.cases import read_benchmark_set, read_frozen_set
from train.evaluation.slices.average_slices import average_slices
from train.evaluation.slices.columns import COLUMNS, read_columns, summarise_theta


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Makes a dataset of twelve people with a frozen set of the split train."""
    _, dataset = doubles.curated_album(tmp_path_factory.mktemp("slices"), people=12, each=4)
    make_set(dataset, "codeformer", "train", 0, SIZE, workers=1)
    return dataset


def rows_of(values: list[float], key: str = "4") -> list[dict]:
    return [
        {"face_id": str(n), "identity_id": str(n % 6), "key": key, "system": key, "reason": None, "psnr": value}
        for n, value in enumerate(values)
    ]


def test_a_column_is_cut_into_thirds_and_each_slice_has_its_own_mean_and_count() -> None:
    values = [float(n) for n in range(30)]
    (column,), reasons = average_slices(
        [*rows_of(values), *rows_of([1.0] * 30, "lq")], [str(n) for n in range(30)], {"blur": values}, ["psnr"], 0
    )
    assert not reasons and [one["images"] for one in column["slices"]] == [10, 10, 10]
    assert [one["name"] for one in column["slices"]] == ["0.0 to 9.0 px", "10.0 to 19.0 px", "20.0 to 29.0 px"]
    means = [{row["key"]: row["psnr"]["mean"] for row in one["rows"]} for one in column["slices"]]
    assert [mean["4"] for mean in means] == [4.5, 14.5, 24.5] and all(mean["lq"] == 1 for mean in means)
    assert all(
        row["psnr"]["low"] < row["psnr"]["mean"] < row["psnr"]["high"] for row in column["slices"][0]["rows"][:1]
    )


def test_few_values_have_a_slice_each_and_unknown_values_a_slice_of_their_own() -> None:
    faces = [str(n) for n in range(12)]
    counts = [1.0, 2.0, 4.0, math.nan] * 3
    columns = {"references": counts, "blur": [3.0] * 12, "jpeg": [math.nan] * 12}
    sliced, reasons = average_slices(rows_of([float(n) for n in range(12)]), faces, columns, ["psnr"], 0)
    assert [column["column"] for column in sliced] == ["references"]
    assert [one["name"] for one in sliced[0]["slices"]] == ["1", "2", "4", "unknown"]
    assert [one["images"] for one in sliced[0]["slices"]] == [3, 3, 3, 3]
    assert reasons == {"blur": "all images have the same value", "jpeg": COLUMNS["jpeg"].missing}


def test_the_columns_of_a_degradation_are_its_strongest_operations() -> None:
    steps = [
        {"op": "blur", "kernel": "aniso", "size": 41, "sigma_x": 3.0, "sigma_y": 4.0, "angle": 0.1},
        {"op": "downsample", "factor": 2.0, "interpolation": "area"},
        {"op": "jpeg", "quality": 90},
        {"op": "downsample", "factor": 3.0, "interpolation": "area"},
        {"op": "jpeg", "quality": 60},
    ]
    values = summarise_theta({"version": 2, "steps": steps})
    assert (values["blur"], values["downsample"], values["jpeg"]) == (4.0, 6.0, 60.0) and math.isnan(values["noise"])


def test_the_columns_of_a_dataset_and_of_its_benchmark_are_equal(made: Path, tmp_path: Path) -> None:
    frozen = read_frozen_set(made, SIZE, f"codeformer-train-{SIZE}-s0", 2, seed=0)
    wanted = read_columns(tuple(COLUMNS), frozen.cases, made, None, frozen.name, 2, 0)
    freeze(made, tmp_path / "bench", split="train", references=2, with_pictures=True, with_embeddings=True)
    cases = read_benchmark_set(tmp_path / "bench").cases
    found = read_columns(tuple(COLUMNS), cases, tmp_path / "bench", None, frozen.name, 2, 0)
    for name in COLUMNS:
        np.testing.assert_allclose(found[name], wanted[name], atol=1e-3, err_msg=name)
    with Ledger.open(made) as ledger:
        theta = dict(ledger.query("SELECT face_id, theta FROM degradations").iter_rows())
    first = frozen.cases[0]
    jpeg = [step["quality"] for step in json.loads(theta[first.face_id])["steps"] if step["op"] == "jpeg"]
    assert wanted["jpeg"][0] == min(jpeg) and wanted["references"][0] == len(first.references)
    assert np.isnan(wanted["age_gap"]).all() and np.isfinite(wanted["lq_psnr"]).all()


def test_the_age_gap_is_the_time_to_the_nearest_reference(made: Path, tmp_path: Path) -> None:
    name, dataset = f"codeformer-train-{SIZE}-s0", Path(shutil.copytree(made, tmp_path / "dated"))
    cases = read_frozen_set(dataset, SIZE, name, 2, seed=0).cases

    def date_photos(change: str) -> list[float]:
        with duckdb.connect(str(dataset / LEDGER_NAME)) as connection:
            connection.execute(f"UPDATE photos SET {change}")
        return read_columns(("age_gap",), cases, dataset, None, name, 2, 0)["age_gap"]

    gaps = date_photos("taken = TIMESTAMP '2020-01-01' + INTERVAL 3653 DAYS * (hash(photo_id) % 2)")
    assert {round(gap, 1) for gap in gaps} == {0, 10}
    assert np.isnan(date_photos("taken_doubt = 'changed'")).all()


def test_a_comparison_has_a_table_of_slices_and_names_the_worst(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests a folder with the LQ images themselves: the more degraded an LQ image is, the worse is its result."""
    monkeypatch.setattr(train.evaluation.evaluator, "load_faces", doubles.models)
    name = f"codeformer-train-{SIZE}-s0"
    (tmp_path / "same").mkdir()
    for case in read_frozen_set(made, SIZE, name, 2, seed=0).cases:
        cv2.imwrite(str(tmp_path / "same" / f"{case.face_id}.png"), case.lq[:, :, ::-1])
    options = EvaluationOptions(2, metrics=("psnr",), slices=("lq_psnr", "age_gap"))
    result = compare([], [tmp_path / "same"], made, tmp_path / "out", name, options)
    (column,) = result["slices"]
    means = [row["psnr"]["mean"] for one in column["slices"] for row in one["rows"] if row["key"] == "same"]
    assert (
        means == sorted(means) and len(means) == 3 and result["not_sliced"] == {"age_gap": COLUMNS["age_gap"].missing}
    )
    assert sum(one["images"] for one in column["slices"]) == result["images"]
    worst = column["slices"][0]
    said = " ".join(make_notices(result))
    assert f"The worst slices of same: degradation (PSNR of the LQ image) {worst['name']}" in said
    assert "There are no slices by age_gap, because the set has no dates" in said
    ((title, headings, rows),) = make_slice_tables(result)
    assert title == "Slices of same" and len(rows) == 3 and headings[1].startswith("PSNR")
    assert rows[0][1].startswith(f"{means[0]:.2f} [") and f"({worst['images']} images)" in rows[0][0]
    assert make_tables(result)[-1][0] == title
    for text in (render_markdown(result), render_latex(result)):
        assert title in text and f"{means[0]:.2f}" in text


def test_the_page_names_all_columns_and_an_unknown_column_is_refused(made: Path) -> None:
    assert all(f"`{name}`" in (REPOSITORY / "docs" / "evaluate.md").read_text() for name in COLUMNS)
    with pytest.raises(BadInput, match=r"There is no column 'colour'\. Give some of lq_psnr, blur"):
        Evaluator(made, None, EvaluationOptions(slices=("colour",)))
