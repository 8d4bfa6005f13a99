"""Evaluation on a frozen set of the doubles' people: what is measured, what is stored, what is refused."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import curate_doubles as doubles
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from test_train_restore import SIZE, Marking

import train.evaluate
from curate.faces.decode import decode
from degrade.operations import shrink
from degrade.sets import make_set
from manifests.errors import BadInput, LedgerBroken
from manifests.ledger import Ledger
from manifests.storage import crop_path
from train.cases import read_cases
from train.evaluate import INPUT, evaluate
from train.models.restorer import Restored, Restorer


class Copying(Marking):
    """Answers the input without references, and the mean of the references with them."""

    def forward(
        self, lq: torch.Tensor, references: torch.Tensor, present: torch.Tensor, embeddings: torch.Tensor
    ) -> Restored:
        self.seen.append(references.shape[1])
        return Restored(references.mean(1) if references.shape[1] else lq, lq, None)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of twelve people with a frozen test set."""
    root = tmp_path_factory.mktemp("evaluate")
    with pytest.MonkeyPatch.context() as patch:
        doubles.install(patch)
        doubles.curated(doubles.album(root / "photos", people=12, each=4), root / "dataset")
    make_set(root / "dataset", "codeformer", "test", 0, SIZE, workers=1)
    return root / "dataset"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    model = Copying()
    monkeypatch.setattr(Restorer, "from_pretrained", classmethod(lambda cls, folder, base_model=None: model))
    monkeypatch.setattr(train.evaluate, "newest_checkpoint", lambda run: run / "checkpoint-00000016")
    monkeypatch.setattr("train.restore.load_faces", doubles.models)
    monkeypatch.setattr(train.evaluate, "load_faces", doubles.models)
    return tmp_path


def test_a_model_that_copies_its_references_scores_as_one(made: Path, run: Path) -> None:
    result = evaluate(run, made, references=2)
    rows = {row["system"]: row for row in result["rows"]}
    assert list(rows) == [INPUT, "restored, no reference", "restored"]
    assert result["images"] == rows["restored"]["images"] > 0 and result["people"] >= 1
    # without references it answers its input
    for metric in ("psnr", "ssim", "id_target", "id_references"):
        assert rows["restored, no reference"][metric]["mean"] == pytest.approx(rows[INPUT][metric]["mean"])
        for row in rows.values():
            assert row[metric]["low"] <= row[metric]["mean"] <= row[metric]["high"]
    # a copy of the references is at least as near to them as to the target
    assert rows["restored"]["id_references"]["mean"] >= rows["restored"]["id_target"]["mean"] - 1e-3
    assert json.loads((run / "evaluation.json").read_text()) == json.loads(json.dumps(result))
    assert result["judge"]["is_the_datasets_own"] is True


def test_references_are_warped_to_the_lq_input_where_the_recipe_says_so(
    made: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, landmarks = Restorer.from_pretrained(run), np.arange(10, dtype=np.float32).reshape(5, 2)
    model.config = replace(model.config, parts=("maps", "warped"))
    module = ModuleType("train.warp")
    module.warp_to = lambda image, own, to: np.full_like(image, int((to == landmarks).all()))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "train.warp", module)
    monkeypatch.setattr(train.evaluate, "landmarks_of", lambda crop, models: landmarks)
    seen: list[torch.Tensor] = []
    watched = model.forward
    monkeypatch.setattr(model, "forward", lambda *told: seen.append(told[1]) or watched(*told))
    evaluate(run, made, references=2)
    assert seen and all(bool((references == 1 / 255).all()) for references in seen if references.shape[1])


def test_every_image_and_system_has_a_row_and_the_same_call_gives_the_same_figures(made: Path, run: Path) -> None:
    first = evaluate(run, made, references=2)
    table = pq.read_table(run / "evaluation.parquet").to_pylist()
    assert len(table) == 3 * first["images"]
    assert {row["references"] for row in table if row["system"] == "restored"} <= {1, 2}
    (run / "evaluation.json").unlink()
    assert evaluate(run, made, references=2) == first
    means = {row["psnr"]["mean"] for row in evaluate(run, made, references=1)["rows"]}
    assert means != {row["psnr"]["mean"] for row in first["rows"]}


def test_another_judge_is_named_and_kept_apart(made: Path, run: Path) -> None:
    result = evaluate(run, made, judge="other")
    assert result["judge"]["is_the_datasets_own"] is False
    assert (run / "evaluation-judge.json").is_file() and not (run / "evaluation.json").exists()


def test_what_cannot_be_measured_is_one_sentence(made: Path, run: Path) -> None:
    with pytest.raises(BadInput, match="no frozen set nothing"):
        evaluate(run, made, lq_set="nothing")
    with pytest.raises(BadInput, match="at least 1"):
        evaluate(run, made, references=0)
    with Ledger.open(made) as ledger:
        (name,) = ledger.query("SELECT DISTINCT lq_set FROM degradations")["lq_set"]
    Restorer.from_pretrained(run).config.__dict__["size"] = 2 * SIZE
    with pytest.raises(BadInput, match=f"{SIZE} px images"):
        evaluate(run, made, lq_set=name)
    with pytest.raises(BadInput, match=f"likeness degrade {made}"):
        evaluate(run, made)


def test_references_are_drawn_from_all_photos_of_the_person_not_from_the_nearest(made: Path) -> None:
    frozen = read_cases(made, SIZE, None, 3, seed=0)
    others = read_cases(made, SIZE, None, 3, seed=1)
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


def test_a_run_that_has_seen_the_people_is_refused(made: Path, run: Path) -> None:
    case = read_cases(made, SIZE, None, 1, seed=0).cases[0]
    (run / "snapshot").mkdir()
    with Ledger.open(made) as ledger:
        kin = ledger.query(
            "SELECT face_id FROM splits WHERE identity_id = ? AND face_id <> ?", case.identity_id, case.face_id
        )["face_id"]
    for split, seen in (("train", True), ("test", False)):
        pq.write_table(pa.table({"face_id": [kin[0]], "split": [split]}), run / "snapshot" / "faces.parquet")
        if seen:
            with pytest.raises(LedgerBroken, match="was trained on face"):
                evaluate(run, made)
        else:
            assert evaluate(run, made)["unseen_in_training"] == "checked"


def test_an_image_that_is_no_longer_the_frozen_one_is_refused(made: Path, run: Path) -> None:
    case = read_cases(made, SIZE, None, 1, seed=0).cases[0]
    (path,) = (made / "lq").glob(f"*/{case.face_id}.png")
    whole = path.read_bytes()
    try:
        path.write_bytes(whole + b"x")
        with pytest.raises(LedgerBroken, match="manifest check"):
            evaluate(run, made)
    finally:
        path.write_bytes(whole)
