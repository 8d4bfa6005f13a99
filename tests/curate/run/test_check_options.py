"""Tests that useless options, and folders that belong to something else, are refused before anything is written."""

import json
import os
from pathlib import Path

import pytest

from curate.config import GroupRules, SplitRules
from curate.faces.errors import NoSuchModels
from curate.faces.load import load_faces
from curate.run.check_options import check_number
from manifests.errors import BadInput
from tests.doubles.commands.command_tables import call_curate
from tests.doubles.curation import album, curated, install, photo, save, use_models


@pytest.fixture(autouse=True)
def doubles(monkeypatch):
    install(monkeypatch)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return album(tmp_path / "photos", people=3, each=2)


def everything(folder: Path) -> list[tuple[str, list[str], list[str]]]:
    return sorted(os.walk(folder))


@pytest.mark.parametrize(
    "options",
    [
        ("--same-person", "nan"),
        ("--same-person", "5"),
        ("--same-person", "-2"),
        ("--min-inter-ocular", "nan"),
        ("--min-inter-ocular", "-4"),
        ("--min-inter-ocular", "inf"),
        ("--split-by", "foo"),
        ("--landmarks", "psychic"),
        ("--labels", "folders"),
        ("--labels", "hint:folders"),
        ("--workers", "0"),
        ("--workers", "99999999"),
    ],
)
@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_values_that_mean_nothing_are_refused_and_leave_nothing(photos, tmp_path, options, dry):
    before = everything(tmp_path)
    error = call_curate(photos, "--out", tmp_path / "dataset", *options, *dry).exception
    assert isinstance(error, BadInput) and options[0] in str(error) and "\n" not in str(error)
    assert everything(tmp_path) == before


@pytest.mark.parametrize("spec", ["none.csv", "hint:none.csv", "bad.csv"])
@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_a_table_of_labels_that_cannot_be_read_is_refused_and_leaves_nothing(photos, tmp_path, monkeypatch, spec, dry):
    monkeypatch.chdir(tmp_path)
    Path("bad.csv").write_text("photo,label\na.png,\n")
    before = everything(tmp_path)
    error = call_curate(photos, "--out", tmp_path / "dataset", "--labels", spec, *dry).exception
    assert isinstance(error, BadInput) and spec.removeprefix("hint:") in str(error) and "\n" not in str(error)
    assert everything(tmp_path) == before


@pytest.mark.parametrize("config", [{"group": GroupRules(same_person=float("nan"))}, {"split": SplitRules("sideways")}])
def test_a_caller_in_python_is_refused_too(photos, tmp_path, config):
    with pytest.raises(BadInput):
        curated(photos, tmp_path / "dataset", **config)
    assert not (tmp_path / "dataset").exists()


def test_the_ends_of_a_range_are_in_it():
    for value in (-1, 0.3, 1, None):
        check_number("--same-person", value, -1, 1, "a cosine")
    with pytest.raises(BadInput, match=r"--x 1\.5 is out of range\. Give a cosine from -1 to 1\."):
        check_number("--x", 1.5, -1, 1, "a cosine")


def test_the_folder_of_the_photos_is_no_dataset(photos, tmp_path):
    before = everything(photos)
    (tmp_path / "link").symlink_to(photos)
    for into in (photos, tmp_path / "link", photos / "." / "person1" / ".."):
        with pytest.raises(BadInput, match="is the folder of the photos"):
            curated(photos, into)
    # the folders person1 and person2 are not among the photos of this command
    with pytest.raises(BadInput, match="contains other files"):
        curated(photos / "person0", photos)
    assert everything(photos) == before
    curated(photos, tmp_path / "dataset")
    with pytest.raises(BadInput, match="is already a dataset"):
        curated(tmp_path / "dataset", tmp_path / "another")
    assert not (tmp_path / "another").exists()


def test_a_dataset_may_lie_in_the_folder_of_the_photos_and_around_it(photos, tmp_path):
    assert curated(photos, photos / "dataset").files["ok"] == 6
    around = tmp_path / "around"
    album(around / "photos", people=2, each=2)
    (around / ".DS_Store").write_text("")
    assert curated(around / "photos", around).files["ok"] == 4
    assert curated(around / "photos", around).files["ok"] == 4


def test_a_command_that_cannot_begin_leaves_no_dataset(photos, tmp_path, monkeypatch):
    with pytest.raises(BadInput, match="does not exist"):
        curated(tmp_path / "nowhere", tmp_path / "dataset")

    def none(spec: str) -> None:
        raise NoSuchModels("none")

    use_models(monkeypatch, none)
    with pytest.raises(NoSuchModels):
        curated(photos, tmp_path / "dataset", faces="bogus")
    assert not (tmp_path / "dataset").exists()


@pytest.mark.parametrize("spec", ["bogus", "", "insightface:", "insightface:/nope/at/all"])
def test_a_spec_that_names_nothing_is_unusable_input(spec):
    with pytest.raises(NoSuchModels, match="names no face models") as refused:
        load_faces(spec)
    # the sentence must not name --faces, because the value may come from --judge
    assert refused.value.exit_code == 2 and "--faces" not in str(refused.value)


def test_a_file_above_the_dataset_is_named(photos, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadInput, match=r"file is a file, but a dataset"):
        curated(photos, tmp_path / "file" / "below" / "deep")


def test_a_dry_run_prints_json_where_it_is_asked_to(photos, tmp_path):
    said = call_curate(photos, "--out", tmp_path / "dataset", "--dry-run", "--json").stdout
    assert json.loads(said) == {"files": 6, "not_walked": 0, "dataset": str(tmp_path / "dataset")}


def test_the_advice_fits_what_is_there(photos, tmp_path):
    (tmp_path / "empty").mkdir()
    refused = call_curate(tmp_path / "empty", "--out", tmp_path / "a", "--workers", 1)
    assert refused.exit_code == 2 or "contains no file. Name a folder that contains photos." in str(refused.exception)
    (tmp_path / "empty" / "letter.txt").write_text("Dear photograph")
    said = call_curate(tmp_path / "empty", "--out", tmp_path / "a", "--workers", 1).stdout
    assert "Next: name a folder that contains photos." in said and "likeness train" not in said
    save(tmp_path / "one" / "a.png", photo([0], 1))
    said = call_curate(tmp_path / "one", "--out", tmp_path / "b", "--workers", 1).stdout
    assert "say why no person has two usable photos" in said and "likeness train" not in said
    assert f"likeness train {tmp_path / 'c'}" in call_curate(photos, "--out", tmp_path / "c", "--workers", 1).stdout
