"""Tests that no cleaned picture gets into val, test or an evaluation, whatever is in the ledger and in the files."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest

from curate.config import SplitRules
from degrade.frozen.dataset_sets import make_set
from manifests.check import check_ledger
from manifests.ledger.cleaned_targets import find_stray_versions, find_version_files, select_best_versions, version_path
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import CleanedVersion, Face, Pair, Split, TrainingImage
from manifests.privacy.purge import purge
from manifests.privacy.purge_plan import plan_purge
from manifests.runtime.files import sha256_bytes, write_atomically
from tests.doubles import curation as doubles
from tests.doubles.iteration import RED
from train.benchmark.freeze import freeze
from train.data.snapshot import Snapshot
from train.data.take_snapshot import take_snapshot
from train.evaluation.sets.cases import read_frozen_set

SIZE = 32


@pytest.fixture(scope="module", params=["identity", "photos"])
def clean(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Makes a dataset with a frozen test set, split by people or by photos. The tests must not change the dataset."""
    root = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        doubles.install(patch)
        doubles.curated(
            doubles.album(root / "photos", people=8, each=4), root / "dataset", split=SplitRules(request.param)
        )
    make_set(root / "dataset", "codeformer", "test", 0, SIZE, workers=1)
    return root / "dataset"


@pytest.fixture
def planted(clean: Path, tmp_path: Path) -> tuple[Path, Mapping[str, CleanedVersion]]:
    """Makes a copy of the dataset in which every face has an accepted version of an iteration. Each version is a red
    picture."""
    dataset, done, data = Path(shutil.copytree(clean, tmp_path / "planted")), *cv2.imencode(".png", RED[:, :, ::-1])
    assert done
    made = {}
    with Ledger.open(dataset, write=True) as ledger:
        for face in ledger.read_rows(Face):
            write_atomically(version_path(dataset, "it", 0, face.face_id), data.tobytes())
            sha256 = sha256_bytes(data.tobytes())
            made[face.face_id] = CleanedVersion("it", 0, face.face_id, "soft", "p", "run", "c", "{}", sha256)
        ledger.record("iterate", "it/clean-0/00000", {}, list(made.values()))
    return dataset, made


def red(crops: np.ndarray) -> np.ndarray:
    """Returns which of the crops (n, S, S, 3) are red."""
    return (crops == RED).all(axis=(1, 2, 3))


def beyond_training(snapshot: Snapshot) -> set[int]:
    """Returns the rows of val and test, and the rows of all references of their targets."""
    rows = {row for row, split in enumerate(snapshot.splits) if split != "train"}
    return rows.union(*(map(int, snapshot.references[row]) for row in rows))


def test_a_snapshot_takes_versions_of_training_faces_alone(
    planted: tuple[Path, Mapping[str, CleanedVersion]], tmp_path: Path
) -> None:
    dataset, made = planted
    with Ledger.open(dataset) as ledger:
        best = select_best_versions(ledger, "it")
        training = {row.face_id for row in ledger.read_rows(Split) if row.split == "train" and row.status == "ok"}
        shown = {ref for pair in ledger.read_rows(Pair) if pair.split != "train" for ref in pair.refs}
        assert best and set(best) == {face for face in training - shown if face in made}
    # A snapshot ignores versions of faces outside the training set, even if the caller gives them.
    for name, versions in (("best", best), ("all", made)):
        snapshot = take_snapshot(dataset, tmp_path / name, SIZE, doubles.models("auto"), versions=versions)
        found = red(snapshot.crops)
        assert found.any() and not found[sorted(beyond_training(snapshot))].any()
        assert [version is not None for version in snapshot.versions] == found.tolist()
        assert {snapshot.splits[row] for row in np.flatnonzero(found)} == {"train"}
    plain = take_snapshot(dataset, tmp_path / "plain", SIZE, doubles.models("auto"))
    assert not red(plain.crops).any() and "cleaned" not in plain.facts


def test_frozen_sets_cases_benchmarks_and_leaks_are_what_they_were(
    clean: Path, planted: tuple[Path, Mapping[str, CleanedVersion]], tmp_path: Path
) -> None:
    dataset, _ = planted
    for split in ("val", "test", "train"):
        sets = [make_set(folder, "gfpgan", split, 1, SIZE, workers=1) for folder in (clean, dataset)]
        files = [{path.name: path.read_bytes() for path in Path(one.folder).iterdir()} for one in sets]
        assert files[0] == files[1] and sets[0].images > 0
    cases = [
        read_frozen_set(folder, SIZE, f"codeformer-test-{SIZE}-s0", 4, 0, with_poor=True).cases
        for folder in (clean, dataset)
    ]
    assert len(cases[0]) == len(cases[1]) > 0
    for one, other in zip(*cases, strict=True):
        others = [picture for crops, _ in other.poor.values() for picture in crops]
        assert not red(np.stack([other.lq, other.target, *other.references, *other.wrong, *others])).any()
        assert np.array_equal(one.target, other.target) and np.array_equal(one.lq, other.lq)
        assert np.array_equal(np.stack(one.references), np.stack(other.references))
        assert np.array_equal(one.reference_embeddings, other.reference_embeddings)
    for folder, name in ((clean, "one"), (dataset, "two")):
        freeze(folder, tmp_path / name, lq_set=f"codeformer-test-{SIZE}-s0", with_pictures=True)
    bytes_of = [
        {str(p.relative_to(tmp_path / name)): p.read_bytes() for p in (tmp_path / name).rglob("*") if p.is_file()}
        for name in ("one", "two")
    ]
    assert bytes_of[0] == bytes_of[1]
    assert doubles.find_dataset_leaks(dataset).as_json() == doubles.find_dataset_leaks(clean).as_json()


def test_check_names_every_version_of_a_face_that_is_not_training(
    clean: Path, planted: tuple[Path, Mapping[str, CleanedVersion]]
) -> None:
    dataset, made = planted
    what = "this face is outside the training split, but has a cleaned version"
    with Ledger.open(dataset) as ledger:
        training = {row.face_id for row in ledger.read_rows(Split) if row.split == "train"}
        assert {row.face_id for row in find_stray_versions(ledger)} == set(made) - training
    found = {line.removeprefix(f"{what}: ") for line in check_ledger(dataset) if line.startswith(what)}
    assert found == set(made) - training and found
    assert not [line for line in check_ledger(clean) if line.startswith(what)]


def test_check_compares_cleaned_pictures_with_their_rows(planted: tuple[Path, Mapping[str, CleanedVersion]]) -> None:
    dataset, made = planted
    gone, changed, none = sorted(made)[:3]
    version_path(dataset, "it", 0, gone).unlink()
    version_path(dataset, "it", 0, changed).write_bytes(b"another")
    write_atomically(version_path(dataset, "it", 7, none), b"of no row")
    found = {line.partition(": ")[0]: Path(line).stem for line in check_ledger(dataset) if "outside" not in line}
    assert found == {
        "this cleaned version is missing": gone,
        "this cleaned version has changed": changed,
        "the ledger has no row for this cleaned version": none,
    }
    assert not [line for line in check_ledger(dataset, hashes=False) if "changed" in line]


def test_whoever_is_purged_takes_their_cleaned_pictures_along(
    planted: tuple[Path, Mapping[str, CleanedVersion]],
) -> None:
    dataset, made = planted
    with Ledger.open(dataset, write=True) as ledger:
        split_of = {row.face_id: row.split for row in ledger.read_rows(Split)}
        photo = next(row.photo_id for row in ledger.read_rows(Face) if split_of.get(row.face_id) == "train")
        ledger.record("iterate", "it/train-1", {}, [TrainingImage("it", 1, face, 0) for face in made])
        # All pictures must differ, because the purge searches for the bytes of pictures.
        for number, face in enumerate(made):
            data = cv2.imencode(".png", np.full((SIZE, SIZE, 3), number, np.uint8))[1].tobytes() + b"%d" % number
            write_atomically(version_path(dataset, "it", 0, face), data)
    plan = plan_purge(dataset, [], [photo])
    assert plan.faces and all(find_version_files(dataset, face) for face in plan.faces)
    done = purge(dataset, plan)
    assert done.proof.remains == () and not any(find_version_files(dataset, face) for face in plan.faces)
    with Ledger.open(dataset) as ledger:
        left = set(made) - set(plan.faces)
        assert (
            {row.face_id for row in ledger.read_rows(CleanedVersion)}
            == {row.face_id for row in ledger.read_rows(TrainingImage)}
            == left
        )
    assert all(find_version_files(dataset, face) for face in left)
    assert f"| it | 0 | {len(left)} |" in (dataset / "card.md").read_text()
