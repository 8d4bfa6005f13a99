"""Tests that imported lists of people, references and splits hold in the first run and in every later run."""

import csv
import json
import shutil
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from curate import import_cli
from curate.config import CurateConfig, PairRules, SplitRules
from curate.decisions.decide import decide
from curate.imports.listed_faces import make_listed_pairs
from curate.imports.lists import read_lists
from curate.people.split.splits import make_splits
from curate.run.pipeline import curate
from manifests.check import check_ledger
from manifests.errors import BadInput
from manifests.export.export_dataset import export_dataset
from manifests.export.selection import ExportOptions
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import Face, File, Label, ListEntry, Membership, Pair, Split
from manifests.runtime.uris import path_of
from manifests.why.explain_photo import explain_photo
from tests.doubles.curation import album, contents, curated, install, photo, rows, save
from tests.doubles.exports import LQ_SET, dataset_of, freeze, pairs_of, splits_of, write_csv
from train.benchmark.draw_references import draw_references


@pytest.fixture(autouse=True)
def doubles(monkeypatch):
    install(monkeypatch)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        dataset = dataset_of(tmp_path_factory.mktemp("given"))
        freeze(dataset)
    return dataset


def imported(source: Path, kind: str, into: Path, *more, config: CurateConfig | None = None):
    lists = read_lists(source, kind, *more)
    return curate(lists.photos, into, config or CurateConfig(), lists=lists)


def by_file(dataset: Path) -> dict[str, str]:
    """Maps each representative to a file name: the longest name among the files of the faces that it represents."""
    name = {row.photo_id: path_of(row.uri).stem for row in rows(dataset, File)}
    names = defaultdict(list)
    for row in rows(dataset, Face):
        names[row.representative].append(name[row.photo_id])
    return {face: max(of_face, key=len) for face, of_face in names.items()}


def named_pairs(dataset: Path) -> dict[str, tuple[str, ...]]:
    name = by_file(dataset)
    return {name[target]: tuple(name[ref] for ref in refs) for target, refs in pairs_of(dataset).items()}


def named_splits(dataset: Path) -> dict[str, str]:
    name = by_file(dataset)
    return {name[face]: split for face, split in splits_of(dataset).items()}


def people(dataset: Path, name: dict[str, str] | None = None) -> set[frozenset[str]]:
    found = defaultdict(set)
    for row in rows(dataset, Membership):
        found[row.identity_id].add(row.face_id if name is None else name[row.face_id])
    return {frozenset(faces) for faces in found.values()}


# --- round trips ---


def test_refldm_out_and_in_again_is_the_same_people_targets_references_and_splits(made, tmp_path):
    export_dataset(made, tmp_path / "lists", "refldm", ExportOptions(lq_set=LQ_SET))
    summary = imported(tmp_path / "lists", "refldm", tmp_path / "back")
    back = tmp_path / "back"
    assert named_pairs(back) == pairs_of(made) and named_splits(back) == splits_of(made)
    assert people(back, by_file(back)) == people(made) and check_ledger(back) == []
    assert {row.policy for row in rows(back, Pair)} == {"list"}
    assert (
        "The column lq_image is not imported. Make a low-quality set of the dataset with `likeness degrade`."
        in summary.notices
    )
    # The imported dataset can be exported again, and the list has as many lines as before.
    export_dataset(back, tmp_path / "again", "refldm", ExportOptions())
    frame = (tmp_path / "again" / "reference_mapping" / "train_references.csv").read_text()
    assert frame.count("\n") == 13


def test_one_list_and_its_split_alone_can_be_imported(made, tmp_path):
    export_dataset(made, tmp_path / "lists", "refldm", ExportOptions("test"))
    table = tmp_path / "lists" / "reference_mapping" / "test_references.csv"
    imported(table, "refldm", tmp_path / "back")
    mine = {face for face, split in splits_of(made).items() if split == "test"}
    assert named_splits(tmp_path / "back") == dict.fromkeys(mine, "test")
    assert named_pairs(tmp_path / "back") == {t: refs for t, refs in pairs_of(made).items() if t in mine}


def test_instantrestore_in_again_as_a_labelled_folder_is_the_same_people(made, tmp_path):
    export_dataset(made, tmp_path / "folders", "instantrestore", ExportOptions("train"))
    back = tmp_path / "back"
    imported(tmp_path / "folders" / "train", "labelled-folder", back)
    train = {face for face, split in splits_of(made).items() if split == "train"}
    assert people(back, by_file(back)) == {group & train for group in people(made) if group & train}
    assert {row.source for row in rows(back, Membership)} == {"label"} and check_ledger(back) == []


def test_celebref_out_and_in_again_is_the_same_people_and_splits(made, tmp_path):
    out, back = tmp_path / "celebref", tmp_path / "back"
    export_dataset(made, out, "celebref", ExportOptions())
    with (out / "likeness_tables" / "splits.csv").open(encoding="utf-8", newline="") as file:
        face_of = {row["file"].removeprefix("images/"): row["face_id"] for row in csv.DictReader(file)}
    imported(out / "images", "labelled-folder", back, None, out / "lists")
    uris = {row.photo_id: path_of(row.uri) for row in rows(back, File)}
    name = {row.face_id: face_of["/".join(uris[row.photo_id].parts[-2:])] for row in rows(back, Face)}
    assert {name[face]: split for face, split in splits_of(back).items()} == splits_of(made)
    assert people(back, name) == people(made) and check_ledger(back) == []


# --- later runs ---


def test_what_a_list_says_holds_on_every_later_run(made, tmp_path):
    export_dataset(made, tmp_path / "lists", "refldm", ExportOptions())
    back, pictures = tmp_path / "back", tmp_path / "lists" / "images512x512"
    imported(tmp_path / "lists", "refldm", back)
    before = contents(back)
    curate([pictures], back, CurateConfig(pairs=PairRules("nearest", 2, 1, 2)))
    after = contents(back)
    assert all(
        after[table] == before[table] for table in ("list_entries", "pairs", "splits", "memberships", "identities")
    )
    shutil.rmtree(tmp_path / "lists")  # the lists are removed, but the ledger remembers what they say
    album(tmp_path / "more", people=7, each=2)
    curated(tmp_path / "more", back, pairs=PairRules("nearest"))
    named, splits = named_pairs(back), named_splits(back)
    assert {key: named[key] for key in pairs_of(made)} == pairs_of(made)
    assert {key: splits[key] for key in splits_of(made)} == splits_of(made)
    assert {row.policy for row in rows(back, Pair)} == {"list", "nearest"}, "new people follow --pairs"
    assert check_ledger(back) == []


def test_an_import_takes_the_place_of_the_one_before(made, tmp_path):
    export_dataset(made, tmp_path / "lists", "refldm", ExportOptions())
    back, pictures = tmp_path / "back", tmp_path / "lists" / "images512x512"
    imported(tmp_path / "lists", "refldm", back)
    target, refs = sorted(pairs_of(made).items())[0]
    table = write_csv(tmp_path / "one.csv", ["ref_image", "gt_image"], [[str([f"{refs[1]}.png"]), f"{target}.png"]])
    imported(table, "refldm", back, pictures)
    assert named_pairs(back)[target] == (refs[1],)
    assert {row.photo_id for row in rows(back, ListEntry) if row.refs is not None} == {
        row.photo_id for row in rows(back, Face) if by_file(back)[row.face_id] == target
    }


def test_people_listed_in_two_splits_are_set_aside_where_most_of_them_are_not(tmp_path):
    source, splits, dataset = tmp_path / "people", tmp_path / "splits", tmp_path / "dataset"
    for person in range(4):
        for number in range(3):
            save(source / f"p{person}" / f"{person}-{number}.png", photo([person], number))
    splits.mkdir()
    (splits / "train.txt").write_text("p0\np1/1-0.png\np1/1-1.png\n")
    (splits / "val.txt").write_text("p2\n")
    (splits / "test.txt").write_text("p1/1-2.png\np3\n")
    summary = imported(source, "labelled-folder", dataset, None, splits)
    expected = {"0": "train", "1": "train", "2": "val", "3": "test"}
    found = named_splits(dataset)
    assert found == {f"{p}-{n}": expected[p] for p in "0123" for n in range(3) if (p, n) != ("1", 2)}
    aside = [row for row in rows(dataset, Split) if row.status == "dropped"]
    assert [row.reason for row in aside] == ["listed_in_another_split"] and check_ledger(dataset) == []
    assert any("1 face is set aside, because an imported list puts its photo" in notice for notice in summary.notices)
    assert "set aside: listed_in_another_split" in "\n".join(explain_photo(dataset, "1-2.png")[0])
    # A decision may join people from two listed splits. This makes no leak.
    identity = {name: row.identity_id for row in rows(dataset, Membership) for name in [by_file(dataset)[row.face_id]]}
    decide(dataset, [{"kind": "merge", "sides": [identity["0-0"], identity["3-0"]]}])
    assert check_ledger(dataset) == [] and {named_splits(dataset).get(f"3-{n}", "aside") for n in range(3)} <= {
        "test",
        "aside",
    }


def test_labels_that_are_said_go_before_those_of_a_list(tmp_path):
    source, dataset = tmp_path / "people", tmp_path / "dataset"
    for person in range(2):
        for number in range(2):
            save(source / "all" / f"{person}-{number}.png", photo([person], number))
    imported(source, "labelled-folder", dataset)
    assert len(people(dataset)) == 1 and {row.truth for row in rows(dataset, Label)} == {True}
    curated(source, dataset, labels="hint")
    assert len(people(dataset)) == 2 and {row.truth for row in rows(dataset, Label)} == {False}
    curated(source, dataset)
    assert len(people(dataset)) == 1, "the list still holds"


def test_evaluation_shows_the_references_that_a_list_names(made, tmp_path):
    export_dataset(made, tmp_path / "lists", "refldm", ExportOptions())
    table = tmp_path / "lists" / "reference_mapping" / "test_references.csv"
    cases = {target: refs[1:] for target, refs in pairs_of(made).items() if splits_of(made)[target] == "test"}
    first = sorted(cases)[0]
    cases[first] = cases[first][:1]
    lines = [[f"{target}.png", str([f"{ref}.png" for ref in refs])] for target, refs in cases.items()]
    write_csv(table, ["gt_image", "ref_image"], lines)
    back = tmp_path / "back"
    imported(tmp_path / "lists", "refldm", back)
    name, lq_set = by_file(back), freeze(back)
    with Ledger.open(back) as ledger:
        _, drawn = draw_references(ledger, lq_set, references=4, seed=0)
    assert {name[case.face_id]: {name[ref] for ref in case.pool} for case in drawn} == {
        target: set(refs) for target, refs in cases.items()
    }
    assert all(set(case.references) <= set(case.pool) for case in drawn)


def test_a_frozen_split_goes_before_a_list(made, tmp_path):
    own = tmp_path / "own"
    shutil.copytree(made, own)
    name = by_file(own)
    source = path_of(rows(own, File)[0].uri).parent.parent
    frozen = {row.face_id for row in rows(own, Split) if row.locked}
    splits = tmp_path / "splits"
    splits.mkdir()
    (splits / "train.txt").write_text("".join(f"person{person}\n" for person in range(5)))
    imported(source, "labelled-folder", own, None, splits)
    rows_now = {row.face_id: row for row in rows(own, Split)}
    assert frozen and all(rows_now[face].split == "test" and rows_now[face].status == "dropped" for face in frozen)
    assert {row.split for row in rows_now.values() if row.status == "ok"} == {"train"} and check_ledger(own) == [], name


def test_why_says_what_a_list_says(made, tmp_path):
    target, refs = sorted(pairs_of(made).items())[0]
    export_dataset(made, tmp_path / "lists", "refldm", ExportOptions())
    pictures = tmp_path / "lists" / "images512x512"
    table = write_csv(tmp_path / "one.csv", ["gt_image", "ref_image"], [[f"{target}.png", str([f"{refs[0]}.png"])]])
    imported(table, "refldm", tmp_path / "back", pictures)
    said = "\n".join(explain_photo(tmp_path / "back", f"{refs[0]}.png")[0])
    assert "not a target: no imported list names this face as a target" in said
    assert "no target" not in "\n".join(explain_photo(tmp_path / "back", f"{target}.png")[0])


# --- references that a target must not have ---


def face(number: int, **changes) -> Face:
    return Face(
        **{
            **dict.fromkeys(("det_score", "inter_ocular_px", "yaw", "pitch", "roll", "sharpness"), 1.0),
            **dict.fromkeys(("blockiness", "exposure", "upsample"), 1.0),
            "face_id": f"f{number}", "photo_id": f"photo{number}", "box": (0, 0, 9, 9), "landmarks5": (0.0,) * 10,
            "landmarks68": None, "phash": "0", **changes,
        }
    )  # fmt: skip


def test_a_reference_that_a_target_may_not_have_is_left_out_with_its_reason():
    copy = {"status": "dropped", "reason": "near_duplicate"}
    faces = [
        face(0),
        face(1),
        face(2),  # This face shows another person.
        face(3),  # This face shows the same person, but is in another split, as with --split-by photos.
        face(4, duplicate_of="f0", **copy),  # This face is in the same picture as the target.
        face(5, duplicate_of="f1", **copy),
        face(6),  # This face is set aside.
        face(8),  # This face is in another copy of the target's picture, and counts as a face of its own.
    ]
    owner = {"f2": "q"}
    splits = [Split(f"f{n}", owner.get(f"f{n}", "p"), "train", "photos") for n in (0, 1, 2, 8)]
    splits += [Split("f3", "p", "test", "photos"), Split("f6", "p", "train", "photos", False, "dropped", "spans")]
    refs = tuple(f"photo{number}" for number in (2, 3, 4, 1, 5, 6, 7, 8))
    said = [
        ListEntry("photo0", None, None, refs),
        ListEntry("photo9", refs=("photo0",)),
        ListEntry("photo6", refs=("photo0",)),
    ]
    said += [ListEntry(photo) for photo in refs if photo not in ("photo6",)]
    vectors = np.eye(6, 3, dtype=np.float32)
    pairs, unpaired, lost = make_listed_pairs(said, splits, faces, vectors, {"photo8": "photo0"})
    assert [(row.target, row.refs, row.policy, row.split) for row in pairs] == [("f0", ("f1",), "list", "train")]
    assert unpaired == {"listed_but_not_usable": 1, "listed_but_spans": 1}
    assert lost == {
        "another_person": 1, "another_split": 1, "same_picture_as_its_target": 2, "copy_of_another_reference": 1,
        "spans": 1, "not_usable": 1,
    }  # fmt: skip


@settings(max_examples=80)
@given(st.data())
def test_a_listed_face_is_in_its_split_or_in_none_and_nobody_is_on_two_sides(data):
    count = data.draw(st.integers(1, 14))
    faces = [face(n, photo_id=f"photo{n // data.draw(st.integers(1, 2))}") for n in range(count)]
    owner = {row.face_id: f"p{data.draw(st.integers(0, 4))}" for row in faces}
    members = [Membership(row.face_id, owner[row.face_id], 1.0, 1.0) for row in faces]
    splits = st.sampled_from(["train", "val", "test"])
    listed = {row.face_id: data.draw(splits) for row in faces if data.draw(st.booleans())}
    policy = data.draw(st.sampled_from(["identity", "photos"]))
    found = make_splits(faces, members, [], SplitRules(policy), listed)
    ok = [row for row in found if row.status == "ok"]
    assert all(listed.get(row.face_id, row.split) == row.split for row in ok)
    if policy == "identity":
        assert all(len({row.split for row in ok if row.identity_id == person}) <= 1 for person in owner.values())
    again = make_splits(
        faces[::-1], members[::-1], [replace(row, locked=False) for row in found], SplitRules(policy), listed
    )
    assert again == found
    assert make_splits(faces, members, [], SplitRules(policy), {}) == make_splits(
        faces, members, [], SplitRules(policy)
    )


# --- the command ---


def call(*words: object):
    app = typer.Typer()
    app.command()(import_cli.import_lists)
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_command_says_what_lists_hold_and_imports_them(made, tmp_path):
    export_dataset(made, tmp_path / "lists", "refldm", ExportOptions())
    words = (tmp_path / "lists", "--format", "refldm", "--out", tmp_path / "back", "--workers", 1)
    told = call(*words, "--dry-run")
    assert "would import 20 images and labels of 5 people into" in told.stdout
    assert "20 are targets with references, and 20 are in a split" in told.stdout
    assert json.loads(call(*words, "--dry-run", "--json").stdout)["missing"] == []
    assert not (tmp_path / "back").exists()
    done = call(*words)
    assert done.exit_code == 0 and "targets  12 train" in done.stdout
    again = json.loads(call(*words, "--json").stdout)
    assert again["pairs"] == {"train": 12, "val": 4, "test": 4} and again["missing"] == []
    refused = call(tmp_path / "lists", "--format", "refldm", "--out", tmp_path / "lists")
    assert isinstance(refused.exception, BadInput)
