"""Tests reading published lists. A line that contradicts another line, or that leads out of its folder, is refused."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.imports.lists import read_lists
from manifests.errors import BadInput
from tests.doubles.exports import write_csv

HEADER = ["gt_image", "ref_image"]


@pytest.fixture
def pictures(tmp_path) -> Path:
    """Writes the files that the lists name. Nothing reads their content."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in "abcdef":
        (folder / f"{name}.png").write_bytes(name.encode())
    return folder


def listed(
    tmp_path: Path, lines: list[list[str]], header: list[str] = HEADER, name: str = "train_references.csv"
) -> Path:
    return write_csv(tmp_path / name, header, lines)


def test_columns_may_stand_in_any_order_and_others_are_left_alone(tmp_path, pictures):
    table = listed(tmp_path, [["2.0", "['b.png', 'c.png']", "a.png"]], ["weight", "ref_image", "gt_image"])
    found = read_lists(table, "refldm", pictures)
    assert found.references == {pictures / "a.png": [pictures / "b.png", pictures / "c.png"]}
    assert found.photos == [pictures / f"{name}.png" for name in "abc"] and found.notices == []
    assert set(found.labels.values()) == {"person-00000"} and set(found.splits.values()) == {"train"}


def test_what_is_missing_is_listed_and_what_is_said_twice_is_told(tmp_path, pictures):
    table = listed(
        tmp_path,
        [
            ["a.png", "['b.png', 'gone.png', 'b.png']"],
            ["lost.png", "['c.png']"],
            ["a.png", "['b.png', 'gone.png']"],
            ["d.png", "[]"],
        ],
    )
    found = read_lists(table, "refldm", pictures)
    assert found.missing == ["gone.png", "lost.png"] and found.references == {pictures / "a.png": [pictures / "b.png"]}
    assert found.notices == [
        "1 line repeats an earlier line.",
        "1 line names no reference. A photo without a reference does not become a target.",
        "The lists name 2 pictures without a file: gone.png, lost.png.",
    ]
    with pytest.raises(BadInput, match=r"names no picture that exists\. Missing pictures: a\.png, b\.png"):
        read_lists(table, "refldm", tmp_path)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["", "['b.png']"], "gt_image is empty"),
        (["nan", "['b.png']"], "gt_image is empty"),
        (["a.png", ""], "ref_image must be a list"),
        (["a.png", "nan"], "ref_image must be a list"),
        (["a.png", "b.png"], "ref_image must be a list"),
        (["a.png", "('b.png',)"], "ref_image must be a list"),
        (["a.png", "['b.png', 3]"], "ref_image must be a list"),
        (["a.png", "['b.png', '']"], "ref_image must be a list"),
        (["a.png", "__import__('os').system('true')"], "ref_image must be a list"),
        (["a.png", "[" * 20000], "ref_image must be a list"),
        (["a.png", "['a.png']"], "is one of its own references"),
        (["a.png", "['./a.png', 'b.png']"], "is also one of its own references, under another name"),
        (["a.png", "['../secret.png']"], "leads out of"),
        (["/etc/hostname", "['b.png']"], "leads out of"),
        (["a.png", "['link.png']"], "leads out of"),
        (["a.png", "['b\\x00.png']"], "leads out of"),
        (["a.png"], "the line has 1 column, but the first line names 2"),
        (["a.png", "['b.png']", "x"], "the line has 3 columns, but the first line names 2"),
    ],
)
def test_a_line_that_cannot_be_meant_is_refused_with_its_number(tmp_path, pictures, line, said):
    (tmp_path / "secret.png").write_bytes(b"secret")
    (pictures / "link.png").symlink_to(tmp_path / "secret.png")
    # the first record contains a line break, so the wrong record is in line 4
    table = listed(tmp_path, [["c.png", "['d.png',\n 'e.png']"], line])
    with pytest.raises(BadInput) as refused:
        read_lists(table, "refldm", pictures)
    assert said in str(refused.value) and f"{table}, line 4: " in str(refused.value)
    assert str(refused.value).count("\n") == 0


def test_lists_that_contradict_each_other_are_refused(tmp_path, pictures):
    lists = tmp_path / "reference_mapping"
    listed(lists, [["a.png", "['b.png']"]])
    for lines, said in (
        ([["a.png", "['c.png']"]], "the references of .* differ from the references in"),
        ([["c.png", "['b.png']"]], "b.png is in val, but another list puts it into train"),
    ):
        listed(lists, lines, name="val_references.csv")
        with pytest.raises(BadInput, match=said):
            read_lists(tmp_path, "refldm", pictures)
    (lists / "val_references.csv").unlink()
    splits = tmp_path / "id_based_ffhq_split"
    splits.mkdir()
    (splits / "test_image.txt").write_text("e.png\n\nb.png\n")
    with pytest.raises(BadInput, match=r"b\.png is in train, but another list puts it into test"):
        read_lists(tmp_path, "refldm", pictures)
    (splits / "test_image.txt").write_text("e.png\n")
    (splits / "train_image.txt").write_text("e.png\n")
    with pytest.raises(
        BadInput, match=r"test_image\.txt, line 1: e\.png is in test, but an earlier line puts it into train"
    ):
        read_lists(tmp_path, "refldm", pictures)
    (splits / "train_image.txt").write_text("f.png\n../secret\n")
    with pytest.raises(BadInput, match=r"train_image\.txt, line 2: '\.\./secret' leads out"):
        read_lists(tmp_path, "refldm", pictures)
    (splits / "train_image.txt").write_text("f.png\n")
    found = read_lists(tmp_path, "refldm", pictures)
    assert {path.name: split for path, split in found.splits.items()} == {
        "a.png": "train", "b.png": "train", "e.png": "test", "f.png": "train"
    }  # fmt: skip
    assert {path.name for path in found.photos} == {"a.png", "b.png", "e.png", "f.png"}


def test_a_labelled_folder_is_a_folder_a_person_however_deep(tmp_path):
    source = tmp_path / "people"
    for name in ("00001/0.png", "00001/cropped_images/1.png", "00002/0.png", "read.me"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(name.encode())
    found = read_lists(source, "labelled-folder")
    assert {str(path.relative_to(source)): label for path, label in found.labels.items()} == {
        "00001/0.png": "00001", "00001/cropped_images/1.png": "00001", "00002/0.png": "00002"
    }  # fmt: skip
    assert found.notices == ["1 file is left out, because it is in no person's folder or cannot be read."]
    splits = tmp_path / "splits"
    splits.mkdir()
    (splits / "train.txt").write_text("00001\nno-such\n")
    (splits / "test.txt").write_text("00002/0.png\n")
    found = read_lists(source, "labelled-folder", None, splits)
    assert {str(path.relative_to(source)): split for path, split in found.splits.items()} == {
        "00001/0.png": "train", "00001/cropped_images/1.png": "train", "00002/0.png": "test"
    }  # fmt: skip
    assert found.missing == ["no-such"]
    (splits / "test.txt").write_text("00001/0.png\n")
    with pytest.raises(
        BadInput, match=r"test\.txt, line 1: 00001/0\.png is in test, but an earlier line puts it into train"
    ):
        read_lists(source, "labelled-folder", None, splits)


def test_what_is_no_source_is_one_sentence(tmp_path, pictures):
    (tmp_path / "empty").mkdir()
    (tmp_path / "no.csv").write_bytes(b"")
    (tmp_path / "other.csv").write_text("photo,label\n")
    (tmp_path / "quote.csv").write_text('gt_image,ref_image\n"a.png,[]\n')
    (tmp_path / "latin.csv").write_bytes("gt_image,ref_image\nä.png,[]\n".encode("latin-1"))
    for source, kind, more, said in (
        (tmp_path / "nowhere", "refldm", (), "does not exist"),
        (tmp_path / "empty", "zip", (), "Give labelled-folder or refldm"),
        (tmp_path / "empty", "refldm", (), r"has no reference_mapping/\*\.csv"),
        (tmp_path / "empty", "labelled-folder", (), "names no picture"),
        (tmp_path / "no.csv", "labelled-folder", (), "is a file"),
        (tmp_path / "no.csv", "refldm", (), "must name the columns gt_image and ref_image"),
        (tmp_path / "other.csv", "refldm", (), "must name the columns gt_image and ref_image"),
        (tmp_path / "quote.csv", "refldm", (), "a quote that is not closed"),
        (tmp_path / "latin.csv", "refldm", (), "not UTF-8"),
        (pictures, "labelled-folder", (pictures,), "A labelled folder contains its pictures. Leave --originals out"),
        (tmp_path / "other.csv", "refldm", (tmp_path / "no.csv",), "is not a folder"),
        (pictures, "labelled-folder", (None, tmp_path / "empty"), "has no train_image.txt"),
        (pictures, "labelled-folder", (None, tmp_path / "no.csv"), "is not a folder"),
    ):
        with pytest.raises(BadInput, match=said):
            read_lists(source, kind, *more)


@settings(max_examples=60)
@given(st.binary(max_size=300))
def test_any_bytes_are_a_list_or_one_sentence(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("any")
    table = folder / "train.csv"
    table.write_bytes(b"gt_image,ref_image\n" + data)
    with pytest.raises(BadInput) as refused:
        read_lists(table, "refldm")
    assert str(refused.value)
