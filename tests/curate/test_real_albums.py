"""Small albums of real faces: turned photos, covered faces and close-ups, as people have them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from curate.config import CurateConfig
from curate.faces.load import load_faces_once
from curate.pipeline import curate
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


def count_people(dataset: Path) -> list[tuple[int, int]]:
    """The numbers of faces and of folders of each person of two faces or more who is not doubtful."""
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
        for cover in (put_on_mask, put_on_glasses):  # of known people and of strangers
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
