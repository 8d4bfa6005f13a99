"""Tests that only new pixels change the rows of a photo. New metadata, orientation, decoders or encodings do not."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

import manifests.pictures.stored_samples
from curate.decisions.decide import decide
from curate.photos.history.frame_changes import FrameChange, find_turn
from manifests.check import check_ledger
from manifests.ledger.records import DecisionRow, Face, File, Identity, Membership, Photo, Split
from manifests.pictures.images import decode_picture, turn_upright
from tests.doubles.curation import contents, curated, files, install, photo, rows
from tests.doubles.pictures.metadata import encode_again, orient, rate

KINDS = ("jpg", "png", "webp")


@pytest.fixture(autouse=True)
def face_models(monkeypatch):
    install(monkeypatch)


def save_album(folder: Path, kinds: tuple[str, ...] = KINDS, people: int = 2) -> Path:
    for person in range(people):
        for number in range(3):
            path = folder / f"person{person}" / f"{number}.{kinds[number % len(kinds)]}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(photo([person], number)).save(path, quality=95)
    return folder


def decided_album(tmp_path: Path, kinds: tuple[str, ...] = KINDS) -> tuple[Path, Path]:
    """Makes photos, and a dataset in which one person has a name and one face was dropped by a decision."""
    photos, dataset = save_album(tmp_path / "photos", kinds), tmp_path / "dataset"
    curated(photos, dataset)
    people = sorted(row.identity_id for row in rows(dataset, Identity))
    face = min(row.face_id for row in rows(dataset, Membership) if row.identity_id == people[1])
    decide(dataset, [{"kind": "rename", "faces": [people[0]], "name": "Ann"}, {"kind": "drop", "faces": [face]}])
    return photos, dataset


def compare(dataset: Path, before: dict[str, list], but: tuple[str, ...] = ("stages", "files")) -> None:
    """Checks that all tables are the same as `before`, except the tables in `but`."""
    after = contents(dataset)
    assert {name for name in after if name not in but and after[name] != before[name]} == set()


def test_a_rating_in_every_file_changes_no_row_and_no_photo_is_looked_at(tmp_path, monkeypatch):
    photos, dataset = decided_album(tmp_path)
    before, crops = contents(dataset), files(dataset)
    for stars, path in enumerate(sorted(photos.rglob("*.*"))):
        pixels = decode_picture(path).rgb
        rate(path, stars)
        assert np.array_equal(decode_picture(path).rgb, pixels)
    install(monkeypatch)
    monkeypatch.setattr("curate.detection.detect._detect_faces", lambda *_: pytest.fail("the detector got a photo"))
    summary = curated(photos, dataset)
    assert summary.files == {"ok": 6} and summary.photos == {"ok": 6}
    compare(dataset, before)
    assert files(dataset) == crops and check_ledger(dataset) == []
    # A lost crop is cut again from the file with the new rating. The copy with another rating is the same photo.
    next((dataset / "faces").rglob("*.png")).unlink()
    (photos / "copy.jpg").write_bytes((photos / "person0" / "0.jpg").read_bytes())
    rate(photos / "copy.jpg", 1)
    assert curated(photos, dataset).files == {"ok": 6, "same_file": 1}
    assert files(dataset) == crops
    compare(dataset, before)


def test_a_file_saved_again_in_its_place_keeps_names_drops_splits_and_ids(tmp_path):
    photos, dataset, scale = *decided_album(tmp_path), 0.5
    before, crops = contents(dataset), files(dataset)
    faces = rows(dataset, Face)
    for path in photos.rglob("*.*"):
        encode_again(path, 90, scale)
    curated(photos, dataset)
    compare(dataset, before, but=("stages", "files", "photos", "faces", "decisions"))
    assert files(dataset) == crops
    for old, new in zip(faces, rows(dataset, Face), strict=True):
        assert (new.face_id, new.status, new.reason) == (old.face_id, old.status, old.reason)
        assert new.box == pytest.approx(np.array(old.box) * scale)
    # If another photo takes the place of the file, it counts as a new photo.
    Image.fromarray(photo([9], 5)).save(photos / "person0" / "0.jpg")
    assert curated(photos, dataset).photos["file_replaced"] == 1


def test_a_library_that_moved_keeps_names_drops_splits_and_ids(tmp_path, monkeypatch):
    photos, dataset = decided_album(tmp_path)
    before, crops = contents(dataset), files(dataset)
    monkeypatch.setattr("curate.detection.detect._detect_faces", lambda *_: pytest.fail("the detector got a photo"))
    moved = photos.rename(tmp_path / "elsewhere")
    assert curated(moved, dataset).photos == {"ok": 6}
    compare(dataset, before)
    assert files(dataset) == crops and check_ledger(dataset) == []


def test_the_boxes_turn_with_the_orientation(tmp_path):
    photos, dataset = decided_album(tmp_path, ("jpg",))
    files_before, crops = sorted(photos.rglob("*.jpg")), files(dataset)
    names = {row.identity_id: row.name for row in rows(dataset, Identity)}
    splits = rows(dataset, Split)
    for orientation in (6, 2):
        for path in files_before:
            orient(path, orientation)
        summary = curated(photos, dataset)
        assert summary.photos == {"ok": 6} and {row.orientation for row in rows(dataset, Photo)} == {orientation}
        assert {row.identity_id: row.name for row in rows(dataset, Identity)} == names
        assert rows(dataset, Split) == splits
        curated(photos, fresh := tmp_path / f"fresh{orientation}")
        uri_of_photo = {row.photo_id: row.uri for row in rows(fresh, File)}
        expected = {uri_of_photo[row.photo_id]: row for row in rows(fresh, Face)}
        uri_of_photo = {row.photo_id: row.uri for row in rows(dataset, File)}
        for face in rows(dataset, Face):
            other = expected[uri_of_photo[face.photo_id]]
            assert face.box == pytest.approx(other.box, abs=1) and face.turn == {6: 90, 2: 0}[orientation]
            # The landmarks of the turned photo are not compared, because the double finds only upright faces.
            assert orientation == 6 or face.landmarks5 == pytest.approx(other.landmarks5, abs=1.5)
        assert (files(dataset) == crops) == (orientation != 2)  # only the crop of a mirrored face is cut again
    (decision, _) = rows(dataset, DecisionRow)
    box = json.loads(decision.faces)["faces"][0]["box"]
    assert box == pytest.approx((40, 30, 160, 150), abs=4)  # this is the place of the face, in the middle of the photo


def test_of_two_files_with_two_orientations_the_photo_keeps_the_first(tmp_path):
    photos, dataset = save_album(tmp_path / "photos", ("jpg",)), tmp_path / "dataset"
    turned = photos / "person0" / "turned.jpg"
    turned.write_bytes((photos / "person0" / "0.jpg").read_bytes())
    orient(turned, 6)
    summary = curated(photos, dataset)
    assert summary.files == {"ok": 6, "same_file": 1} and summary.faces == {"ok": 6}
    crops = files(dataset)
    next((dataset / "faces").rglob("*.png")).unlink()
    curated(photos, dataset)
    assert files(dataset) == crops
    (photos / "person0" / "0.jpg").unlink()
    rate(turned)
    curated(photos, dataset)
    assert {row.orientation for row in rows(dataset, Photo)} == {1, 6} and check_ledger(dataset) == []


def test_after_an_update_of_the_decoder_the_hash_of_the_file_links_old_rows_to_new(tmp_path, monkeypatch):
    photos, dataset = decided_album(tmp_path)
    before, old_photos = contents(dataset), rows(dataset, Photo)
    load, describe = ImageFile.ImageFile.load, manifests.pictures.stored_samples.describe_decoder

    def load_one_level_brighter(image):
        is_new = image._im is None or bool(image.tile)
        result = load(image)
        if is_new and image.mode == "RGB":
            image.im = image.im.point([min(level + 1, 255) for level in range(256)] * 3, None)
        return result

    monkeypatch.setattr(ImageFile.ImageFile, "load", load_one_level_brighter)
    monkeypatch.setattr(manifests.pictures.stored_samples, "describe_decoder", lambda kind: describe(kind) + " new")
    assert decode_picture(photos / "person0" / "0.jpg").rgb.min() == 1
    summary = curated(photos, dataset)
    assert summary.photos == {"ok": 6}
    compare(dataset, before, but=("stages", "files", "photos"))
    for old, new in zip(old_photos, rows(dataset, Photo), strict=True):
        assert new.samples != old.samples and str(new.decoder).endswith(" new")
        assert (new.photo_id, new.width, new.status, new.orientation) == (old.photo_id, old.width, "ok", 1)
    # After this curation, the new samples identify the photos.
    for path in photos.rglob("*.*"):
        rate(path)
    curated(photos, dataset)
    compare(dataset, before, but=("stages", "files", "photos"))


@pytest.mark.parametrize("old", range(1, 9))
def test_a_turn_moves_points_as_pixels_move(old):
    stored = np.zeros((3, 5), np.uint8)
    stored[2, 3] = 1  # the pixel at x = 3, y = 2
    for new in range(1, 9):
        upright, turned = turn_upright(stored, old), turn_upright(stored, new)
        change = FrameChange("p", upright.shape[::-1], turned.shape[::-1], find_turn(old, new))
        point, expected = np.argwhere(upright)[0][::-1], np.argwhere(turned)[0][::-1]
        assert change.move(point.tolist())[0] == pytest.approx(expected)
        x, y = point.tolist()
        assert change.move_box((x, y, x + 1, y + 1)) == pytest.approx((*expected, *(expected + 1)))


def test_a_tiff_that_pillow_turns_while_loading_has_the_same_samples(tmp_path):
    image = Image.fromarray(photo([1], 2))
    hashes = set()
    for orientation in (1, 6, 7):
        path = tmp_path / f"{orientation}.tif"
        image.save(path, tiffinfo={274: orientation})
        stored = decode_picture(path, identify=True).stored
        assert stored is not None and stored.orientation == orientation
        hashes.add(stored.sha256)
    assert len(hashes) == 1
