"""Tests that a photo that hangs, kills its worker process or needs too much memory harms no other photo.

Also tests that archives are read without unpacking them.
"""

import gzip
import io
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

import curate.detection.detect
import curate.photos.read_files
from curate.config import CurateConfig
from curate.detection.detect import detect
from curate.detection.face_models import choose_face_models, insert_model_settings
from curate.photos.read_files import scan_batch
from curate.photos.scan import scan
from curate.photos.walk import walk_files
from degrade.frozen.jobs import Job, compare_jobs, open_untrusted_job_pool, run_jobs
from degrade.presets import find_preset
from degrade.sampling import sample_theta
from manifests.check import check_ledger
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import Face, File, Photo
from manifests.runtime import archives
from manifests.runtime.archives import ArchiveError, Member, count_members, read_bytes, read_entry, read_member
from manifests.runtime.uris import display_path, member_uri, parse_member_uri, path_of, uri_of
from manifests.runtime.workers import open_pool
from manifests.why.explain_photo import explain_photo
from tests.doubles import curation as curate_doubles
from tests.doubles.commands.misbehaviour import RIGHT, misbehave, short
from tests.doubles.curation import album, curated, photo, rows, save
from tests.doubles.pictures.hostile_archives import tarred, zipped

# --- the stages ---

# If a photo has one of these sizes (height, width), the worker process that reads it misbehaves.
ODD = {"hang": (61, 7), "die": (62, 7), "starve": (63, 7)}


def decode_or_misbehave(source, **options):
    image = honest_decode(source, **options)
    for what, size in ODD.items():
        if image.rgb.shape[:2] == size:
            misbehave(what)
    return image


honest_decode = curate.photos.read_files.decode_picture


def bad_decoder() -> None:
    short()
    curate.photos.read_files.decode_picture = decode_or_misbehave


def bad_detector() -> None:
    short()
    patch = pytest.MonkeyPatch()
    curate_doubles.install(patch)
    plain = curate_doubles.models("double")

    def models(spec: str):
        def finds(image):
            for what, size in ODD.items():
                if image.shape[:2] == size:
                    misbehave(what)
            return plain.detect(image)

        return curate_doubles.FaceModels(**{**vars(plain), "detect": finds})

    curate_doubles.use_models(patch, models)


@pytest.fixture
def photos(tmp_path):
    folder = album(tmp_path / "photos", people=2, each=2)
    for what, (height, width) in ODD.items():
        save(folder / f"{what}.png", np.zeros((height, width, 3), np.uint8))
    return folder


def quiet(*_: object) -> None:
    return None


@pytest.mark.slow
def test_scan_gives_exactly_that_photo_its_reason(photos, tmp_path):
    with Ledger.open(tmp_path / "dataset", write=True) as ledger, open_pool(2, bad_decoder) as run:
        scan(ledger, [photos], run, quiet)
        found = ledger.read_rows(File)
        assert {row.height for row in ledger.read_rows(Photo)} == {180}
    reasons = {path_of(row.uri).stem: row.reason for row in found if row.status != "ok"}
    assert reasons == {what: RIGHT[what] for what in ODD} and len(found) == 7
    # The files are not read again, because they have not changed.
    with Ledger.open(tmp_path / "dataset", write=True) as ledger, open_pool(None) as run:
        scan(ledger, [photos], run, quiet)
        assert ledger.read_rows(File) == found


@pytest.mark.slow
def test_detect_gives_exactly_that_photo_its_reason_whichever_is_decoded_meanwhile(photos, tmp_path, monkeypatch):
    curate_doubles.install(monkeypatch)
    with Ledger.open(tmp_path / "dataset", write=True) as ledger, open_pool(1, bad_detector) as run:
        scan(ledger, [photos], run, quiet)
        models = choose_face_models(ledger, "auto")
        detect(ledger, insert_model_settings(CurateConfig(), models), models, run, quiet)
        found = {row.height: row.reason for row in ledger.read_rows(Photo) if row.status != "ok"}
        assert len(ledger.read_rows(Face)) == 4
    assert check_ledger(tmp_path / "dataset") == []
    assert found == {size[0]: RIGHT[what] for what, size in ODD.items()}


def kill_at_decode() -> None:
    import degrade.frozen.jobs

    short()
    decode = degrade.frozen.jobs.decode

    def odd(data: bytes):
        misbehave({b"h": "hang", b"d": "die"}.get(data[:1], ""))
        return decode(data)

    degrade.frozen.jobs.decode = odd


@pytest.mark.slow
def test_degrade_skips_a_picture_that_hangs_or_kills_its_worker(tmp_path):
    save(tmp_path / "a.png", photo([0], 0))
    (tmp_path / "h.png").write_bytes(b"h")
    (tmp_path / "d.png").write_bytes(b"d")
    jobs = [
        Job(tmp_path / f"{name}.png", 32, sample_theta(find_preset("gfpgan"), 0, name), tmp_path / "a.png")
        for name in "had"
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("degrade.frozen.jobs._start_worker", kill_at_decode)
        with open_untrusted_job_pool(1, 3) as run:
            results, compared = list(run(run_jobs, jobs)), list(run(compare_jobs, jobs[1:]))
    assert [result.problem for result in results] == [
        "takes more than 120 s",
        None,
        "ends the process that decodes it",
    ]
    assert [one.disk_sha256 is None for one in compared] == [False, True]


# --- archives ---


def packed(folder: Path, kind: str, members: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"album.{kind}"
    data = zipped(list(members.items())) if kind == "zip" else tarred(list(members.items()))
    path.write_bytes(gzip.compress(data, 1, mtime=0) if kind == "tar.gz" else data)
    return path


def pngs(people: int = 3, each: int = 3) -> dict[str, bytes]:
    found = {}
    for person in range(people):
        for number in range(each):
            buffer = io.BytesIO()
            curate_doubles_image(person, number).save(buffer, "PNG")
            found[f"person{person}/{number}.png"] = buffer.getvalue()
    return found


def curate_doubles_image(person: int, number: int):
    from PIL import Image

    return Image.fromarray(photo([person], number))


@pytest.mark.parametrize("kind", ["zip", pytest.param("tar", marks=pytest.mark.exhaustive), "tar.gz"])
def test_an_archive_gives_the_faces_of_its_folder_and_is_read_once(tmp_path, monkeypatch, kind):
    curate_doubles.install(monkeypatch)
    members = pngs()
    for name, data in members.items():
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    plain = curated(tmp_path / "folder", tmp_path / "plain", labels="folder")
    archive, dataset = packed(tmp_path / "packed", kind, members), tmp_path / "dataset"
    found = curated(archive, dataset, labels="folder")
    assert found.files == {"archive": 1, "ok": 9} and (found.faces, found.pairs) == (plain.faces, plain.pairs)
    assert {face.face_id for face in rows(dataset, Face)} == {face.face_id for face in rows(tmp_path / "plain", Face)}
    # no member was unpacked to the disk
    assert check_ledger(dataset) == [] and not list(tmp_path.rglob("person0/0.png"))[1:]
    lines, (row,) = explain_photo(dataset, "person1/2.png")
    assert lines[0] == f"{archive}/person1/2.png: ok" and "labelled person1" in lines[1] and row["there"]
    for name in ("_open", "count_members"):
        monkeypatch.setattr(archives, name, None)
    assert curated(archive, dataset, labels="folder") == found


def test_lost_crops_of_members_are_made_again(tmp_path, monkeypatch):
    curate_doubles.install(monkeypatch)
    archive, dataset = packed(tmp_path / "packed", "tar.gz", pngs()), tmp_path / "dataset"
    found = curated(archive, dataset)
    crops = curate_doubles.files(dataset)
    for path in dataset.rglob("*.png"):
        path.unlink()
    assert curated(archive, dataset) == found and curate_doubles.files(dataset) == crops


def test_an_archive_that_changed_is_read_again_and_one_that_went_is_told(tmp_path, monkeypatch):
    curate_doubles.install(monkeypatch)
    members, dataset = pngs(), tmp_path / "dataset"
    archive = packed(tmp_path / "packed", "zip", members)
    curated(tmp_path / "packed", dataset)
    del members["person0/0.png"]
    packed(tmp_path / "packed", "zip", members)
    found = curated(tmp_path / "packed", dataset)
    assert found.files == {"archive": 1, "ok": 8} and found.photos == {"file_replaced": 1, "ok": 8}
    held = archive.read_bytes()
    archive.write_text("no archive any more")
    assert curated(tmp_path / "packed", dataset).files == {"not_an_image": 1}
    archive.write_bytes(held)
    assert curated(tmp_path / "packed", dataset) == found
    archive.unlink()
    (said,) = [notice for notice in curated(tmp_path / "packed", dataset).notices if "no longer there" in notice]
    assert said.startswith("8 files that contained photos are no longer there, ") and "album.zip/person0/1.png" in said


def test_an_archive_that_was_broken_off_is_read_again(tmp_path):
    archive = packed(tmp_path / "packed", "zip", pngs(8, 8))
    with Ledger.open(tmp_path / "dataset", write=True) as ledger:

        def breaks(function, batches):
            for number, batch in enumerate(batches):
                if number and isinstance(batch[0], Member):
                    raise KeyboardInterrupt
                yield function(batch)

        with pytest.raises(KeyboardInterrupt):
            scan(ledger, [archive], breaks, quiet)
        assert len(ledger.read_rows(File)) == 32
        scan(ledger, [archive], map, quiet)
        assert len(ledger.read_rows(File)) == 65


def test_a_members_uri_keeps_place_and_name():
    for name in (b"a.png", b"b/c#1.png", b"\xff\n%20", b"", b"../x", b"a\0b"):
        uri = member_uri(Path("/tmp/a#b.zip"), 7, name)
        assert parse_member_uri(uri) == (Path("/tmp/a#b.zip"), 7, name) and path_of(uri) == Path("/tmp/a#b.zip")
        assert uri.isascii() and uri.isprintable() and uri.count("#") == 1
    assert parse_member_uri(uri_of("/tmp/a#b.zip")) is None and path_of(uri_of("/tmp/a#0/b")) == Path("/tmp/a#0/b")
    assert display_path(member_uri(Path("/a.zip"), 0, b"b/c.png")) == Path("/a.zip/b/c.png")
    assert display_path(member_uri(Path("/a.zip"), 0, b"/b")) == Path("/a.zip/b")


def test_what_an_archive_may_hold_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_MEMBERS", 5)
    zip_file = packed(tmp_path, "zip", {f"{i}.png": b"" for i in range(6)})
    assert count_members(zip_file) == (5, "too_many_members")
    monkeypatch.setattr(archives, "MAX_MEMBERS", 6)
    assert count_members(zip_file) == (6, "archive")
    monkeypatch.setattr(archives, "MAX_GROWTH_BYTES", 2**20)
    big = {"0.bmp": bytes(2**20), "1.bmp": bytes(2**25)}
    tar = packed(tmp_path / "tar", "tar.gz", big)
    assert count_members(tar) == (2, "archive_bomb")
    assert read_member(Member(tar, 0)) == bytes(2**20)
    # A member is refused at the first block that exceeds MAX_GROWTH_BYTES, so the member of 32 MiB is not unpacked to
    # its end.
    with pytest.raises(ArchiveError, match="archive_bomb"):
        read_entry(Member(tar, 2))
    monkeypatch.setattr(archives, "MAX_MEMBER_BYTES", 2**19)
    archives.close_archive()
    assert read_entry(Member(tar, 0)).reason == "file_too_large"


def test_members_are_found_in_any_order(tmp_path):
    members = {f"{i}.txt": bytes([i]) * 3000 for i in range(20)}
    for kind in ("zip", "tar", "tar.gz"):
        archive = packed(tmp_path, kind, members)
        for i in (5, 5, 19, 0, 7, 3):
            assert read_member(Member(archive, i)) == bytes([i]) * 3000
            assert read_bytes(member_uri(archive, i, f"{i}.txt".encode())) == bytes([i]) * 3000
        with pytest.raises(ArchiveError, match="file_vanished"):
            read_bytes(member_uri(archive, 3, b"4.txt"))
        with pytest.raises(ArchiveError):
            read_member(Member(archive, 20))


def test_every_byte_of_a_member_is_checked(tmp_path):
    data = np.random.default_rng(0).bytes(5000)
    archive = packed(tmp_path, "zip", {"a": data})
    raw = bytearray(archive.read_bytes())
    raw[raw.index(data[-40:]) + 39] ^= 1
    archive.write_bytes(raw)
    with pytest.raises(ArchiveError, match="broken_member"):
        read_member(Member(archive, 0))
    assert zipfile.is_zipfile(archive) and not tarfile.is_tarfile(archive)


# --- symlinks ---


def test_a_symlink_is_followed_inside_what_was_offered_and_nowhere_else(tmp_path):
    for name in ("photos/a.png", "photos/sub/b.png", "other/c.png", "photos2/d.png"):
        save(tmp_path / name, photo([0], 0))
    here = tmp_path / "photos"
    links = {
        "in": "a.png",
        "out": "../other/c.png",
        "folder": "../other",
        "near": "../photos2/d.png",
        "etc": "/etc/passwd",
    }
    for name, target in links.items():
        (here / name).symlink_to(target)
    (tmp_path / "named").symlink_to(here)

    def found(*paths: Path) -> dict[str, str]:
        return {
            path_of(item.uri).name if isinstance(item, File) else item.name: getattr(item, "reason", "") or "scan"
            for item in walk_files(paths)
        }

    out = "symlink_leaves_folder"
    expected = {"a.png": "scan", "b.png": "scan", "in": "scan", "out": out, "folder": out, "near": out, "etc": out}
    assert found(here) == found(tmp_path / "named") == expected
    # A link is followed if it leads to another folder that the command names.
    both = found(here, tmp_path / "other")
    assert both["out"] == "scan" and both["c.png"] == "scan"
    assert both["near"] == both["etc"] == out
    assert found(here / "out") == {"out": "scan"}  # a link is followed if the command names the link itself


def test_a_pipe_that_took_a_files_place_does_not_hang_the_run(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    save(tmp_path / "a.png", photo([0], 0))
    with open_pool(1, short) as run:
        (found,) = run(scan_batch, [[tmp_path / "pipe.png", tmp_path / "a.png"]])
    assert [row.reason or row.status for row in found if isinstance(row, File)] == ["timed_out", "ok"]
