"""Tests small albums of real faces with photos like those of users: turned, covered, close-up and copied."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from curate.config import CurateConfig
from curate.faces.load import load_faces_once
from curate.run.pipeline import curate
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import Face

PEOPLE, PLAIN, STRANGERS = 3, 4, 4


@pytest.fixture
def people(shared_data: Path) -> list[Path]:
    return sorted((shared_data / "people_crops").iterdir())


@pytest.fixture
def spec(shared_data: Path) -> str:
    return f"insightface:{shared_data / 'weights' / 'insightface_small'}"


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.ascontiguousarray(image))


def frame(image: np.ndarray) -> np.ndarray:
    return cv2.copyMakeBorder(image, 40, 40, 40, 40, cv2.BORDER_CONSTANT, value=(250, 250, 250))


def turn(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    return cv2.warpAffine(image, cv2.getRotationMatrix2D((width / 2, height / 2), 5, 1), (width, height))


def show_on_a_phone(image: np.ndarray) -> np.ndarray:
    screen = np.full((1600, 720, 3), 24, np.uint8)
    shown = cv2.resize(image, None, fx=720 / image.shape[1], fy=720 / image.shape[1])[:1300]
    screen[150 : 150 + len(shown)] = shown
    return screen


COPIES = {
    "half.jpg": lambda image: cv2.resize(image, None, fx=1 / 2, fy=1 / 2, interpolation=cv2.INTER_AREA),
    "third.jpg": lambda image: cv2.resize(image, None, fx=1 / 3, fy=1 / 3, interpolation=cv2.INTER_AREA),
    "strong.jpg": lambda image: cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], 1),
    "gray.jpg": lambda image: cv2.cvtColor(image, cv2.COLOR_BGR2GRAY),
    "mirrored.jpg": lambda image: image[:, ::-1],
    "cropped.jpg": lambda image: image[image.shape[0] // 8 : -image.shape[0] // 8, image.shape[1] // 8 :],
    "brightened.jpg": lambda image: cv2.convertScaleAbs(image, alpha=1.25, beta=20),
    "framed.jpg": frame,
    "turned.jpg": turn,
    "screenshot.png": show_on_a_phone,
    "enlarged.jpg": lambda image: cv2.resize(image, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC),
}


def count_people(dataset: Path) -> list[tuple[int, int]]:
    """Returns (number of faces, number of folders) of each person with two or more faces who is not doubtful."""
    with Ledger.open(dataset) as ledger:
        return ledger.query(
            """SELECT count(*) AS faces, count(DISTINCT parse_path(u.uri)[-2]) FROM memberships m
               JOIN identities USING (identity_id) JOIN faces USING (face_id) JOIN files u USING (photo_id)
               WHERE NOT doubtful GROUP BY identity_id HAVING faces > 1"""
        ).rows()


@pytest.mark.shared_data
def test_photos_that_are_turned_without_exif_are_with_their_person(people: list[Path], spec: str, tmp_path: Path):
    for person in people[:PEOPLE]:
        for turns, photo in enumerate(sorted(person.iterdir())[:4]):
            save(tmp_path / "photos" / person.name / f"{turns}.png", np.rot90(cv2.imread(str(photo)), turns))
    curate([tmp_path / "photos"], tmp_path / "dataset", CurateConfig(faces=spec))
    assert count_people(tmp_path / "dataset") == [(4, 1)] * PEOPLE
    with Ledger.open(tmp_path / "dataset") as ledger:
        assert {face.turn for face in ledger.read_rows(Face, "status = 'ok'")} == {0, 90, 180, 270}


def put_on_mask(image: np.ndarray, eyes: np.ndarray) -> None:
    (left, top), (right, _) = eyes.tolist()
    unit = right - left
    corners = np.array([(left - unit / 2, top + unit * 0.35), (right + unit / 2, top + unit * 1.8)]).round().astype(int)
    cv2.rectangle(image, corners[0].tolist(), corners[1].tolist(), (235, 240, 245), -1)


def put_on_glasses(image: np.ndarray, eyes: np.ndarray) -> None:
    unit = float(np.hypot(*(eyes[1] - eyes[0])))
    for eye in eyes.round().astype(int).tolist():
        cv2.ellipse(image, eye, (round(0.44 * unit), round(0.32 * unit)), 0, 0, 360, (12, 10, 8), -1)
    cv2.line(image, *eyes.round().astype(int).tolist(), (12, 10, 8), 4)


@pytest.mark.shared_data
def test_masks_and_dark_glasses_join_no_two_people(people: list[Path], spec: str, tmp_path: Path):
    models, photos = load_faces_once(spec), tmp_path / "photos"
    for number, person in enumerate(people[: PEOPLE + STRANGERS]):
        files = sorted(person.iterdir())
        for photo in files[:PLAIN] if number < PEOPLE else []:
            save(photos / person.name / photo.name, cv2.imread(str(photo)))
        # known people and strangers get a photo with a mask and a photo with dark glasses
        for cover in (put_on_mask, put_on_glasses):
            image = cv2.imread(str(files[PLAIN + (cover is put_on_mask)]))
            if faces := models.detect(np.ascontiguousarray(image[:, :, ::-1])):
                cover(image, faces[0].landmarks5[:2])
                save(photos / person.name / f"{cover.__name__}.png", image)
    curate([photos], tmp_path / "dataset", CurateConfig(faces=spec))
    with Ledger.open(tmp_path / "dataset") as ledger:
        plain = ledger.query(
            """SELECT parse_path(u.uri)[-2] AS folder, identity_id FROM memberships JOIN faces USING (face_id)
               JOIN files u USING (photo_id) WHERE NOT contains(u.uri, 'put_on')"""
        ).rows()
    assert len(plain) == PEOPLE * PLAIN and len(set(plain)) == PEOPLE == len({identity for _, identity in set(plain)})


@pytest.mark.shared_data
def test_a_face_that_fills_the_whole_photo_is_found(people: list[Path], spec: str, tmp_path: Path):
    models = load_faces_once(spec)
    for person in people[:8]:
        image = cv2.imread(str(min(person.iterdir())))
        x0, y0, x1, y1 = models.detect(np.ascontiguousarray(image[:, :, ::-1]))[0].box.round().astype(int).tolist()
        close = image[max(0, y0) : y1, max(0, x0) : x1]
        save(tmp_path / "photos" / f"{person.name}.png", cv2.resize(close, None, fx=4, fy=4))
    summary = curate([tmp_path / "photos"], tmp_path / "dataset", CurateConfig(faces=spec))
    assert summary.photos == {"ok": 8} and sum(summary.faces.values()) == 8


@pytest.mark.shared_data
def test_copies_of_every_kind_are_found_and_the_original_stands_for_them(shared_data: Path, spec: str, tmp_path: Path):
    models, album, originals = load_faces_once(spec), tmp_path / "photos", list[str]()
    for photo in sorted((shared_data / "photos" / "roger_federer").iterdir()):
        image = cv2.imread(str(photo))
        if not 380 <= min(image.shape[:2]) <= max(image.shape[:2]) <= 1000 or len(originals) == 3:
            continue
        faces = models.detect(np.ascontiguousarray(image[:, :, ::-1]))
        if len(faces) == 1 and faces[0].box[2] - faces[0].box[0] >= 120:
            originals.append(f"original{len(originals)}.png")
            save(album / originals[-1], image)
    for name, copy in COPIES.items():
        save(album / name, copy(cv2.imread(str(album / originals[0]))))
    curate([album], tmp_path / "dataset", CurateConfig(faces=spec))
    with Ledger.open(tmp_path / "dataset") as ledger:
        rows = ledger.query(
            """SELECT parse_filename(u.uri) AS name, f.reason, f.face_id, f.duplicate_of FROM faces f
               JOIN files u USING (photo_id) ORDER BY name"""
        ).rows()
    (original,) = [face for name, _, face, _ in rows if name == originals[0]]
    assert [name for name, reason, *_ in rows if reason is None] == originals
    found = {name: of for name, reason, _, of in rows if reason == "near_duplicate"}
    assert found == dict.fromkeys(COPIES, original)
