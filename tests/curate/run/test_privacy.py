"""Tests privacy: only pixels enter a dataset, and photos without consent or after an opt-out stay out."""

import base64
import itertools
import json
import re
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin
from typer.testing import CliRunner

import curate.detection.detect
import curate.detection.embed
import curate.photos.consent
import manifests.pictures.untrusted_images
from curate.photos.consent import SidecarLine, match_sidecar, read_sidecar
from curate.photos.optout_faces import opt_out_faces
from curate.photos.read_files import read_photo_row
from degrade.frozen.dataset_sets import make_set
from manifests.card import CARD
from manifests.check import check_ledger
from manifests.errors import BadInput
from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import crop_path
from manifests.ledger.records import Degradation, Face, File, KeptOutMark, Membership, Pair, Photo
from manifests.privacy.optout import plan_optout, read_photo_list
from manifests.privacy.purge import purge
from manifests.privacy.purge_plan import plan_purge
from manifests.report.build_report import build_report
from manifests.runtime.files import sha256_file
from manifests.why.explain_photo import explain_photo
from tests.doubles import curation as doubles
from tests.doubles.curation import album, curated, curated_album, install, models, photo, rows, save, use_models
from tests.doubles.pictures.metadata import encode_again, rate


@pytest.fixture(autouse=True)
def face_models(monkeypatch):
    install(monkeypatch)


MARKERS = (b"MARKER-GPS", b"MARKER-XMP", b"MARKER-COMMENT", b"MARKER-TEXT", b"MARKER-ITXT", b"MARKER-ARTIST")


def told_photo(path: Path, person: int, seed: int, side: int = 120) -> None:
    """Saves a photo with all kinds of metadata that files can contain."""
    image = Image.fromarray(photo([person], seed, side))
    path.parent.mkdir(parents=True, exist_ok=True)
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[315] = "MARKER-ARTIST"
    exif[0x8825] = {1: "N", 2: (48.0, 51.0, 30.0), 29: "2020:01:01", 27: "MARKER-GPS"}
    xmp = b"<x:xmpmeta>MARKER-XMP</x:xmpmeta>"
    if path.suffix == ".jpg":
        image.save(path, quality=95, exif=exif, icc_profile=icc, xmp=xmp, comment=b"MARKER-COMMENT")
        return
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("Comment", "MARKER-TEXT")
    chunks.add_itxt("XML:com.adobe.xmp", "MARKER-ITXT MARKER-XMP")
    image.save(path, pnginfo=chunks, exif=exif, icc_profile=icc)


def everything(folder: Path) -> bytes:
    """Returns the bytes of every file in the folder, and the bytes of the pictures inside pages."""
    data = b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())
    inside = re.findall(rb"data:image/[a-z]+;base64,([A-Za-z0-9+/=]+)", data)
    return data + b"".join(base64.b64decode(one) for one in inside)


def test_no_byte_of_a_photos_metadata_gets_into_the_dataset(tmp_path):
    photos, dataset = tmp_path / "photos", tmp_path / "dataset"
    for person in range(4):
        for number in range(3):
            told_photo(photos / f"{person}-{number}.{'jpg' if number % 2 else 'png'}", person, number)
    # A filter drops this face, so the report cuts its picture from the photo.
    told_photo(photos / "small.jpg", 5, 9, side=32)
    curated(photos, dataset)
    for path in photos.iterdir():
        assert any(marker in path.read_bytes() for marker in MARKERS) and b"acsp" in everything(photos)
    make_set(dataset, "codeformer", "train", 0, 64, workers=1)
    page = build_report(dataset).read_bytes()
    assert b"too_small" in page or b"too few pixels" in page
    assert page.count(b"data:image/jpeg;base64,") > 20
    found = everything(dataset)
    for marker in (*MARKERS, b"acsp", b"Exif\0\0", b"ICC_PROFILE", b"http://ns.adobe.com", b"iCCP", b"eXIf", b"tEXt"):
        assert marker not in found, marker


# --- consent ---


def sidecar(path: Path, *lines: str) -> str:
    path.write_text("file,source,licence,consent\n" + "".join(f"{line}\n" for line in lines))
    return str(path)


def test_a_copy_of_a_photo_that_loses_its_consent_is_named(tmp_path):
    photos, dataset = album(tmp_path / "photos", people=3, each=3), tmp_path / "dataset"
    save(photos / "copies" / "again.jpg", photo([0], 0), int(cv2.IMWRITE_JPEG_QUALITY), 95)
    assert "near_duplicate" in curated(photos, dataset).faces
    for name, named in (("person1/0.png", False), ("person0/0.png", True)):
        summary = curated(photos, dataset, sidecar=sidecar(tmp_path / "no.csv", f"{name},,,no"))
        said = [notice for notice in summary.notices if "1 copy of photos without consent stays in use" in notice]
        assert [str(photos / "copies" / "again.jpg") in notice for notice in said] == [True] * named


def reasons(dataset: Path) -> dict[str, int]:
    found = [row.reason or row.status for row in rows(dataset, Photo)]
    return {name: found.count(name) for name in sorted(set(found))}


@pytest.fixture
def looked_at(monkeypatch) -> list[int]:
    """Returns a list. For each photo that the detector gets, the width of the photo is appended to the list."""
    calls: list[int] = []
    plain = models("double")

    def watched(spec: str):
        def detect(image: np.ndarray):
            calls.append(image.shape[1])
            return plain.detect(image)

        return replace(models(spec), detect=detect)

    use_models(monkeypatch, watched)
    return calls


def test_a_photo_without_consent_is_dropped_before_a_face_is_looked_for(tmp_path, looked_at):
    photos, dataset = album(tmp_path / "photos"), tmp_path / "dataset"
    hashed = sha256_file(photos / "person1" / "2.png")
    told = sidecar(
        tmp_path / "told.csv",
        "person0/0.png,Ann's own,CC BY 4.0,yes",
        "person0/1.png,,,no",
        f"{hashed},the web,,withdrawn",
        "person9/9.png,,,yes",
    )
    summary = curated(photos, dataset, sidecar=told)
    assert len(looked_at) == 10 and reasons(dataset) == {"no_consent": 2, "ok": 10}
    assert any("no photo matches 1 file name: person9/9.png" in said for said in summary.notices)
    said = {row.photo_id: (row.source, row.licence, row.consent) for row in rows(dataset, Photo)}
    assert said[sha256_file(photos / "person0" / "0.png")] == ("Ann's own", "CC BY 4.0", "yes")
    assert said[hashed] == ("the web", None, "withdrawn")
    lines, _ = explain_photo(dataset, "person0/0.png")
    assert lines[1].endswith(": ok, source Ann's own, licence CC BY 4.0, consent yes")
    assert "no_consent" in explain_photo(dataset, "person0/1.png")[0][1]
    page = build_report(dataset).read_text()
    assert "Ann&#39;s own" in page and "withdrawn" in page
    card = (dataset / CARD).read_text()
    assert "| CC BY 4.0 | 1 |" in card and "| yes | 1 |" in card and "| photos | no_consent | 2 |" in card
    # If a run has no sidecar, the consent of the previous run still holds, and no photo is processed again.
    looked_at.clear()
    curated(photos, dataset)
    assert looked_at == [] and reasons(dataset) == {"no_consent": 2, "ok": 10}
    assert {row.photo_id: (row.source, row.licence, row.consent) for row in rows(dataset, Photo)} == said


def test_withdrawn_consent_takes_what_was_made_and_given_again_needs_no_new_detection(tmp_path, looked_at):
    photos, dataset = curated_album(tmp_path, people=5, each=4)
    before = {row.face_id: row for row in rows(dataset, Face)}
    make_set(dataset, "codeformer", "train", 0, 64, workers=1)
    target = next(row for row in rows(dataset, Pair) if row.split == "train")
    hashed = before[target.target].photo_id
    shard = dataset / "embeddings" / f"{before[target.target].shard}.npy"
    vector = np.load(shard)[before[target.target].shard_row].tobytes()
    looked_at.clear()
    report = build_report(dataset, [])
    curated(photos, dataset)
    assert report.is_file()
    curated(photos, dataset, sidecar=sidecar(tmp_path / "no.csv", f"{hashed},,,withdrawn"))
    assert not report.exists()  # the report was removed, because it showed the face
    (face,) = [row for row in rows(dataset, Face) if row.face_id == target.target]
    assert (face.status, face.reason, face.shard) == ("dropped", "no_consent", None)
    assert not crop_path(dataset, face.face_id).exists() and vector not in everything(dataset / "embeddings")
    assert not list((dataset / "lq").rglob(f"{face.face_id}.png")) and check_ledger(dataset) == []
    assert face.face_id not in (dataset / "lq" / "codeformer-train-64-s0" / "theta.jsonl").read_text()
    assert all(face.face_id not in (row.target, *row.refs) for row in rows(dataset, Pair))
    curated(photos, dataset, sidecar=sidecar(tmp_path / "yes.csv", f"{hashed},,,yes"))
    assert looked_at == []
    again = {row.face_id: row for row in rows(dataset, Face)}
    assert (
        again[face.face_id].status == "ok" and crop_path(dataset, face.face_id).exists() and check_ledger(dataset) == []
    )


def test_required_consent_drops_what_nobody_spoke_of_and_only_then(tmp_path, looked_at):
    photos, dataset = album(tmp_path / "photos", people=3, each=2), tmp_path / "dataset"
    told = sidecar(tmp_path / "told.csv", *(f"person{n}/{m}.png,,,yes" for n in range(2) for m in range(2)))
    curated(photos, dataset, sidecar=told, require_consent=True)
    assert reasons(dataset) == {"consent_missing": 2, "ok": 4} and len(looked_at) == 4
    curated(photos, dataset)
    assert reasons(dataset) == {"ok": 6} and len(looked_at) == 6
    curated(photos, dataset, require_consent=True)
    assert reasons(dataset) == {"consent_missing": 2, "ok": 4} and len(looked_at) == 6 and check_ledger(dataset) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file,consent\na.jpg,maybe\n", r"line 2: the consent maybe is unknown. Write yes, no, withdrawn, or nothing"),
        ("file,consent\na.jpg,yes\na.jpg,no\n", r"line 3: a.jpg is already in line 2"),
        ("file,consent\n\n,yes\n", r"line 3: the cell in the column file is empty"),
        ("file,consent\na.jpg,yes,x\n", r"line 2: the line has 3 columns"),
        ('file,consent\na.jpg,"yes\n', r"line 2: the line is not CSV"),
        ('file,licence\na.jpg,"CC\nBY"\n', r"line 2: the licence is longer than"),
        ("file,other\na.jpg,yes\n", r"must name the column file and at least one of source, licence, consent"),
        ("name,consent\na.jpg,yes\n", r"must name the column file, once"),
        ("file,consent\n", r"names no file"),
    ],
)
def test_a_sidecar_that_does_not_fit_is_refused_with_the_line(tmp_path, text, said):
    (tmp_path / "told.csv").write_text(text)
    with pytest.raises(BadInput, match=said):
        read_sidecar(tmp_path / "told.csv")
    save(tmp_path / "photos" / "a.png", photo([0], 0))
    with pytest.raises(BadInput, match=said):
        curated(tmp_path / "photos", tmp_path / "dataset", sidecar=str(tmp_path / "told.csv"))
    assert not (tmp_path / "dataset").exists()


def test_of_two_copies_the_consent_that_allows_least_counts(tmp_path):
    root = tmp_path / "photos"
    root.mkdir()
    files = [File(f"file://{root}/{name}", "p", 1, 1, "ok") for name in ("a.jpg", "b.jpg")]
    lines = [SidecarLine(2, "a.jpg", "one", None, "yes"), SidecarLine(3, "b.jpg", "two", "CC0", "no")]
    for told in (lines, lines[::-1]):
        found, notices = match_sidecar(told, files, [root])
        assert found == {"p": {"source": told[0].source, "licence": "CC0", "consent": "no"}} and notices == []


# --- opting out ---


def test_a_photo_on_the_list_is_never_looked_at_and_its_hash_is_not_kept(tmp_path, looked_at):
    photos, dataset = album(tmp_path / "photos"), tmp_path / "dataset"
    late = save(tmp_path / "late.png", photo([2], 40))
    curated(photos, dataset)
    looked_at.clear()
    (tmp_path / "list.txt").write_text(f"# asked on Monday\n{late}\n{'0' * 64}\n")
    told = [*read_photo_list(tmp_path / "list.txt"), str(photos / "person0" / "0.png")]
    plan = plan_optout(dataset, told)
    assert len(plan.photos) == 1 and len(plan.kept_out) == 2
    hashes = [sha256_file(late), sha256_file(photos / "person0" / "0.png")]
    purge(dataset, plan)
    assert {row.reason for row in rows(dataset, KeptOutMark)} == {"opted_out"} and len(rows(dataset, KeptOutMark)) == 3
    late.rename(photos / "person2" / "late.png")
    summary = curated(photos, dataset)
    assert summary.files["opted_out"] == 2 and looked_at == [] and check_ledger(dataset) == []
    data = everything(dataset)
    for text in hashes:
        assert text.encode() not in data and bytes.fromhex(text) not in data
    assert b"late.png" not in data
    assert explain_photo(dataset, str(photos / "person2" / "late.png"))[0] == [
        f"{photos / 'person2' / 'late.png'}: dropped, opted_out"
    ]
    assert explain_photo(dataset, hashes[0])[0] == [f"{hashes[0]}: kept out, opted_out"]


def test_a_file_that_was_kept_out_and_cannot_be_read_now_does_not_get_its_name_back(tmp_path):
    photos, dataset = album(tmp_path / "photos"), tmp_path / "dataset"
    told = save(photos / "person2" / "her name.png", photo([2], 40))
    curated(photos, dataset)
    purge(dataset, plan_optout(dataset, [str(told)]))
    told.unlink()
    told.symlink_to(tmp_path / "nowhere")
    assert curated(photos, dataset).files == {"ok": 12, "opted_out": 1}
    assert b"her%20name" not in everything(dataset)
    (photos / "person2" / "other.png").symlink_to(tmp_path / "nowhere")
    assert curated(photos, dataset).files == {"ok": 12, "opted_out": 1, "broken_symlink": 1}


def test_a_member_that_was_kept_out_and_is_broken_now_does_not_get_its_name_back(tmp_path):
    photos, dataset = album(tmp_path / "photos"), tmp_path / "dataset"
    inside = save(tmp_path / "inside.png", photo([2], 40))
    with zipfile.ZipFile(photos / "a.zip", "w") as archive:
        archive.write(inside, "her name.png")
    curated(photos, dataset)
    purge(dataset, plan_optout(dataset, [sha256_file(inside)]))
    data = bytearray((photos / "a.zip").read_bytes())
    data[data.index(b"IDAT") + 50] ^= 1
    (photos / "a.zip").write_bytes(data)
    assert curated(photos, dataset).files["opted_out"] == 1
    assert b"her%20name" not in everything(dataset)
    with zipfile.ZipFile(photos / "b.zip", "w") as archive:
        archive.write(inside, "new name.png")
    data = bytearray((photos / "b.zip").read_bytes())
    data[data.index(b"IDAT") + 50] ^= 1
    (photos / "b.zip").write_bytes(data)
    assert curated(photos, dataset).files["broken_member"] == 1


def test_a_file_that_holds_something_else_now_comes_in_and_the_other_way_round(tmp_path):
    photos, dataset = curated_album(tmp_path)
    one = photos / "person0" / "0.png"
    bytes_before = one.read_bytes()
    purge(dataset, plan_optout(dataset, [str(one)]))
    save(one, photo([0], 90))
    assert curated(photos, dataset).files == {"ok": 12}
    one.write_bytes(bytes_before)
    assert curated(photos, dataset).files == {"ok": 11, "opted_out": 1}
    assert check_ledger(dataset) == [] and len(rows(dataset, File)) == 12


@pytest.mark.parametrize("change", [pytest.param(rate, marks=pytest.mark.exhaustive), encode_again])
def test_who_was_purged_or_opted_out_stays_away_when_the_files_are_written_again(tmp_path, change):
    photos, dataset = tmp_path / "photos", tmp_path / "dataset"
    for person, number in itertools.product(range(3), range(3)):
        path = photos / f"person{person}" / f"{number}.{('jpg', 'png', 'webp')[number]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo([person], number)).save(path, quality=95)
    never_seen = tmp_path / "never seen.jpg"
    Image.fromarray(photo([2], 40)).save(never_seen, quality=95)
    curated(photos, dataset)
    of_photo = {row.photo_id: row for row in rows(dataset, Photo)}
    mine = {row.photo_id for row in rows(dataset, File) if "/person0/" in row.uri}
    secrets = {text for name in mine for text in (name, of_photo[name].samples, of_photo[name].phash256)}
    (person,) = {row.identity_id for row in rows(dataset, Membership) if row.face_id in faces_of(dataset, mine)}
    purge(dataset, plan_purge(dataset, [person]))
    told = [str(photos / "person1" / "0.jpg"), str(never_seen)]
    purge(dataset, plan_optout(dataset, told, read_photo=read_photo_row))
    for path in sorted(photos.rglob("*.*")):
        change(path)
    shutil.copy(photos / "person0" / "1.png", photos / "copy.png")
    change(never_seen)
    never_seen.rename(photos / "person2" / "late.jpg")
    assert curated(photos, dataset).files == {"ok": 5, "purged": 4, "opted_out": 2}
    assert check_ledger(dataset) == [] and not mine & {row.photo_id for row in rows(dataset, Photo)}
    data = everything(dataset)
    assert not [text for text in secrets if text.encode() in data or bytes.fromhex(text) in data]
    # If another photo takes the place of a purged file, this photo is used.
    save(photos / "person0" / "1.png", photo([5], 7))
    assert curated(photos, dataset).files == {"ok": 6, "purged": 3, "opted_out": 2}


def faces_of(dataset: Path, photo_ids: set[str]) -> set[str]:
    return {row.face_id for row in rows(dataset, Face) if row.photo_id in photo_ids}


@pytest.fixture
def example(tmp_path) -> Path:
    return save(tmp_path / "example.png", photo([1], 60))


def test_an_example_face_takes_its_person_out_of_the_dataset(tmp_path, example):
    photos, dataset = album(tmp_path / "photos"), tmp_path / "dataset"
    save(photos / "both.png", photo([0, 1], 50))
    curated(photos, dataset)
    make_set(dataset, "codeformer", "train", 0, 64, workers=1)
    mine = {row.photo_id for row in rows(dataset, File) if "/person1/" in row.uri}
    faces = {row.face_id for row in rows(dataset, Face) if row.photo_id in mine}
    before = {row.face_id: row for row in rows(dataset, Face)}
    plan = opt_out_faces(dataset, [example], remember=False, dry_run=True)
    assert set(plan.faces) > faces and len(plan.faces) == 4 and plan.people == 1
    assert {row.face_id: row for row in rows(dataset, Face)} == before
    assert opt_out_faces(dataset, [example], remember=False) == plan
    gone = [row for row in rows(dataset, Face) if row.face_id in plan.faces]
    parts = {(row.status, row.reason, row.shard, row.embedding_device, row.phash) for row in gone}
    assert parts == {("dropped", "opted_out", None, None, "")}
    assert {before[row.face_id].embedding_device for row in gone} == {"cpu"}
    assert not any(crop_path(dataset, face).exists() for face in plan.faces) and check_ledger(dataset) == []
    assert not any(row.face_id in plan.faces for kind in (Membership, Degradation) for row in rows(dataset, kind))
    assert rows(dataset, KeptOutMark) == []
    # In the photo of two people, the face of the other person stays in use.
    both = next(row.photo_id for row in rows(dataset, File) if row.uri.endswith("both.png"))
    assert [row.status for row in rows(dataset, Face) if row.photo_id == both].count("ok") == 1
    # The ledger remembers only the places of the opted-out faces. These faces stay out even if the photo goes through
    # detection again.
    with Ledger.open(dataset, write=True) as ledger:
        ledger.record("double", "all", {}, delete=[("stages", "stage", ["detect"])])
    summary = curated(photos, dataset)
    assert summary.faces["opted_out"] == 4 and check_ledger(dataset) == []
    save(photos / "new.png", photo([1], 70))
    assert curated(photos, dataset).faces == {**summary.faces, "ok": summary.faces["ok"] + 1}
    # The faces also stay out if the file gets a rating, and they stay out of a smaller copy of the photo.
    shutil.copy(photos / "both.png", photos / "copy.png")
    encode_again(photos / "copy.png", scale=0.5)
    rate(photos / "both.png")
    assert curated(photos, dataset).faces["opted_out"] == 5
    crop_path(dataset, plan.faces[0]).write_bytes(b"x")
    assert check_ledger(dataset) == [f"this face must not be used, but has a crop: {plan.faces[0]}"]


def test_a_remembered_face_is_kept_out_of_later_photos_before_anything_is_written(tmp_path, example, monkeypatch):
    photos, dataset = curated_album(tmp_path)
    done = opt_out_faces(dataset, [example], remember=True)
    assert done.remembered == 1
    (row,) = rows(dataset, KeptOutMark)
    assert row.kind == "face" and len(row.embedding) == 3 and row.recognizer
    opt_out_faces(dataset, [example], remember=True)
    assert rows(dataset, KeptOutMark) == [row]
    written = []
    plain = curate.detection.detect.write_crop
    monkeypatch.setattr(
        curate.detection.detect, "write_crop", lambda *words: (written.append(words[1]), plain(*words))[1]
    )
    save(photos / "new.png", photo([1], 70))
    save(photos / "two.png", photo([1, 3], 71))
    summary = curated(photos, dataset)
    assert summary.faces["opted_out"] == len(done.faces) + 2 and len(written) == 1 and check_ledger(dataset) == []


def test_faces_accepted_later_are_compared_too(tmp_path, example):
    photos, dataset = album(tmp_path / "photos"), tmp_path / "dataset"
    save(photos / "small.png", photo([1], 70, side=60))
    from curate.detection.filter_files import set_min_inter_ocular
    from curate.face_filters import DEFAULT

    curated(photos, dataset, screen=set_min_inter_ocular(DEFAULT, 20))
    assert opt_out_faces(dataset, [example], remember=True).faces
    small = next(row.photo_id for row in rows(dataset, File) if row.uri.endswith("small.png"))
    before = [row.reason for row in rows(dataset, Face) if row.photo_id == small]
    curated(photos, dataset, screen=set_min_inter_ocular(DEFAULT, 1))
    after = [row.reason for row in rows(dataset, Face) if row.photo_id == small]
    assert before == ["too_small"] and after == ["opted_out"] and check_ledger(dataset) == []


def test_an_example_must_show_one_face(tmp_path):
    _, dataset = curated_album(tmp_path, people=2, each=2)
    for people, said in (([], "no usable face"), ([1, 2], "2 usable faces")):
        path = save(tmp_path / "x.png", photo(people, 0))
        with pytest.raises(BadInput, match=said):
            opt_out_faces(dataset, [path], remember=True)
    assert rows(dataset, KeptOutMark) == [] and doubles.contents(dataset)["faces"]


def test_an_example_is_decoded_in_a_process_of_its_own(tmp_path, example, monkeypatch):
    _, dataset = curated_album(tmp_path)
    (letter := tmp_path / "letter.jpg").write_text("Dear photograph")
    monkeypatch.setattr(manifests.pictures.untrusted_images, "_decode", lambda *_: pytest.fail("decoded here"))
    assert len(opt_out_faces(dataset, [example], remember=False, dry_run=True).faces) == 3
    for path, said in ((letter, " as a picture: it is not"), (tmp_path / "none.jpg", ": No such file")):
        with pytest.raises(BadInput, match=f"{path.name} cannot be read{said}"):
            opt_out_faces(dataset, [path], remember=False)


def cli(*words: object):
    import likeness

    return CliRunner().invoke(likeness.app, [str(word) for word in words])


def test_the_command_line_asks_before_it_takes_and_says_what_it_took(tmp_path, example):
    _, dataset = curated_album(tmp_path)
    before = doubles.contents(dataset)
    for words, said in (
        ((), "Name the photos or faces to keep out"),
        (("--remember-face", "--photo", "x"), "--remember-face needs --face"),
        (("--face", example, "--photo", "0.png"), "One command opts out either photos or faces"),
        (("--face", example), "with --yes"),
        (("--photo", "person0/0.png"), "with --yes"),
        (("--photo", "nowhere.png"), "contains no photo nowhere.png"),
        (("--photo-list", tmp_path / "none.txt"), "cannot be read"),
    ):
        result = cli("manifest", "optout", dataset, *words)
        assert isinstance(result.exception, BadInput) and said in str(result.exception), (words, result.output)
    for words in (("--face", example), ("--photo", "person0/0.png")):
        result = cli("manifest", "optout", dataset, *words, "--dry-run")
        assert result.exit_code == 0 and result.output.startswith(
            ("To drop: 3 faces", "The command would remove 1 photo ")
        )
    assert doubles.contents(dataset) == before
    told = json.loads(cli("manifest", "optout", dataset, "--face", example, "--yes", "--json").output)
    assert len(told["faces"]) == 3 and told["remembered"] == 0
    result = cli("manifest", "optout", dataset, "--photo", "person0/1.png", "--yes")
    assert "Proof: Likeness looked for 1 photo hash, " in result.output and "nothing is left" in result.output
    assert "Kept out" not in result.output
    (tmp_path / "list.txt").write_text("0" * 64 + "\n")
    result = cli("manifest", "optout", dataset, "--photo-list", tmp_path / "list.txt", "--yes")
    lines = result.output.splitlines()
    (removed,) = [line for line in lines if line.startswith("Removed: ")]
    assert "kept out" not in removed and "Kept out: 1 photo that the dataset does not contain." in lines
    told = json.loads(cli("manifest", "purge", dataset, "--photo", "person2/1.png", "--yes", "--json").output)
    assert told["removed"]["photos"] == 1 and told["proof"]["remains"] == []
    assert "opted_out" in cli("manifest", "card", dataset, "--dry-run").output and check_ledger(dataset) == []


def test_a_member_of_an_archive_is_told_of_by_its_place_and_the_archive_itself_is_no_photo(tmp_path):
    photos, dataset = tmp_path / "photos", tmp_path / "dataset"
    album(photos, people=2, each=2)
    inside = tmp_path / "inside.png"
    save(inside, photo([1], 40))
    with zipfile.ZipFile(photos / "a.zip", "w") as archive:
        archive.write(inside, "b/c.png")
    summary = curated(photos, dataset, sidecar=sidecar(tmp_path / "told.csv", "a.zip/b/c.png,,,no"))
    assert not any("of no photo" in notice for notice in summary.notices)
    (row,) = [row for row in rows(dataset, Photo) if row.photo_id == sha256_file(inside)]
    assert (row.consent, row.reason) == ("no", "no_consent")
    with pytest.raises(BadInput, match=r"a\.zip is an archive. Name each photo in the archive as a\.zip/PHOTO"):
        plan_optout(dataset, [str(photos / "a.zip")])
