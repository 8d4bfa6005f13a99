"""Tests that each kind of leak is found and named with its two faces, and that a clean dataset has no leak."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import curate.people.leaks.face_pairs
import curate.people.leaks.find_leaks
from curate.config import SplitRules
from curate.people.leaks.dataset_faces import Rules
from curate.people.leaks.face_line import FaceLine
from curate.people.leaks.find_leaks import KINDS, Leak, find_leaks
from degrade.frozen.dataset_sets import make_set
from manifests.errors import BadInput, LedgerBroken, LedgerMissing
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import Face, Pair, Photo, Split
from tests.doubles import curation as doubles
from tests.doubles.frozen.frozen_benchmarks import contents, forge
from tests.doubles.models.restorers import SIZE
from tests.places import Run
from train.benchmark.cli import _list_numbers
from train.benchmark.freeze import freeze
from train.benchmark.frozen_benchmark import CASES, FACES
from train.benchmark.leaks import find_benchmark_leaks

RULES = Rules(6, 0.35, 0.5, 54, 40, 0.8, same_person=0.5, false_match_rate=0.01)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Makes a clean dataset of twelve people with a frozen test set. The tests must not change the dataset."""
    root = tmp_path_factory.mktemp("leaks")
    _, dataset = doubles.curated_album(root, people=12, each=4)
    make_set(dataset, "codeformer", "test", 0, SIZE, workers=1)
    return dataset


@pytest.fixture
def own(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "own"))


def plant(dataset: Path, change: Callable[[Ledger], list]) -> None:
    with Ledger.open(dataset, write=True) as ledger:
        ledger.record("double", "leak", {}, change(ledger))


def ends(ledger: Ledger) -> tuple[Face, Face]:
    """Returns the first accepted face of train and the first accepted face of test."""
    splits = {row.face_id: row.split for row in ledger.read_rows(Split)}
    faces = [face for face in ledger.read_rows(Face) if face.status == "ok"]
    one, other = (next(f for f in faces if splits[f.face_id] == name) for name in ("train", "test"))
    return one, other


def test_a_clean_dataset_and_its_benchmark_have_no_leak(made: Path, tmp_path: Path) -> None:
    found = doubles.find_dataset_leaks(made)
    assert found.total == 0 and not found.examples and not found.unchecked
    assert found.faces == 48 and found.pairs > 200 and found.targets > 0
    freeze(made, tmp_path / "full", with_pictures=True, with_embeddings=True)
    with_dataset = find_benchmark_leaks(tmp_path / "full", made)
    assert with_dataset.total == 0 and not with_dataset.unchecked and with_dataset.pairs == found.pairs
    alone = find_benchmark_leaks(tmp_path / "full")
    assert alone.total == 0 and "have no embedding" in alone.unchecked[0]


def test_an_identity_in_two_splits(own: Path) -> None:
    def change(ledger: Ledger) -> list:
        one, _ = ends(ledger)
        return [dataclasses.replace(row, split="val") for row in ledger.read_rows(Split) if row.face_id == one.face_id]

    plant(own, change)
    found = doubles.find_dataset_leaks(own)
    (leak,) = [leak for leak in found.examples if leak.kind == "identity"]
    assert (leak.one_split, leak.other_split) == ("train", "val") and leak.what.startswith("person p-")
    # There are also leaks of the kind `cosine`, because the face in val is similar to the person's faces in train.
    assert found.counts["cosine"] > 0 and all(leak.value >= 0.5 for leak in found.examples if leak.kind == "cosine")


def test_two_faces_of_one_photo_in_two_splits(own: Path) -> None:
    planted: list[str] = []

    def change(ledger: Ledger) -> list:
        one, other = ends(ledger)
        planted.extend((one.face_id, other.face_id))
        return [dataclasses.replace(one, photo_id=other.photo_id)]

    plant(own, change)
    found = doubles.find_dataset_leaks(own)
    (leak,) = [leak for leak in found.examples if leak.kind == "photo"]
    assert [leak.one, leak.other] == planted and (leak.one_split, leak.other_split) == ("train", "test")


def test_a_near_duplicate_in_two_splits_recropped_or_as_a_whole_photo(own: Path) -> None:
    kept: dict[str, tuple[Face, Face, list[Photo]]] = {}

    def recropped(ledger: Ledger) -> list:
        one, other = ends(ledger)
        photos = [photo for photo in ledger.read_rows(Photo) if photo.photo_id in (one.photo_id, other.photo_id)]
        kept["was"] = one, other, photos
        return [dataclasses.replace(one, phash=other.phash, shard=other.shard, shard_row=other.shard_row)]

    def whole(ledger: Ledger) -> list:
        one, other, photos = kept["was"]
        same = [dataclasses.replace(photo, phash="00ff" * 4) for photo in photos]
        return [dataclasses.replace(one, box=other.box, shard=other.shard, shard_row=other.shard_row), *same]

    for change, what in ((recropped, "one picture"), (whole, "copies of one photo")):
        plant(own, change)
        found = doubles.find_dataset_leaks(own)
        one, other, _ = kept["was"]
        leak = next(leak for leak in found.examples if leak.kind == "near_duplicate")
        assert (leak.one, leak.other, leak.what) == (one.face_id, other.face_id, what)
        assert leak.value == pytest.approx(1, abs=1e-5)


def test_two_faces_as_alike_as_one_persons(own: Path) -> None:
    planted: list[str] = []

    def change(ledger: Ledger) -> list:
        one, other = ends(ledger)
        planted.extend((one.face_id, other.face_id))
        return [dataclasses.replace(one, shard=other.shard, shard_row=other.shard_row)]

    plant(own, change)
    found = doubles.find_dataset_leaks(own)
    cosines = [leak for leak in found.examples if leak.kind == "cosine"]
    assert [cosines[0].one, cosines[0].other] == planted and cosines[0].value == pytest.approx(1, abs=1e-5)
    assert found.counts["near_duplicate"] == found.counts["identity"] == found.counts["photo"] == 0
    some = doubles.find_dataset_leaks(own, limit=1)
    assert some.counts == found.counts and [x for x in some.examples if x.kind == "cosine"] == cosines[:1]


def test_a_target_among_its_references_itself_or_its_copy_or_its_photo(own: Path) -> None:
    def change(ledger: Ledger) -> list:
        pair = next(pair for pair in ledger.read_rows(Pair) if pair.split == "test")
        others = [face for face in ledger.read_rows(Face) if face.face_id in pair.refs[:2]]
        (target,) = [face for face in ledger.read_rows(Face) if face.face_id == pair.target]
        copy = dataclasses.replace(others[0], phash=target.phash, shard=target.shard, shard_row=target.shard_row)
        neighbour = dataclasses.replace(others[1], photo_id=target.photo_id)
        refs = (pair.target, *pair.refs)
        return [dataclasses.replace(pair, refs=refs, similarities=(1.0, *pair.similarities)), copy, neighbour]

    plant(own, change)
    found = [leak for leak in doubles.find_dataset_leaks(own).examples if leak.kind == "own_reference"]
    assert {leak.what for leak in found} == {
        "the target itself",
        "a near-duplicate of the target",
        "from the target's photo",
    }
    assert all(leak.one == found[0].one for leak in found if leak.what == "the target itself")


def test_leaks_planted_into_a_benchmark_are_found_in_it(made: Path, tmp_path: Path) -> None:
    bench = tmp_path / "bench"
    freeze(made, bench, with_pictures=True, with_embeddings=True)
    whole = contents(bench)

    def lines(name: str) -> list[dict]:
        return [json.loads(line) for line in whole[name].splitlines()]

    def found_in(faces: list[dict] | None = None, cases: list[dict] | None = None) -> dict[str, int]:
        forge(bench, cases, faces)
        found = find_benchmark_leaks(bench)
        for name in (CASES, FACES):
            (bench / name).write_bytes(whole[name])
        return {kind: count for kind, count in found.counts.items() if count}

    faces, cases = lines(FACES), lines(CASES)
    assert found_in(faces, cases) == {}
    train_face = next(row for row in faces if row["split"] == "train")
    shown = next(row for row in faces if row["picture"] == cases[0]["picture"])
    train_face["person"] = shown["person"]
    assert found_in(faces=faces) == {"identity": 1}
    faces = lines(FACES)
    train_face, shown = (next(row for row in faces if row["face"] == one["face"]) for one in (train_face, shown))
    train_face["photo"] = shown["photo"]
    assert found_in(faces=faces) == {"photo": 1}
    train_face["photo"], train_face["photo_phash"], train_face["place"] = "f" * 64, shown["photo_phash"], shown["place"]
    assert found_in(faces=faces)["near_duplicate"] >= 1, "found by its hash alone, without an embedding"
    cases[0]["references"][0] = cases[0]["picture"]
    assert found_in(cases=cases) == {"own_reference": 1}


def test_what_cannot_be_checked_is_said(made: Path, tmp_path: Path) -> None:
    freeze(made, tmp_path / "bare")
    found = find_benchmark_leaks(tmp_path / "bare")
    assert found.total == 0 and found.unchecked == [
        "Leaks of the kind cosine, and near-duplicates with different crops, were not searched, because 48 of 48 faces "
        "have no embedding: run `likeness leaks DATASET --benchmark BENCH` with a dataset of the same photos. When the "
        "benchmark was frozen, 0 leaks of kind cosine were counted."
    ]
    assert found.alike_pairs == found.expected_pairs == 0
    with pytest.MonkeyPatch.context() as patch:
        doubles.install(patch)
        doubles.album(tmp_path / "photos", people=1, each=12)
        doubles.curated(tmp_path / "photos", tmp_path / "personal", split=SplitRules("photos", 0.2, 0.2))
    personal = doubles.find_dataset_leaks(tmp_path / "personal")
    assert personal.counts["identity"] == personal.counts["cosine"] == personal.counts["own_reference"] == 0
    assert any("--split-by photos" in sentence for sentence in personal.unchecked)


def test_what_has_nothing_to_check_is_one_sentence(own: Path, tmp_path: Path) -> None:
    with pytest.raises(LedgerMissing):
        doubles.find_dataset_leaks(tmp_path / "nothing")
    with Ledger.open(tmp_path / "empty", write=True):
        pass
    with pytest.raises(BadInput, match="likeness curate"):
        doubles.find_dataset_leaks(tmp_path / "empty")
    with Ledger.open(own, write=True) as ledger:
        photo = ledger.read_rows(Photo)[0]
        ledger.record("double", "gone", {}, delete=[("photos", "photo_id", [photo.photo_id])])
    with pytest.raises(LedgerBroken, match="manifest check"):
        doubles.find_dataset_leaks(own)


def random_faces(n: int, people: int, d: int = 16) -> tuple[list[FaceLine], np.ndarray]:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(n, d)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    split = rng.choice(["train", "val", "test"], people, p=[0.6, 0.2, 0.2])
    lines = []
    for i in range(n):
        person = int(rng.integers(people))
        hashes = rng.bytes(32).hex(), rng.bytes(8).hex()
        lines.append(FaceLine(f"{i:032x}", f"photo{i}", f"p{person}", str(split[person]), *hashes, (0, 0, 1, 1), None))
    return lines, vectors


def test_blocks_find_what_a_loop_over_all_pairs_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    faces, vectors = random_faces(120, 60)
    vectors[7] = vectors[8]
    monkeypatch.setattr(curate.people.leaks.face_pairs, "_ROWS", 7)
    monkeypatch.setattr(curate.people.leaks.face_pairs, "_COLUMNS", 11)
    monkeypatch.setattr(curate.people.leaks.find_leaks, "PAIRS_PER_BATCH", 5)
    found = find_leaks(faces, np.arange(120), vectors, np.zeros((0, 2), np.int64), "identity", RULES, limit=10_000)
    cosine = vectors.astype(np.float64) @ vectors.T.astype(np.float64)

    def toward(i: int, j: int) -> float:
        side = [k for k, f in enumerate(faces) if (f.person, f.split) == (faces[j].person, faces[j].split)]
        return float(cosine[i, side].mean()) if len(side) > 1 or alone(i) else -1.0

    def alone(i: int) -> bool:
        return sum((f.person, f.split) == (faces[i].person, faces[i].split) for f in faces) == 1

    above = [
        (i, j)
        for i in range(120)
        for j in range(i)
        if faces[i].split != faces[j].split and cosine[i, j] >= RULES.same_person
    ]
    wanted = {
        frozenset((faces[i].face, faces[j].face))
        for i, j in above
        if max(toward(i, j), toward(j, i)) >= RULES.same_person
    }
    assert 0 < len(wanted) < len(above)
    assert {frozenset((leak.one, leak.other)) for leak in found.examples} == wanted
    assert found.counts["cosine"] == len(wanted) == found.total and found.alike_pairs == len(above)
    assert found.expected_pairs == pytest.approx(found.pairs * RULES.false_match_rate, abs=0.1)
    assert found.pairs == sum(a.split != b.split for i, a in enumerate(faces) for b in faces[:i])


def test_the_command_lists_leaks_and_exits_with_one(own: Path, command: Run) -> None:
    clean = command("leaks", own)
    assert clean.returncode == 0 and "No leak was found among 48 faces" in clean.stdout, clean.stderr

    def change(ledger: Ledger) -> list:
        one, other = ends(ledger)
        return [dataclasses.replace(one, shard=other.shard, shard_row=other.shard_row)]

    plant(own, change)
    found = command("leaks", own, "--limit", 1)
    assert (
        found.returncode == 1
        and "Leaks were found" in found.stdout
        and "more leaks of this kind: list all with --limit" in found.stdout
    )
    told = json.loads(command("leaks", own, "--json").stdout)
    assert told["ok"] is False and set(told["counts"]) == set(KINDS)
    assert {Leak(**leak).kind for leak in told["examples"]} == {"cosine"}
    wrong = command("leaks", own, "--benchmark", own)
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("numbers", "text"), [((3,), "3"), ((3, 4), "3, 4"), ((3, 4, 5), "3 to 5"), ((1, 5, 6), "1, 5, 6")]
)
def test_numbers_of_decisions_are_short_text(numbers: tuple[int, ...], text: str) -> None:
    assert _list_numbers(numbers) == text
