"""Tests real face models: dlib on photos of installed packages, and an InsightFace pack on ../shared/data."""

import cv2
import numpy as np
import pytest

from curate.config import CurateConfig
from curate.demo import find_packaged_file
from curate.faces import load as module
from curate.faces.align import FFHQ_512, FFHQ_SIZE, align_face, crop_for_recognizer, fit_similarity, transform_points
from curate.faces.errors import FaceModelError
from curate.faces.interface import FaceModels, normalise_rows
from curate.faces.load import load_faces
from curate.faces.measure import estimate_pose
from curate.faces.models.dlib_models import find_landmarks68, reduce_to_five
from curate.run.pipeline import curate
from manifests.check import check_ledger
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import Face, Membership, Model
from manifests.pictures.images import decode
from tests.doubles.curation import contents, curated, files, find_problems, rows
from tests.doubles.faces.face_models import EITHER, PACK, offline, shared
from tests.places import SHARED


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray:
    return decode(find_packaged_file("skimage", "data/astronaut.png"))


@pytest.fixture(scope="module")
def crowd() -> np.ndarray:
    return decode(find_packaged_file("insightface", "data/images/t1.jpg"))


def embedded(models: FaceModels, image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    crop = align_face(image, landmarks, FFHQ_512, FFHQ_SIZE)
    return models.embed(crop_for_recognizer(crop, models.template, models.size)[None])[0]


@pytest.mark.parametrize("spec", EITHER)
def test_the_faces_of_a_photo_are_found_with_upright_landmarks(spec, crowd, astronaut):
    models = load_faces(spec)
    assert len(models.detect(crowd)) == 6 and models.detect(np.zeros((64, 64, 3), np.uint8)) == []
    (face, *_) = models.detect(astronaut)
    left, right, nose, left_mouth, right_mouth = face.landmarks5
    assert left[0] < nose[0] < right[0] and left_mouth[0] < right_mouth[0] and left[1] < nose[1] < left_mouth[1]
    x0, y0, x1, y1 = face.box
    assert x0 < left[0] and right[0] < x1 and y0 < left[1] and left_mouth[1] < y1
    assert face.box.dtype == face.landmarks5.dtype == np.float32 and face.score > models.min_score
    scores = [one.score for one in models.detect(crowd)]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("spec", EITHER)
@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1), (2, 2), (20, 9000)])
def test_pictures_of_any_shape_have_no_face_and_no_error(spec, shape):
    assert load_faces(spec).detect(np.full((*shape, 3), 90, np.uint8)) == []


@pytest.mark.parametrize("spec", EITHER)
def test_turning_the_photo_turns_the_roll_and_mirroring_it_turns_the_yaw(spec, astronaut):
    models = load_faces(spec)
    plain = estimate_pose(models.detect(astronaut)[0].landmarks5)
    mirrored = estimate_pose(models.detect(np.ascontiguousarray(astronaut[:, ::-1]))[0].landmarks5)
    assert plain[0] == pytest.approx(-mirrored[0], abs=7)
    turn = cv2.getRotationMatrix2D((220, 120), -20, 1.0)  # a negative angle turns the photo clockwise
    turned = estimate_pose(models.detect(cv2.warpAffine(astronaut, turn, (512, 512)))[0].landmarks5)
    assert turned[2] - plain[2] == pytest.approx(20, abs=5)


@pytest.mark.parametrize("spec", EITHER)
def test_embeddings_tell_people_apart_and_do_not_depend_on_the_batch(spec, crowd, astronaut):
    models = load_faces(spec)
    faces = [(crowd, face.landmarks5) for face in models.detect(crowd)]
    crops = [
        crop_for_recognizer(align_face(image, points, FFHQ_512, FFHQ_SIZE), models.template, models.size)
        for image, points in faces
    ]
    found = models.embed(np.stack(crops))
    assert found.shape == (6, models.dim) and found.dtype == np.float32
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert np.allclose(found, np.concatenate([models.embed(crop[None]) for crop in crops]), atol=1e-3)
    assert (found @ found.T)[np.triu_indices(6, 1)].max() < max(models.same_person, 0.94)
    # A smaller, mirrored picture shows the same person.
    face = models.detect(astronaut)[0]
    own = embedded(models, astronaut, face.landmarks5)
    again = cv2.resize(np.ascontiguousarray(astronaut[:, ::-1]), None, fx=0.8, fy=0.8, interpolation=cv2.INTER_AREA)
    other = embedded(models, again, models.detect(again)[0].landmarks5)
    assert own @ other > models.same_person > (found @ own).max()


@pytest.mark.parametrize("spec", EITHER)
def test_identity_on_an_aligned_crop_is_identity_in_the_photo(spec, crowd):
    models = load_faces(spec)
    for face in models.detect(crowd):
        crop = align_face(crowd, face.landmarks5, FFHQ_512, FFHQ_SIZE)
        through = crop_for_recognizer(crop, models.template, models.size)
        # This crop of the recognizer is cut directly from the photo.
        direct = align_face(crowd, face.landmarks5, models.template, models.size)
        a, b = models.embed(np.stack([through, direct]))
        assert a @ b > (0.98 if spec == "dlib" else 0.85)
        landed = transform_points(face.landmarks5, fit_similarity(face.landmarks5, FFHQ_512))
        assert np.abs(landed - FFHQ_512).mean() < 25


@offline
def test_68_landmarks_are_those_of_ibug(astronaut):
    models = load_faces("dlib")
    face = models.detect(astronaut)[0]
    points = find_landmarks68(astronaut, face.box)
    assert points.shape == (68, 2) and points.dtype == np.float32
    assert np.allclose(reduce_to_five(points), face.landmarks5)


@pytest.mark.parametrize("spec", EITHER)
def test_the_files_behind_a_model_are_named(spec):
    models = load_faces(spec)
    assert {file.role for file in models.files} >= {"detector", "recognizer"}
    assert all(file.path.is_file() and file.path.stat().st_size > 100_000 for file in models.files)
    assert len(models.recognizer_sha256()) == 64 and models.template.shape == (5, 2)
    assert (models.recognizer_onnx is None) == (spec == "dlib")


def test_specs_that_name_nothing_are_one_sentence(tmp_path):
    for spec in ("psychic", "insightface:/nowhere/at/all", f"insightface:{tmp_path}", ""):
        with pytest.raises(FaceModelError) as refused:
            load_faces(spec)
        assert "\n" not in str(refused.value)
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(FaceModelError):
        load_faces(f"insightface:{tmp_path}")


@offline
def test_auto_falls_back_to_dlib_with_a_notice(monkeypatch, tmp_path):
    def nothing(*_) -> FaceModels:
        raise FaceModelError("There is no network.")

    monkeypatch.setattr("curate.faces.load.list_packs", lambda: [])
    monkeypatch.setattr("curate.faces.load.load_insightface", nothing)
    models = module.load_faces("auto")
    assert models.spec == "dlib" and "no network" in models.notices[0] and "weaker" in models.notices[0]


def test_list_packs_prefers_buffalo_l(tmp_path):
    from curate.faces.models.insightface_models import list_packs

    assert list_packs(tmp_path / "nowhere") == []
    for name in ("antelope", "buffalo_l", "empty"):
        (tmp_path / name).mkdir()
    for name in ("antelope", "buffalo_l"):
        (tmp_path / name / "det.onnx").touch()
    assert list_packs(tmp_path) == ["buffalo_l", "antelope"]


def test_normalise_rows_leaves_zero_rows_zero():
    assert normalise_rows(np.array([[3, 4], [0, 0]])).tolist() == [[np.float32(0.6), np.float32(0.8)], [0, 0]]


@offline
def test_dlib_curates_packaged_photos_and_group_photos_saved_again_stay_whole(tmp_path, crowd, astronaut):
    photos, dataset = tmp_path / "photos", tmp_path / "dataset"
    photos.mkdir()
    for name, image, quality in (("crowd", crowd, 95), ("again", crowd, 75), ("one", astronaut, 95)):
        cv2.imwrite(str(photos / f"{name}.jpg"), image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    light = np.clip(astronaut * 0.7 + 20, 0, 255).astype(np.uint8)[:400, 40:460, ::-1]
    cv2.imwrite(str(photos / "mirrored.png"), light[:, ::-1])
    summary = curated(photos, dataset, faces="dlib", landmarks="dlib")
    faces = rows(dataset, Face)
    copies = [face for face in faces if face.duplicate_of]
    # The six faces of the crowd and the mirrored face are near-duplicates of seven different faces of other files.
    assert len(copies) == 7 == len({face.duplicate_of for face in copies})
    assert summary.identities == 0 and summary.alone == 7 and check_ledger(dataset) == []
    assert all(face.landmarks68 is not None and len(face.landmarks68) == 136 for face in faces)
    assert {row.role for row in rows(dataset, Model)} == {"detector", "recognizer", "landmarks"}
    # If a later run does not compute the 68 landmarks, the recorded 68 landmarks stay.
    curated(photos, dataset, faces="dlib")
    assert rows(dataset, Face) == faces


@shared
@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_pack_curates_raw_photos_whatever_the_number_of_workers(tmp_path, monkeypatch):
    # The key is fixed, because the ids of identities depend on the key of the dataset.
    monkeypatch.setattr("manifests.privacy.keys.create_key", lambda: bytes(32))
    people = sorted(path for path in (SHARED / "photos").iterdir() if path.is_dir())[:6]
    photos = [photo for person in people for photo in sorted(person.iterdir())[:8]]
    told = []
    for workers in (1, 2):
        dataset = tmp_path / f"workers{workers}"
        summary = curate(photos, dataset, CurateConfig(faces=PACK), workers)
        assert find_problems(dataset) == []
        told.append((contents(dataset), files(dataset)))
    assert told[0] == told[1]
    assert summary.faces_from == PACK and summary.identities >= 6  # seven of the eight faces of one person are weak
    with Ledger.open(dataset) as ledger:
        folders = ledger.query(
            "SELECT identity_id, count(DISTINCT regexp_extract(uri, '/([^/]+)/[^/]+$', 1)) AS folders, count(*) AS n "
            "FROM memberships JOIN faces USING (face_id) JOIN files USING (photo_id) GROUP BY 1 HAVING n >= 4"
        )
    assert len(folders) >= 6 and folders["folders"].mean() < 1.5
    assert len(rows(dataset, Membership)) == summary.faces["ok"]


@shared
@offline
def test_a_pack_and_dlib_never_mix(tmp_path):
    from manifests.errors import BadInput

    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "one.png").write_bytes(find_packaged_file("skimage", "data/astronaut.png").read_bytes())
    curated(photos, tmp_path / "dataset", faces=PACK)
    with pytest.raises(BadInput, match="start a new dataset"):
        curated(photos, tmp_path / "dataset", faces="dlib")
    assert curated(photos, tmp_path / "dataset", faces="auto").faces_from == PACK
