"""Tests that crops are read with the pixels with which they were written, and that every PNG reader opens them."""

import io

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from curate.detection.crops import read_crop, write_crop
from manifests.ledger.paths import crop_path
from manifests.pictures.png_files import encode_png_quickly


@settings(max_examples=60)
@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
def test_every_pixel_comes_back_in_two_readers(image):
    data = encode_png_quickly(image)
    assert np.array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB), image)
    with Image.open(io.BytesIO(data)) as opened:
        opened.verify()
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.mode == "RGB" and opened.format == "PNG" and not opened.info
        assert np.array_equal(np.asarray(opened), image)


def test_a_view_is_encoded_like_its_copy_and_smooth_pictures_shrink():
    ramp = np.add.outer(np.arange(512), np.arange(512))[..., None] // 4 % 256 * np.ones(3, int)
    image = ramp.astype(np.uint8)
    assert encode_png_quickly(image[:, ::-1]) == encode_png_quickly(np.ascontiguousarray(image[:, ::-1]))
    assert len(encode_png_quickly(image)) < image.size / 4


def test_a_crop_that_is_missing_or_broken_is_told_apart(tmp_path):
    crop = np.full((512, 512, 3), 7, np.uint8)
    write_crop(tmp_path, "ab12", crop)
    assert np.array_equal(read_crop(tmp_path, "ab12"), crop)
    with pytest.raises(FileNotFoundError):
        read_crop(tmp_path, "cd34")
    for broken in (b"", b"no picture"):
        crop_path(tmp_path, "ab12").write_bytes(broken)
        with pytest.raises(ValueError, match="not a PNG"):
            read_crop(tmp_path, "ab12")
