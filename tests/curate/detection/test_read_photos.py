"""Tests how many photos are in memory while the next photo is decoded."""

from __future__ import annotations

import weakref

import numpy as np
import pytest

from curate.detection import detect, read_photos
from manifests.ledger.records import Photo
from tests.doubles.curation import models


@pytest.mark.parametrize(("width", "at_most"), [(9_000, 0), (2_000, 2)])
def test_the_memory_of_a_large_photo_is_free_before_the_next_photo_is_decoded(monkeypatch, width, at_most):
    """Two photos of 81 megapixels are over the limit, and two photos of 4 megapixels are not."""
    seen: list[weakref.ref] = []
    alive: list[int] = []

    def decode(sources):
        alive.append(sum(one() is not None for one in seen))
        image = np.zeros((8, 8, 3), np.uint8)
        seen.append(weakref.ref(image))
        return image

    monkeypatch.setattr(read_photos, "read_photo", decode)
    photos = [(Photo(str(n), width, width, ""), ((f"file:///{n}.jpg", ""),)) for n in range(5)]
    found = 0
    for _, image, _ in detect._search_photos(photos, models("double"), 16.0):
        assert isinstance(image, np.ndarray)
        found += 1
        del image
    assert found == len(alive) == 5 and max(alive) <= at_most
