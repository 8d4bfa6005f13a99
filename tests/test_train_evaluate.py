"""Evaluation on a frozen set of the doubles' people: what is measured, what is stored, what is refused."""

from __future__ import annotations

import json
import shutil
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
from train.cases import _draw_wrong, read_cases
from train.cli import print_evaluation
from train.evaluate import evaluate, told_interval
from train.models.restorer import Restored, Restorer

INPUT = "LQ input"
CROWD = f"codeformer-train-{SIZE}-s0"


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


@pytest.fixture(scope="module")
def crowd(made: Path) -> Path:
    """The same with a frozen set of several people, those of train."""
    shutil.copytree(made, made.parent / "crowd")
    make_set(made.parent / "crowd", "codeformer", "train", 0, SIZE, workers=1)
    return made.parent / "crowd"


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
    assert list(rows) == [INPUT, "restored, no reference", "restored"]  # one person: nobody else to show
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


def test_wrong_references_are_of_another_person_of_the_set_and_do_not_help(crowd: Path, run: Path) -> None:
    result = evaluate(run, crowd, lq_set=CROWD, references=2, counts=(0, 1, 2))
    assert [row["key"] for row in result["rows"]] == ["lq", "0", "1", "2", "wrong2"]
    table = pq.read_table(run / "evaluation.parquet").to_pylist()
    people = {row["identity_id"] for row in table}
    for row in table:
        assert row["shown_identity_id"] in people
        assert (row["shown_identity_id"] != row["identity_id"]) == (row["key"] == "wrong2")
    counts = {(row["face_id"], row["key"]): row["references"] for row in table}
    assert all(counts[face, "wrong2"] == counts[face, "2"] for face, key in counts if key == "lq")
    by_name = {line["difference"]: line for line in result["differences"]}
    assert list(by_name) == ["right - none", "right - wrong", "none - LQ"]
    # the double answers the mean of what it is shown
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
    # nobody else has five; a photo that shows the target too is not shown
    assert _draw_wrong(pool, "a", "photo a0", 5, "a0", 0) == (None, [])
    both = {"a": pool["a"], "b": [("b0", "photo a0"), ("b1", "photo b1")]}
    assert _draw_wrong(both, "a", "photo a0", 1, "a0", 0) == ("b", ["b1"])


def test_one_person_alone_has_no_wrong_references_and_the_caption_says_so(
    made: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = evaluate(run, made, references=2)
    assert result["people"] == 1 and result["without_wrong_references"] == result["images"]
    assert [line["difference"] for line in result["differences"]] == ["right - none", "none - LQ"]
    print_evaluation(result, False)
    said = " ".join(capsys.readouterr().out.split())
    assert "no row with wrong references, there is only one person in the set" in said
    assert "nothing is said of other people" in said and "Paired differences" in said


def test_intervals_over_few_people_say_so() -> None:
    assert "over 5 people, few" in told_interval(list("abcde")) and "85%" in told_interval(list("abcde"))
    assert told_interval([str(i) for i in range(40)]) == "95% percentile bootstrap over 40 people"
    assert "over images, of 2 people only" in told_interval(list("ab"))


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
