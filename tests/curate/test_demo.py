"""Tests the photos of the demo: they always have the same bytes, and differ too much to be near-duplicates."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from curate import demo
from curate.config import DedupeRules
from curate.demo import SITTERS, find_packaged_file, write_demo_photos
from curate.faces.measure import hash_picture
from degrade.sampling import make_generator
from manifests.errors import LikenessError
from manifests.pictures.images import UndecodableImage, decode
from manifests.runtime.files import sha256_file


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    write_demo_photos(folder, make_generator("demo"), variations=4)
    return folder


def test_the_same_seed_gives_the_same_bytes(photos: Path, tmp_path: Path) -> None:
    again = write_demo_photos(tmp_path, make_generator("demo"), variations=4)
    assert {path.name: sha256_file(path) for path in again} == {
        path.name: sha256_file(path) for path in photos.iterdir()
    }


def test_another_seed_gives_other_photos(photos: Path, tmp_path: Path) -> None:
    write_demo_photos(tmp_path, make_generator("another"), variations=2)
    assert sha256_file(tmp_path / "h-00.jpg") != sha256_file(photos / "h-00.jpg")


def test_a_second_call_writes_nothing(photos: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in photos.iterdir()}
    write_demo_photos(photos, make_generator("demo"), variations=4)
    assert before == {path: path.stat().st_mtime_ns for path in photos.iterdir()}


def test_a_file_that_went_missing_comes_back(photos: Path) -> None:
    lost = photos / "c-02.jpg"
    before = sha256_file(lost)
    lost.unlink()
    write_demo_photos(photos, make_generator("demo"), variations=4)
    assert sha256_file(lost) == before


def test_no_two_photos_of_a_sitter_are_the_same_picture(photos: Path) -> None:
    for sitter in SITTERS:
        hashes = [
            np.frombuffer(bytes.fromhex(hash_picture(decode(path))[0]), np.uint8)
            for path in sorted(photos.glob(f"{sitter.name}-0?.jpg"))
        ]
        for i, one in enumerate(hashes):
            for other in hashes[:i]:
                assert np.bitwise_count(one ^ other).sum() > DedupeRules().max_photo_bits, sitter.name


def test_there_is_something_to_turn_away(photos: Path) -> None:
    for name in ("truncated.jpg", "letter.jpg"):
        with pytest.raises(UndecodableImage):
            decode(photos / name)
    assert sha256_file(photos / "a-00-copy.jpg") == sha256_file(photos / "a-00.jpg")
    assert decode(photos / "a-01-saved-again.jpg").shape == decode(photos / "a-01.jpg").shape


def test_a_tilted_sitter_sits_upright(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that the demo levels the eyes of the most tilted portrait. Every random draw is the middle of its range."""

    class Middle(np.random.Generator):
        def __init__(self) -> None:
            super().__init__(np.random.PCG64(0))

        def uniform(self, low=0.0, high=1.0, size=None):  # type: ignore[no-untyped-def]
            middle = (np.asarray(low) + np.asarray(high)) / 2
            return np.broadcast_to(middle, size) if size is not None else middle

        def normal(self, loc=0.0, scale=1.0, size=None):  # type: ignore[no-untyped-def]
            return np.zeros(size)

        def random(self, *_):  # type: ignore[no-untyped-def]
            return 0.9

        def integers(self, low, high=None, **_):  # type: ignore[no-untyped-def]
            return 512

    sitter = max(SITTERS, key=lambda one: abs(one.tilt))
    points = demo._choose_source_points(sitter, 512, Middle())
    right = points[256, 400] - points[256, 112]
    assert np.degrees(np.arctan2(right[1], right[0])) == pytest.approx(sitter.tilt, abs=0.1)


def test_a_package_without_its_picture_is_a_sentence() -> None:
    with pytest.raises(LikenessError, match="make install"):
        find_packaged_file("skimage", "data/no_such_picture.png")
    with pytest.raises(LikenessError):
        find_packaged_file("no_such_package", "x.png")
    assert cv2.imread(str(find_packaged_file("skimage", "data/astronaut.png"))) is not None
