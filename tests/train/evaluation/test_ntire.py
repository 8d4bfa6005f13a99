"""Tests NTIRE's score and identity gate: the published formula, the missing parts, and the subsets of the challenge."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from manifests.errors import BadInput
from manifests.report.result_notices import make_notices
from tests.doubles import curation as doubles
from tests.doubles.models.restorers import Copying, use_in_evaluation
from train.benchmark.imported.import_benchmark import import_benchmark
from train.evaluation.evaluate import compare
from train.evaluation.options import EvaluationOptions
from train.evaluation.results.ntire_score import add_parts, add_score
from train.metrics.fid import inception
from train.metrics.fid.statistics import Statistics, write_statistics
from train.metrics.networks import adaface, no_reference, qalign
from train.metrics.ntire import PARTS, apply_gate, compute_terms

SIDE = 96  # the smallest side at which NIQE has a value
SUBSETS = ("CelebA", "Wider-Test")
ABOUT = {"clipiqa": 0.6, "maniqa": 0.5, "musiq": 70.0, "niqe": 4.0}  # about the values of the metrics for a gray image


class Gray(torch.nn.Module):
    """Computes two features of pictures instead of FID's network."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.stack([images.double().mean((1, 2, 3)), images.double().std((1, 2, 3))], 1) / 50


def embed(image: np.ndarray) -> np.ndarray:
    """Returns a two-dimensional embedding whose angle grows with the brightness."""
    angle = image.mean() / 60
    return np.array([np.cos(angle), np.sin(angle)], np.float32)


@pytest.fixture
def challenge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path, Path]:
    """Makes a set of two subsets with two images each, a folder of restored images, and a file for FFHQ's
    statistics."""
    use_in_evaluation(monkeypatch, Copying("maps"))
    for number, subset in enumerate(SUBSETS):
        for person in range(2):
            face = doubles.face(person, number, SIDE)
            doubles.save(tmp_path / "set" / "test" / subset / f"{number}{person}.png", face // 2)
            doubles.save(tmp_path / "outputs" / f"{number}{person}.png", face)
    import_benchmark(tmp_path / "set", "ntire", tmp_path / "bench")
    content = write_statistics(Statistics(np.array([2.0, 1.0]), np.eye(2), 70000), "pytorch-fid", "0" * 64)
    (tmp_path / "ffhq.npz").write_bytes(content)
    return tmp_path / "set", tmp_path / "bench", tmp_path / "outputs"


@pytest.fixture
def with_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def score(name: str) -> no_reference.Score:
        return lambda images: [ABOUT[name] + float(image.mean() - 0.5) for image in images]

    monkeypatch.setattr("train.metrics.measure.explain_missing", lambda *_: None)
    monkeypatch.setattr("train.evaluation.cache.cached_measure.explain_missing", lambda *_: None)
    for module in ("train.metrics.networks.no_reference", "train.evaluation.cache.cached_measure"):
        monkeypatch.setattr(f"{module}.load_no_reference", lambda name, **_: score(name))
    monkeypatch.setattr(qalign, "load_qalign", lambda weights: lambda images: [3 + float(one.std()) for one in images])
    monkeypatch.setattr(adaface, "load_adaface", lambda weights: embed)
    monkeypatch.setattr(inception, "load_inception", lambda *_: Gray())
    monkeypatch.setattr(inception, "FEATURES", 2)


OPTIONS = EvaluationOptions(metrics=("ntire",))


def test_the_score_is_the_published_formula_of_the_means(
    challenge: tuple[Path, Path, Path], with_weights: None, tmp_path: Path
) -> None:
    published, bench, outputs = challenge
    options = replace(OPTIONS, fid_statistics=tmp_path / "ffhq.npz")
    result = compare([], [outputs], published, tmp_path / "out", str(bench), options)
    row = next(row for row in result["rows"] if row["key"] == "outputs")
    (file,) = (tmp_path / "out").glob("*.parquet")
    table = [one for one in pq.read_table(file).to_pylist() if one["key"] == "outputs"]
    mean = {name: np.mean([one[name] for one in table]) for name in (*ABOUT, "qalign")}
    niqe, distance = max(0, (10 - mean["niqe"]) / 10), row["fid_statistics"]["mean"]
    expected = mean["clipiqa"] + mean["maniqa"] + mean["musiq"] / 100 + niqe + mean["qalign"] / 5
    expected += max(0, (100 - distance) / 100)
    assert row["ntire"]["mean"] == pytest.approx(expected, abs=1e-9) and row["ntire"]["images"] == 4
    assert set(row["ntire"]["terms"]) == set(PARTS) and 0 < distance < 100
    # The gate compares the cosine of each output and its input with the threshold of the subset.
    gate = result["ntire_gate"]["systems"]["outputs"]
    cosine = {one["face_id"]: one["id_input_adaface"] for one in table}
    assert gate == {
        "images": 4,
        "below": {
            "CelebA": sum(cosine[name] < 0.5 for name in ("00", "01")),
            "Wider-Test": sum(cosine[name] < 0.3 for name in ("10", "11")),
        },
        "passes": True,
    }
    assert any("outputs passes the identity gate" in notice for notice in make_notices(result))
    assert json.loads((tmp_path / "out" / result["file"]).read_text())["ntire_gate"] == result["ntire_gate"]


def test_without_weights_there_is_no_score_and_each_missing_part_is_named(
    challenge: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published, bench, outputs = challenge
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    result = compare([], [outputs], published, tmp_path / "out", str(bench), OPTIONS)
    reason = result["not_measured"]["ntire"]
    titles = ("CLIP-IQA", "MANIQA", "MUSIQ", "NIQE", "Q-Align", "FID (statistics)")
    assert all(title in reason for title in titles) and all(row["ntire"] is None for row in result["rows"])
    assert set(result["not_measured"]) == {*PARTS, "ntire", "id_input_adaface"}
    notices = " ".join(make_notices(result))
    assert "give --fid-statistics" in notices and "adaface_ir50_ms1mv2.ckpt is missing" in notices
    assert "The identity gate of the NTIRE challenge was not applied" in notices


def average(**changes: object) -> dict:
    figures = {part: {"mean": 1.0, "images": 5} for part in PARTS}
    return {"images": 5, "unmeasured": 0, **figures, **changes}


def test_one_missing_part_leaves_no_partial_sum() -> None:
    with pytest.raises(BadInput, match=r"sum of 6 parts\. Not measured: Q-Align\."):
        add_score([average(qalign=None)], "pytorch-fid")
    with pytest.raises(BadInput, match="the statistics have the convention clean-fid"):
        add_score([average()], "clean-fid")
    full, partial = average(), average(niqe={"mean": 1.0, "images": 4})
    add_score([full, partial], "pytorch-fid")
    assert partial["ntire"] is None and full["ntire"]["mean"] == pytest.approx(1 + 1 + 0.01 + 0.9 + 0.2 + 0.99)
    assert add_parts(("ntire", "psnr")) == ("psnr", *PARTS, "id_input_adaface", "ntire")


def test_bad_terms_are_zero_and_not_negative() -> None:
    terms = compute_terms(dict.fromkeys(PARTS, 0.0) | {"niqe": 12.0, "fid_statistics": 300.0})
    assert terms["niqe"] == terms["fid_statistics"] == 0


@pytest.mark.parametrize(("below", "passes"), [(10, True), (11, False)])
def test_more_than_ten_faces_below_fail(below: int, passes: bool) -> None:
    gate = apply_gate([0.29] * below + [0.3] * 20, ["WebPhoto-Test"] * (below + 20))
    assert gate.below == {"WebPhoto-Test": below} and gate.passes == passes
