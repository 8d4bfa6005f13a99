"""Tests that rules about names leave files out, and that a name in a list finds its file.

The name may be in another Unicode form, or may have backslashes.
"""

import unicodedata
import zipfile
from pathlib import Path

import pytest

from curate.photos.consent import SidecarLine, match_sidecar
from curate.photos.csv_tables import read_csv
from curate.photos.labelling.labels import read_labels
from curate.photos.name_rules import NameRules
from curate.photos.walk import walk_files
from manifests.errors import BadInput
from manifests.ledger.records import File, Photo
from manifests.privacy.optout import plan_optout
from manifests.runtime.uris import path_of, uri_of
from manifests.why.explain_photo import explain_photo
from tests.doubles.curation import album, curated, install, photo, rows, save

NFC, NFD = (unicodedata.normalize(form, "Zoë.png") for form in ("NFC", "NFD"))


@pytest.fixture(autouse=True)
def face_models(monkeypatch):
    install(monkeypatch)


def walked(folder: Path, *exclude: str, include: tuple[str, ...] = ()) -> dict[str, str]:
    rules = NameRules(exclude, include)
    items = [
        (path_of(item.uri), item.reason) if isinstance(item, File) else (item, "scan")
        for item in walk_files([folder], rules=rules)
    ]
    return {path.relative_to(folder).as_posix(): str(reason) for path, reason in items}


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def test_bins_and_system_folders_are_left_out(tmp_path):
    touch(tmp_path, ".trashed-1-a.jpg", "#recycle/a.jpg", "b/.Trash-1000/files/a.jpg", "$RECYCLE.BIN/a.jpg")
    touch(tmp_path, "@eaDir/a.jpg/x.jpg", ".thumbnails/a.jpg", "__MACOSX/._a.jpg", "b/a.jpg", "trash/a.jpg")
    assert walked(tmp_path) == {
        "#recycle": "trash",
        "$RECYCLE.BIN": "trash",
        ".thumbnails": "system_folder",
        ".trashed-1-a.jpg": "trash",
        "@eaDir": "system_folder",
        "__MACOSX": "system_folder",
        "b/.Trash-1000": "trash",
        "b/a.jpg": "scan",
        "trash/a.jpg": "scan",
    }
    # The recycle bin is left out even if a command such as `curate PHOTOS/*` names it. A folder inside the bin is read
    # if a command names this folder.
    assert [row.reason for row in walk_files([tmp_path / "#recycle"])] == ["trash"]
    assert list(walk_files([tmp_path / "b/.Trash-1000/files"])) == [tmp_path / "b/.Trash-1000/files/a.jpg"]


@pytest.mark.parametrize(
    ("exclude", "include", "scanned"),
    [
        (["*_edited.jpg"], [], ["2019/a.jpg", "2020/raw/b.PNG", "c.zip"]),
        (["raw/"], [], ["2019/a.jpg", "2019/a_EDITED.jpg", "c.zip"]),
        (["2019/*"], [], ["2020/raw/b.PNG", "c.zip"]),
        (["2020\\raw", "**/*.jpg"], [], ["c.zip"]),
        ([], ["*.png"], ["2020/raw/b.PNG", "c.zip"]),  # the archive is read, because names of its members may match
        (["*.zip"], ["2019"], ["2019/a.jpg", "2019/a_EDITED.jpg"]),
    ],
)
def test_patterns_exclude_and_include(tmp_path, exclude, include, scanned):
    touch(tmp_path, "2019/a.jpg", "2019/a_EDITED.jpg", "2020/raw/b.PNG")
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        archive.writestr("x.png", b"")
    found = walked(tmp_path, *exclude, include=tuple(include))
    assert [name for name, reason in found.items() if reason == "scan"] == scanned
    assert set(found.values()) <= {"scan", "excluded", "not_included"}


def test_a_pattern_that_is_a_whole_path_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"--exclude /x matches nothing"):
        curated(album(tmp_path / "photos", 1, 1), tmp_path / "dataset", exclude=("/x",))


def test_a_folder_without_photos_is_refused(tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(BadInput, match=r"photos contains no file\. Name a folder"):
        curated(tmp_path / "photos", tmp_path / "dataset")
    touch(tmp_path, "photos/#recycle/a.jpg")
    with pytest.raises(BadInput, match=r"photos contains no file, except 1 path that is left out\. Name a folder"):
        curated(tmp_path / "photos", tmp_path / "dataset")
    assert not (tmp_path / "dataset").exists()


def test_a_refusal_is_heeded_in_any_form_of_the_name(tmp_path):
    files = [File(uri_of(tmp_path / name), name, 1, 1, "ok") for name in (NFD, "sub/a.jpg", "sub/b.jpg")]
    lines = [SidecarLine(2, NFC, consent="no"), SidecarLine(3, r"sub\a.jpg", consent="no")]
    cells, notices = match_sidecar(lines, files, [tmp_path])
    assert cells == {NFD: {"consent": "no"}, "sub/a.jpg": {"consent": "no"}} and notices == []
    # The names of two files differ only in their Unicode form. A consent for this name holds for one of the files, and
    # a refusal holds for both files.
    both = [File(uri_of(tmp_path / name), name, 1, 1, "ok") for name in (NFC, NFD)]
    assert set(match_sidecar([SidecarLine(2, NFC, consent="yes")], both, [tmp_path])[0]) == {NFC}
    assert set(match_sidecar([SidecarLine(2, NFC, consent="no")], both, [tmp_path])[0]) == {NFC, NFD}


def test_two_files_that_differ_in_case_only_are_two_photos(tmp_path):
    photos, dataset = tmp_path / "photos", tmp_path / "dataset"
    for number, name in enumerate(("Ann.png", "ann.png", "ANN.PNG")):
        save(photos / name, photo([number], 0))
    if len(list(photos.iterdir())) < 3:
        pytest.skip("this file system does not tell the names apart")
    (tmp_path / "told.csv").write_text("file,consent\nann.png,no\n")
    summary = curated(photos, dataset, sidecar=str(tmp_path / "told.csv"))
    assert summary.files == {"ok": 3} and summary.photos == {"no_consent": 1, "ok": 2}
    assert len({row.uri for row in rows(dataset, File)}) == 3
    assert "no_consent" in explain_photo(dataset, "ann.png")[0][1]
    assert "no_consent" not in "".join(explain_photo(dataset, "Ann.png")[0])


def test_a_refusal_that_matches_nothing_ends_the_run_before_a_photo_is_read(tmp_path, monkeypatch):
    photos, dataset = album(tmp_path / "photos", people=2, each=2), tmp_path / "dataset"
    (photos / "person1" / "1.png").rename(photos / NFD)
    save(photos / "#recycle" / "old.png", photo([3], 1))
    with zipfile.ZipFile(photos / "a.zip", "w") as archive:
        archive.write(photos / "person0" / "0.png", "b/c.png")
    table = tmp_path / "told.csv"
    fine = f"file;consent\n{NFC};no\na.zip\\b\\c.png;no\n#recycle/old.png;no\n"
    table.write_text(fine + "nowhere.png;yes\nZoe.png;no\nC:\\a.png;withdrawn\n", encoding="utf-8-sig")
    with monkeypatch.context() as patch:
        patch.setattr("curate.run.pipeline.scan", None)
        with pytest.raises(BadInput, match=r"matches 2 lines that refuse consent: line 6 \(Zoe\.png\), line 7 \(C:"):
            curated(photos, dataset, sidecar=str(table))
    summary = curated(photos, dataset, sidecar=str(table), allow_unmatched=True)
    assert summary.photos == {"no_consent": 2, "ok": 2}
    assert any("no photo matches 4 file names" in notice for notice in summary.notices)
    # A line about a photo that is missing from the folder is accepted, because the photo is known. A hash that no photo
    # has is refused.
    (photos / NFD).unlink()
    table.write_text(fine + f"{'0' * 64};no\n", encoding="utf-16")
    with pytest.raises(BadInput, match=r"matches 1 line that refuses consent: line 5 \(0000"):
        curated(photos, dataset, sidecar=str(table))


def test_labels_and_look_ups_match_names_in_any_form(tmp_path):
    photos, dataset = tmp_path / "photos", tmp_path / "dataset"
    save(photos / "sub" / NFD, photo([0], 0))
    (tmp_path / "labels.csv").write_bytes(f"\ufeffphoto;label\r\nsub\\{NFC};Zoë\r\n".encode())
    curated(photos, dataset)
    photos = {row.photo_id: row for row in rows(dataset, Photo)}
    labels, notices = read_labels(str(tmp_path / "labels.csv"), rows(dataset, File), photos, map)
    assert [row.label for row in labels] == ["Zoë"] and notices == []
    assert explain_photo(dataset, f"sub/{NFC}")[1][0]["status"] == "ok"
    assert len(plan_optout(dataset, [NFC]).photos) == 1


@pytest.mark.parametrize("line", ["a, b;c", '"a, b"\tc', '"a, b",c'])
def test_the_first_line_of_a_csv_names_the_separator(tmp_path, line):
    separator = next(sign for sign in "\t;," if sign in line)
    (tmp_path / "t.csv").write_text(separator.join(["file", '"consent"']) + f"\n{line}\n")
    assert read_csv(tmp_path / "t.csv", ("file", "consent")) == (["file", "consent"], [(2, ["a, b", "c"])])
