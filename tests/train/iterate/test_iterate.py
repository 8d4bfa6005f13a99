"""Tests that each round trains on the best versions, that the ledger has all versions, and that a kill changes
nothing."""

import json
import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

import train.fit.settings
import train.iterate.clean
from manifests.errors import BadInput, FolderBusy, LedgerBroken, ModelUnavailable
from manifests.ledger.cleaned_targets import find_newest_iteration, read_history, select_best_versions, version_path
from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import crop_path
from manifests.ledger.records import CleanedVersion, Face, File, Pair, Split, TrainingImage
from manifests.report.build_report import build_report
from manifests.runtime.files import lock_folder, sha256_file
from manifests.why.explain_photo import explain_photo
from tests.doubles.commands.forked_commands import start_python
from tests.doubles.iteration import BOUNDS, OPTIONS, run, sharpened, soft_dataset
from tests.doubles.training import SMALL, models_of, recognizer_onnx
from tests.places import REPOSITORY
from train.data.snapshot import load_snapshot
from train.fit.settings import Settings
from train.iterate.iterate import IterationSummary, count_defects
from train.models.checkpoint_files import find_newest_checkpoint
from train.models.restorer import Restorer
from train.recipes.recipes import find_recipe

# The faces of train that are soft.
SOFT = [f"0{person}0{photo}".ljust(32, "f") for person in range(3) for photo in (0, 2)]


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, Path]:
    return soft_dataset(tmp_path)


@pytest.fixture
def sharpens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train.iterate.clean, "run_model", sharpened)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, IterationSummary, list[str]]:
    """Runs an iteration of one round into FOLDER/out. The tests must not change its files.

    Returns the dataset, its recognizer, the summary, and the printed sentences.
    """
    folder, said = tmp_path_factory.mktemp("finished"), list[str]()
    made = soft_dataset(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.iterate.clean, "run_model", sharpened)
        return (*made, run(*made, folder / "out", say=said.append), said)


@pytest.fixture
def copied(finished: tuple[Path, Path, IterationSummary, list[str]], tmp_path: Path) -> tuple[Path, Path]:
    """Copies the dataset, the recognizer and the iteration. A test may change the copies."""
    folder = Path(shutil.copytree(finished[0].parent, tmp_path / "copied"))
    return folder / "dataset", folder / "recognizer.onnx"


def rows_of(made: Path) -> tuple[list[CleanedVersion], list[TrainingImage]]:
    with Ledger.open(made) as ledger:
        return ledger.read_rows(CleanedVersion), ledger.read_rows(TrainingImage)


def files_of(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256_file(path) for path in sorted(folder.rglob("*.png"))}


def test_a_round_trains_on_what_the_round_before_cleaned(
    tmp_path: Path, finished: tuple[Path, Path, IterationSummary, list[str]]
) -> None:
    *made, done, said = finished
    out = made[0].parent / "out"
    assert done.reason == "complete" and [one.round for one in done.rounds] == [0, 1]
    assert (done.rounds[0].targets, done.rounds[0].cleaned_targets, done.rounds[0].versions) == (12, 0, 6)
    assert (done.rounds[1].cleaned_targets, done.rounds[0].attempts, done.rounds[1].attempts) == (6, {"soft": 6}, {})
    assert any("12 targets, and 6 of them were cleaned" in sentence for sentence in said)
    # the iteration does not change the crops
    assert files_of(made[0] / "faces") == files_of(soft_dataset(tmp_path)[0] / "faces")

    attempts, trained = rows_of(made[0])
    assert [row.face_id for row in attempts] == SOFT and {row.status for row in attempts} == {"ok"}
    checkpoint = find_newest_checkpoint(out / "round-0")
    snapshot = load_snapshot(out / "round-1" / "snapshot")
    first = load_snapshot(out / "round-0" / "snapshot")
    for row in attempts:
        assert row.parent == sha256_file(crop_path(made[0], row.face_id))
        assert row.checkpoint == str(checkpoint) and row.checkpoint_sha256 == sha256_file(
            checkpoint / "model.safetensors"
        )
        found = json.loads(row.metrics)
        assert found["after"]["sharpness"] > found["before"]["sharpness"] and found["identity"] == pytest.approx(1)
        path = version_path(made[0], row.iteration, 0, row.face_id)
        assert sha256_file(path) == row.sha256
        place = snapshot.face_ids.index(row.face_id)
        image = cv2.imread(str(path))[:, :, ::-1]
        assert np.array_equal(snapshot.crops[place], image) and not np.array_equal(first.crops[place], image)
    others = [i for i, face in enumerate(snapshot.face_ids) if face not in SOFT]
    assert np.array_equal(snapshot.crops[others], first.crops[others])

    # The ledger has the version of every training image. The facts of the restorer say that it was trained on cleaned
    # images.
    told = {(row.round, row.face_id): row.version for row in trained}
    training = [face for face, split in zip(snapshot.face_ids, snapshot.splits, strict=True) if split == "train"]
    assert told == {(r, face): 0 if r == 1 and face in SOFT else None for r in (0, 1) for face in training}
    facts = Restorer.from_pretrained(out / "round-1").facts
    assert facts["cleaned"] == {"iteration": attempts[0].iteration, "faces": 6, "targets": 6}
    assert "cleaned" not in Restorer.from_pretrained(out / "round-0").facts
    with Ledger.open(made[0]) as ledger:
        assert find_newest_iteration(ledger) == attempts[0].iteration
        kinds = [row["kind"] for row in read_history(ledger, [SOFT[0]])[SOFT[0]]]
    assert kinds == ["versions", "training_images", "training_images"]


def test_what_is_not_better_is_dropped_with_a_reason_and_the_rounds_end(
    tmp_path: Path, made: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train.iterate.clean, "run_model", lambda model, lq, references: lq)
    said: list[str] = []
    done = run(*made, tmp_path / "out", 2, say=said.append)
    assert done.reason == "nothing_new" and len(done.rounds) == 1
    assert done.rounds[0].dropped == {"not_sharper": 6} and done.rounds[0].versions == 0
    assert "Round 0 cleaned no target, so round 1 would train on the same images." in said
    attempts, _ = rows_of(made[0])
    assert {(row.status, row.reason, row.sha256) for row in attempts} == {("dropped", "not_sharper", None)}
    assert not list((made[0] / "versions").rglob("*.png"))


@pytest.mark.usefixtures("sharpens")
def test_pixels_outside_the_photo_stay_as_they_are(tmp_path: Path, made: tuple[Path, Path]) -> None:
    with Ledger.open(made[0], write=True) as ledger:
        half_outside = [
            replace(face, landmarks5=tuple(x - 120 * (i % 2 == 0) for i, x in enumerate(face.landmarks5)))
            for face in ledger.read_rows(Face)
        ]
        ledger.record("double", "left", {}, half_outside)
    run(*made, tmp_path / "out")
    snapshot = load_snapshot(tmp_path / "out" / "round-0" / "snapshot")
    attempts, _ = rows_of(made[0])
    for row in (row for row in attempts if row.status == "ok"):
        at = snapshot.face_ids.index(row.face_id)
        cleaned = cv2.imread(str(version_path(made[0], row.iteration, 0, row.face_id)))[:, :, ::-1]
        changed, valid = (cleaned != snapshot.crops[at]).any(2), snapshot.valid(at)
        assert 0.1 < valid.mean() < 0.9 and changed[valid].any() and not changed[~valid].any()
    assert attempts[0].status == "ok"


def test_a_restorer_that_gives_no_number_or_somebody_else_cleans_nothing(
    tmp_path: Path, made: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train.iterate.clean, "run_model", lambda model, lq, references: lq * float("nan"))
    assert run(*made, tmp_path / "nan").rounds[0].dropped == {"not_a_number": 6}
    monkeypatch.setattr(train.iterate.clean, "run_model", sharpened)
    turn = np.zeros((2, 16), np.float32)
    turn[0, 0] = turn[1, 1] = 1.0
    models = replace(models_of(made[1]), embed=lambda crops: turn[: len(crops)])
    other = replace(OPTIONS, seed=1)
    assert run(*made, tmp_path / "other", options=other, models=models).rounds[0].dropped == {"identity_fell": 6}


def test_a_later_version_must_be_sharper_than_the_one_it_takes_the_place_of(
    tmp_path: Path, made: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train.iterate.clean, "run_model", sharpened)
    done = run(*made, tmp_path / "out", 3)  # the second cleaning gives the same results as the first
    assert done.reason == "nothing_new" and [one.versions for one in done.rounds] == [6, 0]
    assert done.rounds[1].dropped == {"not_sharper": 6}
    attempts, _ = rows_of(made[0])
    assert all(json.loads(row.metrics)["best"]["version"] == 0 for row in attempts if row.round == 1)
    with Ledger.open(made[0]) as ledger:
        best = select_best_versions(ledger, attempts[0].iteration)
    assert {version.round for version in best.values()} == {0} and sorted(best) == SOFT


def test_the_same_command_again_does_nothing_and_more_rounds_go_on(
    copied: tuple[Path, Path], finished: tuple[Path, Path, IterationSummary, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, before = copied[0].parent / "out", rows_of(copied[0])
    first = [replace(one, run=str(out / Path(one.run).name)) for one in finished[2].rounds]
    with monkeypatch.context() as patch:
        patch.setattr(train.iterate.clean, "_clean_target", lambda *_: pytest.fail("it was already done"))
        assert run(*copied, out).rounds == first and rows_of(copied[0]) == before
    monkeypatch.setattr(train.iterate.clean, "run_model", lambda *told: sharpened(*told) ** 2)
    more = run(*copied, out, 2)
    assert more.rounds[0] == first[0] and more.rounds[1].attempts == {"soft": 6}
    assert {row.round for row in rows_of(copied[0])[0]} == {0, 1}


@pytest.mark.exhaustive
@pytest.mark.slow
def test_killed_at_any_moment_and_resumed_the_ledger_and_the_files_are_the_same(
    tmp_path: Path, finished: tuple[Path, Path, IterationSummary, list[str]]
) -> None:
    double = REPOSITORY / "tests" / "doubles" / "iteration.py"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    made, recognizer = soft_dataset(tmp_path)
    out = tmp_path / "out"
    command = [str(double), str(made), str(recognizer), str(out), "1"]
    for place in (made / "versions", out / "round-1" / "config.json"):
        process = start_python(command, environment)
        until = time.monotonic() + 120
        # Wait for the first subfolder of `versions`, which is empty at first.
        while (
            not (any(place.iterdir()) if place.is_dir() else place.exists())
            and process.poll() is None
            and time.monotonic() < until
        ):
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL
        if place.name == "versions":
            assert len(rows_of(made)[0]) < 6 and not rows_of(made)[1][12:]
            (next(path for path in place.iterdir()) / ".half.png.1.tmp").touch()  # a file like one that a kill leaves
    assert start_python(command, environment).wait(240) == 0

    def ended(made: Path, out: Path) -> tuple[object, ...]:
        attempts, trained = rows_of(made)
        snapshots = [load_snapshot(out / f"round-{n}/snapshot").hash for n in (0, 1)]
        weights = [sha256_file(find_newest_checkpoint(out / f"round-{n}") / "model.safetensors") for n in (0, 1)]
        return (
            [replace(row, checkpoint="") for row in attempts],
            trained,
            files_of(made / "versions"),
            snapshots,
            weights,
        )

    assert ended(made, out) == ended(finished[0], finished[0].parent / "out")
    assert len(rows_of(made)[0]) == 6 and not list((made / "versions").rglob("*.tmp"))


def test_a_signal_ends_it_with_a_checkpoint_and_the_same_call_goes_on(
    tmp_path: Path, made: tuple[Path, Path], sharpens: None
) -> None:
    def interrupt(what: str, done: int, _: int) -> None:
        if (what, done) == ("train 1", 4):
            signal.raise_signal(signal.SIGTERM)

    done = run(*made, tmp_path / "out", progress=interrupt)
    assert done.reason == "SIGTERM" and [one.round for one in done.rounds] == [0]
    # the images of round 1 are not recorded, because its training did not end
    assert {row.round for row in rows_of(made[0])[1]} == {0}
    assert run(*made, tmp_path / "out").reason == "complete"


def test_people_who_have_left_the_training_split_lose_their_versions(
    tmp_path: Path, copied: tuple[Path, Path], sharpens: None
) -> None:
    made = copied
    moved, (attempts, _) = SOFT[0], rows_of(made[0])
    with Ledger.open(made[0], write=True) as ledger:
        own = [row for row in ledger.read_rows(Pair) if row.target[:2] == moved[:2]]
        splits = [row for row in ledger.query("SELECT * FROM splits").rows(named=True) if row["face_id"][:2] == "00"]
        ledger.record("double", "moved", {}, [Split(**{**row, "split": "test"}) for row in splits])
        ledger.record("double", "pairs", {}, [replace(pair, split="test") for pair in own])
        assert moved not in select_best_versions(ledger, attempts[0].iteration)
    # another iteration drops the versions of people who left train, also those of the first iteration
    run(*made, tmp_path / "again")
    path = version_path(made[0], attempts[0].iteration, 0, moved)
    gone = [row for row in rows_of(made[0])[0] if row.reason == "not_in_train"]
    assert [row.face_id for row in gone] == SOFT[:2] and not path.exists()


def test_an_iteration_that_lost_versions_later_is_not_the_newest_for_it(copied: tuple[Path, Path]) -> None:
    old = rows_of(copied[0])[0][0].iteration
    with Ledger.open(copied[0], write=True) as ledger:
        assert find_newest_iteration(ledger) == old
        ledger.record("iterate", "later/train-0", {}, [])
        ledger.record("iterate", f"{old}/strayed", {}, [])
        assert find_newest_iteration(ledger) == "later"


def test_a_round_is_computed_in_what_round_0_was_on_any_machine(
    tmp_path: Path, made: tuple[Path, Path], sharpens: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def moves(what: str, done: int, total: int) -> None:
        if what == "clean 0" and done == total:
            monkeypatch.setattr(train.fit.settings, "_usual_precision", lambda: "bf16")

    monkeypatch.setattr(train.fit.settings, "_usual_precision", lambda: "fp32")
    run(*made, tmp_path / "out", progress=moves)
    told = [json.loads((tmp_path / "out" / f"round-{n}" / "config.json").read_text())["precision"] for n in (0, 1)]
    assert train.fit.settings._usual_precision() == "bf16" and told == ["fp32", "fp32"]


def test_why_and_the_report_tell_of_it(copied: tuple[Path, Path]) -> None:
    made = copied
    with Ledger.open(made[0], write=True) as ledger:
        ledger.record("double", "files", {}, [File("file:///a/photo0-0.jpg", "photo0-0", 1, 1, "ok")])
    lines, rows = explain_photo(made[0], SOFT[0])
    said = "\n".join(lines)
    assert "the crop is soft; round 0 of iteration" in said and "version was kept (sharpness" in said
    assert "round 0 on the original, round 1 on the cleaned version of round 0" in said
    assert [len(rows[0]["faces"][0][kind]) for kind in ("versions", "training_images")] == [1, 2]
    page = build_report(made[0]).read_text()
    assert "Cleaned training targets" in page and "By round 0" in page and page.count('alt="cleaned"') == 6


def test_what_cannot_be_iterated_is_a_sentence(tmp_path: Path, copied: tuple[Path, Path]) -> None:
    made, out = copied, copied[0].parent / "out"
    for rounds in (0, -1):
        with pytest.raises(BadInput, match=f"--rounds {rounds} is too small"):
            run(*made, tmp_path / "out", rounds)
    for options, why in (
        (replace(OPTIONS, recipe=find_recipe("vre", "tiny")), "Recipe vre trains no restorer"),
        (
            replace(OPTIONS, recipe=find_recipe("osdface", "tiny"), images=16),
            "needs a visual representation embedder",
        ),
        (replace(OPTIONS, steps=51), "--steps 51 is out of range: give 1 to 50"),
        (replace(OPTIONS, steps=2), "--steps 2 needs a denoiser"),
        (replace(OPTIONS, settings=Settings(str(tmp_path))), "cannot be used with --base-model"),
        (replace(OPTIONS, images=3), "--images 3 is less than one batch of 4"),
    ):
        with pytest.raises(BadInput, match=why):
            run(*made, tmp_path / "early", options=options)
        assert not (tmp_path / "early").exists()
    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(BadInput, match="runs in one process, but 2 processes were started"),
    ):
        patch.setenv("WORLD_SIZE", "2")
        run(*made, tmp_path / "out")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "diary.txt").touch()
    with pytest.raises(BadInput, match=r"is not an iteration: it contains diary\.txt"):
        run(*made, tmp_path / "taken")
    with pytest.raises(BadInput, match="is a file, but an iteration is a folder"):
        run(*made, tmp_path / "taken" / "diary.txt")
    with pytest.raises(BadInput, match="was begun with a different value of bounds"):
        run(*made, out, options=replace(OPTIONS, bounds=replace(BOUNDS, soft=0.3)))
    with lock_folder(out), pytest.raises(FolderBusy, match="Another process is writing into"):
        run(*made, out)
    with pytest.raises(BadInput, match=r"was begun with a different value of recipe \(mixture, denoise\)"):
        run(*made, out, options=replace(OPTIONS, recipe=replace(SMALL, mixture={"mild": 0.5}, denoise=True)))
    with pytest.raises(BadInput, match="was begun with a different value of images"):
        run(*made, out, options=replace(OPTIONS, images=12))
    other = soft_dataset(tmp_path / "other", people=3)
    with pytest.raises(BadInput, match=r"changed after the training in .*give another --out"):
        run(*other, out)
    with Ledger.open(other[0], write=True) as ledger:
        ledger.record("double", "none", {}, [], replace=[Pair])
    with pytest.raises(BadInput, match="No face of the training split"):
        run(*other, tmp_path / "none")


def test_a_recognizer_that_is_missing_or_another_is_refused(tmp_path: Path, made: tuple[Path, Path]) -> None:
    from curate.faces.errors import FaceModelError

    with pytest.raises(FaceModelError, match="'double' names no face models"):
        run(*made, tmp_path / "out", models=None)
    with pytest.raises(ModelUnavailable, match="put the old files of the recognizer back"):
        run(*made, tmp_path / "out", models=models_of(recognizer_onnx(tmp_path / "wrong.onnx", seed=1)))
    assert not (tmp_path / "out" / "iterate.json").exists()


def test_a_cleaned_picture_that_changed_on_disk_is_not_trained_on(
    tmp_path: Path, made: tuple[Path, Path], sharpens: None
) -> None:
    def tamper(what: str, done: int, total: int) -> None:
        if what == "clean 0" and done == total:
            path = next((made[0] / "versions").rglob("*.png"))
            cv2.imwrite(str(path), np.zeros((SMALL.size, SMALL.size, 3), np.uint8))

    with pytest.raises(LedgerBroken, match="is missing, was changed or has the wrong size"):
        run(*made, tmp_path / "out", progress=tamper)


def test_a_plan_counts_and_writes_nothing(made: tuple[Path, Path]) -> None:
    before = sorted(made[0].rglob("*"))
    assert count_defects(made[0], SMALL, BOUNDS) == (12, {"soft": 6})
    assert sorted(made[0].rglob("*")) == before


def test_the_command_says_what_it_would_do_and_what_became_of_it(
    made: tuple[Path, Path], sharpens: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    import train.iterate.cli
    import train.iterate.iterate
    from likeness import app

    monkeypatch.setattr(train.iterate.cli, "choose_recipe", lambda *_: SMALL)
    monkeypatch.setattr(train.iterate.iterate, "load_faces", lambda spec: models_of(made[1]))
    before = sorted(made[0].rglob("*"))
    words = ["iterate", str(made[0]), "--rounds", "1", "--images", "8", "--workers", "0"]
    said = CliRunner().invoke(app, [*words, "--dry-run"])
    assert said.exit_code == 0, said.output
    assert (
        "Would train small at 32 px 2 times into" in said.stdout
        and "each time with 8 images" in said.stdout
        and "targets between two trainings: 6 soft" in said.stdout
    )
    told = json.loads(CliRunner().invoke(app, [*words, "--dry-run", "--json"]).stdout)
    assert told == {"targets": 12, "defects": {"soft": 6}, "rounds": 1, "out": str(made[0] / "iterate")}
    assert sorted(made[0].rglob("*")) == before
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout.splitlines()[-1])
    assert [one["round"] for one in found["rounds"]][:1] == [0] and found["rounds"][0]["attempts"] == {"soft": 6}
