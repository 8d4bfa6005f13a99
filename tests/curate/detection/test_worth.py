"""Tests that worth is calibrated only if the lengths of embeddings tell good faces from damaged faces."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from curate.config import CurateConfig
from curate.detection.damage import DAMAGES
from curate.detection.worth import choose_good_faces, find_worth_scale, measure_worth
from curate.faces.interface import normalise_rows
from curate.run.pipeline import curate
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import Face
from tests.doubles import curation as doubles


def test_a_damaged_crop_keeps_its_shape_and_comes_out_the_same_every_time():
    crop = doubles.face(1, 2, 112)
    for damage in DAMAGES:
        one, other = (damage(crop, np.random.default_rng(3)) for _ in range(2))
        assert one.shape == crop.shape and one.dtype == np.uint8 and not np.array_equal(one, crop)
        assert np.array_equal(one, other)


def test_faces_that_gather_in_one_place_have_no_worth_whoever_they_show():
    rng = np.random.default_rng(0)
    # `person` is the direction of the only person, and `place` is the direction in which damaged faces gather.
    person, place = normalise_rows(rng.normal(size=(2, 64)))
    good = normalise_rows(person + rng.normal(0, 0.1, (32, 64)))
    damaged = [5 * normalise_rows(0.2 * good + place + rng.normal(0, 0.05, good.shape)) for _ in range(4)]
    scale = find_worth_scale(good, np.full(32, 20.0), np.stack(damaged))
    assert scale is not None and abs(np.array(scale.centre) @ person) < 0.2 < 0.9 < np.array(scale.centre) @ place
    strangers = normalise_rows(rng.normal(size=(50, 64)))
    assert measure_worth(strangers, np.full(50, 20.0), scale).min() > 0.7
    # These strangers have another kind of damage, but embeddings of the usual length.
    hidden = normalise_rows(0.3 * strangers + place)
    assert measure_worth(hidden, np.full(50, 8.0), scale).max() < 0.3


def test_a_recognizer_whose_lengths_say_nothing_calibrates_nothing():
    rng = np.random.default_rng(0)
    good = normalise_rows(rng.normal(size=(32, 64)))
    assert find_worth_scale(good, np.ones(32), np.stack([good] * 4)) is None
    assert find_worth_scale(good, np.ones(32), normalise_rows(rng.normal(size=(128, 64))).reshape(4, 32, 64)) is None


def test_the_good_faces_are_among_the_half_with_the_longest_embeddings():
    row = Face("", "p", (0.0,) * 4, (0.0,) * 10, None, 0.9, 40.0, 0.0, 0.0, 0.0, 0.5, 1.0, 0.5, 3.0, "0")
    faces = [replace(row, face_id=f"{i:03}", embedding_norm=float(i)) for i in range(300)]
    blurred = replace(row, face_id="blurred", status="dropped", reason="too_blurred", embedding_norm=999.0)
    faces += [blurred, replace(row, face_id="unknown")]
    sample = choose_good_faces(faces[::-1])
    assert [face.face_id for face in sample] == sorted(face.face_id for face in sample) and len(sample) == 64
    assert all(face.embedding_norm >= 150 for face in sample)
    copies = [replace(face, status="dropped", reason="near_duplicate") for face in faces[:300:2]]
    assert [face.face_id for face in choose_good_faces([*copies, *faces[1:300:2]])] == [f.face_id for f in sample]
    assert len(choose_good_faces(faces[:5])) == 3 and choose_good_faces(faces[-2:]) == []


def shake(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    kernel, angle, along = np.zeros((23, 23), np.float32), rng.uniform(0, np.pi), np.linspace(-11, 11, 200)
    kernel[np.rint(11 + along * np.sin(angle)).astype(int), np.rint(11 + along * np.cos(angle)).astype(int)] = 1
    return cv2.filter2D(image, -1, kernel / kernel.sum())


def pixelate(image: np.ndarray, _: np.random.Generator) -> np.ndarray:
    small = cv2.resize(image, None, fx=1 / 8, fy=1 / 8, interpolation=cv2.INTER_AREA)
    return cv2.resize(small, image.shape[1::-1], interpolation=cv2.INTER_NEAREST)


def add_noise(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.clip(image + rng.normal(0, 55, image.shape), 0, 255).astype(np.uint8)


def compress(image: np.ndarray, _: np.random.Generator) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 3])[1], cv2.IMREAD_COLOR)


def blur(image: np.ndarray, _: np.random.Generator) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), 4.5)


def darken(image: np.ndarray, _: np.random.Generator) -> np.ndarray:
    return (image * 0.07).astype(np.uint8)


def draw(image: np.ndarray, _: np.random.Generator) -> np.ndarray:
    return cv2.pencilSketch(image, sigma_s=60, sigma_r=0.07, shade_factor=0.05)[0]


@pytest.mark.shared_data
@pytest.mark.parametrize(
    "damages",
    [
        pytest.param((blur, draw), marks=pytest.mark.exhaustive),
        (blur, pixelate, darken, add_noise, compress, shake),
    ],
)
def test_degraded_strangers_are_in_no_person_and_a_clear_person_stays_whole(shared_data, tmp_path, damages):
    rng = np.random.default_rng(0)
    folders = sorted((shared_data / "people_crops").iterdir())
    for number, folder in enumerate(folders):
        for photo in sorted(folder.iterdir())[: 6 if number < 3 else 1]:
            image = cv2.imread(str(photo))
            if number >= 3:  # all people from the fourth on are strangers with one damaged photo
                image = damages[number % len(damages)](image, rng)
            (tmp_path / folder.name).mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / folder.name / f"{photo.stem}.png"), image)
    spec = f"insightface:{shared_data / 'weights' / 'insightface_small'}"
    curate([tmp_path], tmp_path / "dataset", CurateConfig(faces=spec))
    with Ledger.open(tmp_path / "dataset") as ledger:
        assert all(face.embedding_norm for face in ledger.read_rows(Face, "status = 'ok'"))
        people = ledger.query(
            """SELECT count(*) AS faces, count(DISTINCT parse_path(u.uri)[-2]) AS folders, min(worth) AS worth
               FROM memberships m JOIN identities USING (identity_id) JOIN faces USING (face_id) JOIN files u USING
               (photo_id) WHERE NOT doubtful GROUP BY identity_id HAVING faces > 1"""
        ).rows()
        scale = ledger.read_detail("worth")
    assert sorted(faces for faces, _, _ in people) == [6, 6, 6] and {folders for _, folders, _ in people} == {1}
    curate([tmp_path], tmp_path / "dataset", CurateConfig(faces=spec))
    with Ledger.open(tmp_path / "dataset") as ledger:
        assert ledger.read_detail("worth") == scale
