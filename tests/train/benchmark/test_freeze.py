"""Tests benchmarks: the same photos give the same bytes, and a benchmark that would leak is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

import train.benchmark.write_benchmark
import train.evaluation.evaluator
from curate.face_filters import FILTER_SETS
from degrade.frozen.dataset_sets import make_set
from manifests.errors import BadInput, LedgerBroken
from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import crop_path
from manifests.ledger.records import Degradation, Face, Membership, Split
from tests.doubles import curation as doubles
from tests.doubles.frozen.frozen_benchmarks import contents, forge
from tests.doubles.models.restorers import Copying
from tests.doubles.training_snapshots import write_snapshot
from tests.places import REPOSITORY, Run
from train.benchmark.freeze import FreezeSummary, freeze
from train.benchmark.frozen_benchmark import (
    CARD,
    CASES,
    EMBEDDINGS,
    FACES,
    is_benchmark,
    load_benchmark,
)
from train.benchmark.set_faces import read_set_faces
from train.benchmark.training_overlap import find_training_overlap
from train.evaluation.evaluate import evaluate
from train.evaluation.options import EvaluationOptions
from train.evaluation.sets.cases import Case, read_benchmark_set, read_frozen_set
from train.models.restorer import Restorer

SIZE = 32


def curated(photos: Path, dataset: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        doubles.install(patch)
        doubles.curated(photos, dataset)
    return dataset


def crowd_of(dataset: Path) -> Path:
    """Moves the people of val and three people of train to test, and makes a frozen test set.

    With several people in test, a case can have references of another person.
    """
    with Ledger.open(dataset, write=True) as ledger:
        rows = [
            dataclasses.replace(row, split="test") if row.split == "val" else row for row in ledger.read_rows(Split)
        ]
        people = sorted({row.identity_id for row in rows if row.split == "train"})[:3]
        rows = [dataclasses.replace(row, split="test") if row.identity_id in people else row for row in rows]
        ledger.record("double", "crowd", {}, rows)
    make_set(dataset, "codeformer", "test", 0, SIZE, workers=1)
    return dataset


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("freeze")
    doubles.curated_album(root, people=12, each=4)
    return root


@pytest.fixture(scope="module")
def made(album: Path) -> Path:
    """Makes a dataset of twelve people with a frozen test set of several people.

    The tests must not change the dataset.
    """
    return crowd_of(album / "dataset")


@pytest.fixture
def own(made: Path, tmp_path: Path) -> Path:
    """Makes a copy of the dataset, so that a test can change it."""
    return Path(shutil.copytree(made, tmp_path / "own"))


def same(one: Case, other: Case) -> bool:
    """Returns whether two cases are equal except for the ids of people, because each dataset has its own ids."""
    nameless = {"identity_id": "", "wrong_identity_id": ""}
    a, b = (dataclasses.asdict(dataclasses.replace(case, **nameless)) for case in (one, other))
    return all(np.array_equal(np.asarray(a[key]), np.asarray(b[key])) for key in a)


def test_whoever_has_the_same_photos_gets_the_same_bytes(album: Path, made: Path, tmp_path: Path) -> None:
    """Tests a second dataset of the same photos. In this dataset, the photos have other names, other folders and
    another order. Two workers read them."""
    for number, path in enumerate(sorted((album / "photos").rglob("*.png"), reverse=True)):
        place = tmp_path / "Ferien" / str(number % 5) / f"IMG {number:03d} ü.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    script = Path(doubles.__file__)
    command = [sys.executable, str(script), str(tmp_path / "Ferien"), str(tmp_path / "elsewhere"), "2"]
    subprocess.run(
        command, check=True, cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONSAFEPATH": "1"}
    )
    other = crowd_of(tmp_path / "elsewhere")
    for name, dataset in (("one", made), ("two", other)):
        freeze(dataset, tmp_path / name, with_pictures=True, with_embeddings=True)
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert one == two and {CARD, CASES, FACES, EMBEDDINGS} < set(one)
    told = b"".join(data for name, data in one.items() if name.endswith((".json", ".jsonl"))).decode()
    for secret in ("person0", "IMG", "Ferien", str(made), str(tmp_path), "elsewhere"):
        assert secret not in told
    freeze(made, tmp_path / "third", seed=1)
    assert (tmp_path / "third" / CASES).read_bytes() != one[CASES], "the seed draws nothing"


def test_people_are_named_by_their_faces_whatever_the_dataset_called_them(
    own: Path, made: Path, tmp_path: Path
) -> None:
    """Tests two datasets that have different ids for the same people.

    The ids depend on the history of a dataset, because later runs keep them.
    """
    freeze(made, tmp_path / "one")
    with Ledger.open(own, write=True) as ledger:
        splits = [dataclasses.replace(row, identity_id=f"q-{row.identity_id}") for row in ledger.read_rows(Split)]
        members = [dataclasses.replace(row, identity_id=f"q-{row.identity_id}") for row in ledger.read_rows(Membership)]
        ledger.record("double", "names", {}, [*splits, *members])
    freeze(own, tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_embeddings_leave_the_dataset_only_where_they_are_asked_for_in_so_many_words(
    made: Path, tmp_path: Path
) -> None:
    bench = tmp_path / "bench"
    with pytest.raises(BadInput, match="--with-embeddings needs --with-images"):
        freeze(made, bench, with_embeddings=True)
    freeze(made, bench, with_pictures=True)
    with Ledger.open(made) as ledger:
        vectors = [vector.tobytes() for vector in ledger.read_embeddings()[1]]
    data = b"".join(contents(bench).values())
    assert not (bench / EMBEDDINGS).exists() and not any(vector in data for vector in vectors)
    with pytest.raises(BadInput, match="frozen without embeddings"):
        read_benchmark_set(bench)
    assert len(read_benchmark_set(bench, made).cases) > 0
    freeze(made, bench, with_pictures=True, with_embeddings=True)
    assert (bench / EMBEDDINGS).exists() and len(read_benchmark_set(bench).cases) > 0
    # a command without embeddings keeps the embeddings that an earlier command wrote
    freeze(made, bench, with_pictures=True)
    assert (bench / EMBEDDINGS).exists()


@pytest.mark.parametrize("pictures", [True, False])
def test_a_benchmark_reads_back_as_the_set_it_was_frozen_from(made: Path, tmp_path: Path, pictures: bool) -> None:
    done = freeze(made, tmp_path / "bench", references=3, with_pictures=pictures, with_embeddings=pictures)
    wanted = read_frozen_set(made, SIZE, None, 3, seed=0)
    if pictures:
        shutil.move(tmp_path / "bench", tmp_path / "moved")  # a benchmark with pictures can be moved
        found = read_frozen_set(tmp_path / "moved", SIZE, None, 3, seed=5)
    else:
        found = read_frozen_set(made, SIZE, str(tmp_path / "bench"), 3, seed=5)
    assert (found.name, found.images, len(found.cases)) == (wanted.name, wanted.images, len(wanted.cases))
    assert done.cases == len(found.cases) > 0 and any(case.wrong for case in found.cases)
    assert all(same(a, b) for a, b in zip(found.cases, wanted.cases, strict=True))
    called = {(a.identity_id, b.identity_id) for a, b in zip(found.cases, wanted.cases, strict=True)}
    called |= {(a.wrong_identity_id, b.wrong_identity_id) for a, b in zip(found.cases, wanted.cases, strict=True)}
    assert len({one for one, _ in called}) == len(called) == len({other for _, other in called})


def test_fewer_references_are_the_first_of_those_that_were_frozen_and_more_are_refused(
    made: Path, tmp_path: Path
) -> None:
    freeze(made, tmp_path / "bench", references=3, with_pictures=True, with_embeddings=True)
    all_of_them, two = (read_benchmark_set(tmp_path / "bench", None, SIZE, count).cases for count in (None, 2))
    for a, b in zip(all_of_them, two, strict=True):
        assert len(b.references) == 2 and np.array_equal(a.references[:2], b.references)
        assert np.array_equal(a.reference_embeddings[:2], b.reference_embeddings)
    # The curve over the number of references uses all references, even if the metrics use only two.
    for a, b in zip(all_of_them, read_benchmark_set(tmp_path / "bench", None, SIZE, 2, 8).cases, strict=True):
        assert np.array_equal(a.references, b.references) and len(b.references) == 3 and len(b.wrong) in (0, 2)
    with pytest.raises(BadInput, match="frozen with 3 references"):
        read_benchmark_set(tmp_path / "bench", None, SIZE, 4)
    with pytest.raises(BadInput, match=f"images of {SIZE} px, but the restorer works at 64 px"):
        read_benchmark_set(tmp_path / "bench", None, 64)


def test_the_same_command_again_writes_nothing_or_what_is_missing_and_adds_pictures(own: Path, tmp_path: Path) -> None:
    bench = tmp_path / "bench"
    assert freeze(own, bench).written == 3
    plain = contents(bench)
    assert freeze(own, bench).written == 0 and contents(bench) == plain and not load_benchmark(bench).card["pictures"]
    assert freeze(own, bench, with_pictures=True, with_embeddings=True).written > 3
    whole = contents(bench)
    assert freeze(own, bench).written == 0 and contents(bench) == whole, "the second command removed the pictures"
    (gone,) = list((bench / "pictures").iterdir())[:1]
    gone.unlink()
    (broken,) = list((bench / "lq").iterdir())[:1]
    broken.write_bytes(b"x")
    assert freeze(own, bench).written == 3 and contents(bench) == whole


def test_a_killed_freeze_is_said_to_be_unfinished_and_resumes(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    freeze(own, tmp_path / "whole", with_pictures=True, with_embeddings=True)
    honest, left = train.benchmark.write_benchmark.write_atomically, [6]

    def dying(path: Path, data: bytes) -> None:
        left[0] -= 1
        if not left[0]:
            (path.parent / f".{path.name}.1.tmp").write_bytes(b"half")
            raise KeyboardInterrupt
        honest(path, data)

    monkeypatch.setattr(train.benchmark.write_benchmark, "write_atomically", dying)
    with pytest.raises(KeyboardInterrupt):
        freeze(own, tmp_path / "bench", with_pictures=True, with_embeddings=True)
    monkeypatch.undo()
    with pytest.raises(BadInput, match="not finished"):
        load_benchmark(tmp_path / "bench")
    freeze(own, tmp_path / "bench", with_pictures=True, with_embeddings=True)
    assert contents(tmp_path / "bench") == contents(tmp_path / "whole")


def test_nothing_is_written_over_anything_else(own: Path, tmp_path: Path) -> None:
    bench = tmp_path / "bench"
    freeze(own, bench)
    before = contents(bench)
    with pytest.raises(BadInput, match="contains a different benchmark"):
        freeze(own, bench, references=2)
    assert contents(bench) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(BadInput, match=r"thesis\.tex"):
        freeze(own, tmp_path / "mine")
    with pytest.raises(BadInput, match="is a file"):
        freeze(own, tmp_path / "mine" / "thesis.tex")
    with pytest.raises(BadInput, match="is not a benchmark"):
        freeze(own, own)
    assert freeze(own, tmp_path / "none", dry_run=True).written == 0 and not (tmp_path / "none").exists()


def test_what_cannot_be_frozen_is_one_sentence(own: Path, tmp_path: Path) -> None:
    def refused(match: str, **options: object) -> None:
        with pytest.raises(BadInput, match=match):
            freeze(own, tmp_path / "bench", **options)  # type: ignore[arg-type]
        assert not (tmp_path / "bench").exists()

    refused("no frozen set nothing", lq_set="nothing")
    refused("no frozen set of the split train", split="train")
    refused("--split foo is not a split", split="foo")
    refused("--max-references 0 is too small", references=0)
    refused("--seed", seed=-1)
    refused("contains faces of test, but --split is train", lq_set=f"codeformer-test-{SIZE}-s0", split="train")
    make_set(own, "codeformer", "test", 1, SIZE, workers=1)
    refused("The split test has 2 frozen sets")
    assert freeze(own, tmp_path / "bench", lq_set=f"codeformer-test-{SIZE}-s1").lq_set.endswith("s1")


def test_a_target_or_its_near_duplicate_among_its_references_is_refused(own: Path, tmp_path: Path) -> None:
    case = load_benchmark(Path(freeze(own, tmp_path / "bench").folder)).cases[0]
    found = load_benchmark(tmp_path / "bench")
    reference = next(line for line in found.faces if line.picture == case.references[0])
    with Ledger.open(own, write=True) as ledger:
        target = next(face for face in ledger.read_rows(Face) if face.face_id == case.face)
        was = next(face for face in ledger.read_rows(Face) if face.face_id == reference.face)
        twin = dataclasses.replace(was, phash=target.phash, shard=target.shard, shard_row=target.shard_row)
        ledger.record("double", "twin", {}, [twin])
    with pytest.raises(LedgerBroken, match=r"among its own references.*near-duplicate of the target"):
        freeze(own, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_reference_of_the_targets_very_pixels_is_refused_whatever_the_ledger_says(own: Path, tmp_path: Path) -> None:
    found = load_benchmark(Path(freeze(own, tmp_path / "bench").folder))
    case = found.cases[0]
    reference = next(line for line in found.faces if line.picture == case.references[0])
    crop_path(own, reference.face).write_bytes(crop_path(own, case.face).read_bytes())
    with pytest.raises(LedgerBroken, match="has the same pixels as one of its references"):
        freeze(own, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_picture_that_is_gone_or_changed_is_named(own: Path, tmp_path: Path) -> None:
    freeze(own, tmp_path / "bare")
    freeze(own, tmp_path / "full", with_pictures=True, with_embeddings=True)
    with pytest.raises(BadInput, match="contains no pictures"):
        read_benchmark_set(tmp_path / "bare")
    case = load_benchmark(tmp_path / "bare").cases[0]
    picture = tmp_path / "full" / "pictures" / f"{case.picture}.png"
    picture.write_bytes((tmp_path / "full" / "pictures" / f"{case.references[0]}.png").read_bytes())
    with pytest.raises(LedgerBroken, match=f"{case.picture}.png is broken, or is not the picture of the benchmark"):
        read_benchmark_set(tmp_path / "full")
    picture.unlink()
    with pytest.raises(LedgerBroken, match=f"{case.picture}.png is missing"):
        read_benchmark_set(tmp_path / "full")
    crop_path(own, case.face).unlink()
    with pytest.raises(LedgerBroken, match=f"{case.face}.png is missing"):
        read_benchmark_set(tmp_path / "bare", own)
    with pytest.raises(LedgerBroken, match="manifest check"):
        freeze(own, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_lq_pictures_are_made_again_from_theta_and_others_are_noticed(own: Path, tmp_path: Path) -> None:
    freeze(own, tmp_path / "bare")
    with Ledger.open(own) as ledger:
        (name,) = {row.lq_set for row in ledger.read_rows(Degradation)}
    shutil.rmtree(own / "lq" / name)  # the LQ images are then made from the photos again
    assert read_benchmark_set(tmp_path / "bare", own).cases

    cases = [json.loads(line) for line in (tmp_path / "bare" / CASES).read_text().splitlines()]
    cases[0]["lq"] = cases[1]["lq"]
    forge(tmp_path / "bare", cases=cases)
    with pytest.raises(LedgerBroken, match="gives an image that differs from the image in the benchmark"):
        read_benchmark_set(tmp_path / "bare", own)


def test_an_edited_benchmark_is_noticed(made: Path, tmp_path: Path) -> None:
    bench = tmp_path / "bench"
    freeze(made, bench)
    whole = contents(bench)

    def restore() -> None:
        for name, data in whole.items():
            (bench / name).write_bytes(data)

    (bench / FACES).write_bytes(whole[FACES].replace(b'"train"', b'"val"', 1))
    with pytest.raises(BadInput, match="was changed"):
        load_benchmark(bench)
    restore()
    (bench / FACES).unlink()
    with pytest.raises(BadInput, match=f"{FACES} cannot be read"):
        load_benchmark(bench)
    restore()
    forge(bench, version=2)
    with pytest.raises(BadInput, match="version 2"):
        load_benchmark(bench)
    restore()
    cases = [json.loads(line) for line in whole[CASES].splitlines()]
    place = cases[0]["geometry"]
    broken_places = ({}, {**place, "photo_size": [0, 64]}, {**place, "landmarks": [0.5] * 10})
    broken_fields = (("picture", "../../secret"), ("references", ["0" * 64]), ("lq", 3), ("theta", {}))
    for field, value in (*broken_fields, *(("geometry", place) for place in broken_places)):
        forge(bench, cases=[{**cases[0], field: value}])
        with pytest.raises(BadInput):
            load_benchmark(bench)
        restore()
    for part in ({"size": "32"}, {"leaks": {}}, {"policy": None}, {"thresholds": {"same_person": 0.5}}):
        forge(bench, **part)  # type: ignore[arg-type]
        with pytest.raises(BadInput, match="get a new copy"):
            load_benchmark(bench)
        restore()
    faces = [json.loads(line) for line in whole[FACES].splitlines()]
    for field, value in (("face", "../x"), ("phash", "zz"), ("split", "all"), ("place", [0, 1])):
        forge(bench, faces=[{**faces[0], field: value}, *faces[1:]])
        with pytest.raises(BadInput, match="get a new copy"):
            load_benchmark(bench)
        restore()
    assert not is_benchmark(made) and is_benchmark(bench)
    with pytest.raises(BadInput, match="is not a benchmark"):
        load_benchmark(made)


def test_another_recognizer_is_refused(own: Path, tmp_path: Path) -> None:
    freeze(own, tmp_path / "bench")
    forge(tmp_path / "bench", recognizer={"sha256": "0" * 64, "dim": 3})
    with pytest.raises(BadInput, match="different recognizer"):
        read_benchmark_set(tmp_path / "bench", own)


def test_a_run_that_saw_a_person_of_the_benchmark_is_noticed(made: Path, tmp_path: Path) -> None:
    """Tests two runs: one was trained on another photo of a person of the benchmark, the other on a stranger."""
    freeze(made, tmp_path / "bench", references=1, with_pictures=True, with_embeddings=True)
    found = load_benchmark(tmp_path / "bench")
    targets = [case.face_id for case in read_benchmark_set(tmp_path / "bench").cases]
    person = found.cases[0].person
    known = next(line.face for line in found.faces if line.person == person and line.face != found.cases[0].face)
    stranger = next(line.face for line in found.faces if line.split == "train")
    for face, groups in ((known, [person]), (stranger, [])):
        write_snapshot(tmp_path / "run", made, {face: "train"}, SIZE)
        overlap = find_training_overlap(
            read_set_faces(tmp_path / "bench", None, targets), tmp_path / "run", targets, False
        )
        assert overlap.checked and [one.group for one in overlap.seen] == groups


def test_evaluate_measures_a_benchmark_as_it_measures_the_dataset(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Copying()
    monkeypatch.setattr(Restorer, "from_pretrained", classmethod(lambda cls, folder, base_model=None: model))
    monkeypatch.setattr(train.evaluation.evaluator, "find_newest_checkpoint", lambda run: run / "checkpoint-00000016")
    monkeypatch.setattr("train.restore.restorers.face_restorer.load_faces", doubles.models)
    freeze(made, tmp_path / "bench", references=2, with_pictures=True, with_embeddings=True)
    bare = freeze(made, tmp_path / "bare", references=2).folder
    options = EvaluationOptions(references=2)
    wanted = evaluate(tmp_path, made, options=options)
    assert load_benchmark(tmp_path / "bench").card["name"] == wanted["benchmark"]
    for dataset, lq_set in ((tmp_path / "bench", None), (made, str(bare))):
        found = evaluate(tmp_path, dataset, lq_set, options)
        # the ids are not compared, because each dataset has its own ids of people
        for row in chain(found["rows"], wanted["rows"]):
            row["identity_id"] = row["shown_identity_id"] = ""
        assert {**found, "dataset": wanted["dataset"], "set_argument": None} == wanted


@pytest.mark.shared_data
def test_two_folders_of_real_photos_give_one_benchmark_and_leak_nothing(shared_data: Path, tmp_path: Path) -> None:
    """Tests two datasets of the same 6 people with 6 photos each.

    In the second dataset, the photos have other names and another order.
    """
    models = f"insightface:{shared_data / 'weights' / 'insightface_small'}"
    for name in ("one", "two"):
        photos = tmp_path / name
        for person in sorted((shared_data / "people_crops").iterdir())[:6]:
            for number, path in enumerate(sorted(person.iterdir())[:6]):
                place = photos / (f"{person.name}/{path.name}" if name == "one" else f"{number}{person.name[::-1]}.jpg")
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, place)
        # with these filters, targets that lie partly outside their photos are kept, as are most crops of people_crops
        filters = FILTER_SETS["keep-outside"]
        doubles.curated(photos, tmp_path / f"of_{name}", faces=models, screen=filters)
        make_set(tmp_path / f"of_{name}", "gfpgan", "test", 0, 64, workers=1)
        freeze(tmp_path / f"of_{name}", tmp_path / f"bench_{name}")
    assert contents(tmp_path / "bench_one") == contents(tmp_path / "bench_two")
    found = doubles.find_dataset_leaks(tmp_path / "of_one")
    assert found.total == 0 and found.alike_pairs <= 3 * found.expected_pairs
    assert any(line.geometry.find_valid(64).mean() < 0.9 for line in load_benchmark(tmp_path / "bench_one").cases)
    cases = read_benchmark_set(tmp_path / "bench_one", tmp_path / "of_two").cases
    assert all(map(same, cases, read_frozen_set(tmp_path / "of_one", None, None, 4, 0).cases))


def test_the_command_says_what_it_froze(made: Path, tmp_path: Path, command: Run) -> None:
    bench = tmp_path / "bench"
    found = command("freeze", made, "--out", bench, "--json")
    assert found.returncode == 0, found.stderr
    told = FreezeSummary(**json.loads(found.stdout))
    assert told.benchmark == load_benchmark(bench).card["benchmark"]
    again = command("freeze", made, "--out", bench)
    assert again.returncode == 0 and "no file changed" in again.stdout and told.benchmark in again.stdout
    wrong = command("freeze", made, "--out", bench, "--seed", "3")
    assert wrong.returncode == 2 and "a different benchmark" in wrong.stderr.splitlines()[-1]
    assert "Traceback" not in wrong.stderr
