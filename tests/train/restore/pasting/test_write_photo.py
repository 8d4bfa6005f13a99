"""Tests that a restored photo keeps its format, depth, alpha, profile, metadata, dates and pixels outside the faces."""

from __future__ import annotations

import io
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from manifests.errors import BadInput
from manifests.pictures.images import decode, decode_picture
from manifests.pictures.jpeg_files import encode_jpeg, read_jpeg_parts
from manifests.pictures.metadata.metadata_blocks import set_upright
from train.restore.pasting.paste import Patch
from train.restore.pasting.write_photo import WrittenPhoto, write_photo

FACE = np.s_[20:50, 40:80]  # the area of the face in the upright photo
WHEN = 1_500_000_000_123_456_789


def smooth(height: int = 80, width: int = 128, channels: int = 3) -> np.ndarray:
    """Returns a picture whose values, from 60 to 190, change slowly."""
    y, x = np.mgrid[:height, :width]
    planes = [125 + 60 * np.sin((x * (k + 1) + 2 * y) / 37 + k) for k in range(channels)]
    return np.stack(planes, axis=2).round().astype(np.uint8)


def brighten(levels: float, inside: tuple[slice, slice] = FACE) -> Patch:
    rows, columns = inside
    shape = rows.stop - rows.start, columns.stop - columns.start
    return Patch(columns.start, rows.start, np.full((*shape, 3), levels, np.float32), np.ones(shape, np.float32))


def exif_block(orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0110] = "A camera"  # the tag Model
    exif[0x0112] = orientation
    return exif.tobytes()


def write(
    tmp_path: Path, data: bytes, suffix: str, levels: float = 20, lossless: bool = False, **place: tuple[slice, slice]
) -> tuple[WrittenPhoto, bytes]:
    source = tmp_path / f"in{suffix}"
    source.write_bytes(data)
    os.utime(source, ns=(WHEN, WHEN))
    picture = decode_picture(source, keep_original=True)
    out = tmp_path / "out"
    written = write_photo(
        source, out / f"in{suffix}", out / "in.png", picture, [brighten(levels, **place)], lossless=lossless
    )
    assert written.path.stat().st_mtime_ns == WHEN
    return written, written.path.read_bytes()


def save(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def samples(data: bytes) -> np.ndarray:
    original = decode_picture(data, keep_original=True).original
    assert original is not None
    return original.samples


def outside(shape: tuple[int, ...], face: tuple[slice, slice] = FACE) -> np.ndarray:
    mask = np.ones(shape[:2], bool)
    mask[face] = False
    return mask


SIXTEEN = np.random.default_rng(0).integers(10_000, 50_000, (80, 128, 4)).astype(np.uint16)
SIXTEEN[..., 3] = np.maximum(SIXTEEN[..., 3], 30_000)


def encode_16(image: np.ndarray, suffix: str) -> bytes:
    order = {2: None, 3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}[image.shape[2] if image.ndim == 3 else 2]
    return cv2.imencode(suffix, image if order is None else cv2.cvtColor(image, order))[1].tobytes()


CASES = {
    "png": (save(Image.fromarray(smooth()), "PNG"), ".png"),
    "gray png": (save(Image.fromarray(smooth()[..., 0]), "PNG"), ".png"),
    "alpha png": (save(Image.fromarray(smooth(channels=4), "RGBA"), "PNG"), ".png"),
    "gray alpha png": (save(Image.fromarray(smooth(channels=2), "LA"), "PNG"), ".png"),
    "palette png": (save(Image.fromarray(smooth()).quantize(64), "PNG"), ".png"),
    "16-bit png": (encode_16(SIXTEEN[..., :3], ".png"), ".png"),
    "16-bit gray png": (encode_16(SIXTEEN[..., 0], ".png"), ".png"),
    "16-bit alpha png": (encode_16(SIXTEEN, ".png"), ".png"),
    "tiff": (save(Image.fromarray(smooth()), "TIFF"), ".tif"),
    "16-bit gray tiff": (save(Image.fromarray(SIXTEEN[..., 0]), "TIFF"), ".tif"),
    "16-bit tiff": (encode_16(SIXTEEN[..., :3], ".tiff"), ".tif"),
    "float tiff": (save(Image.fromarray(smooth()[..., 0].astype(np.float32) / 255), "TIFF"), ".tif"),
    "cmyk tiff": (save(Image.fromarray(smooth()).convert("CMYK"), "TIFF"), ".tif"),
    "lossless webp": (save(Image.fromarray(smooth()), "WEBP", lossless=True), ".webp"),
    "lossy webp": (save(Image.fromarray(smooth()), "WEBP", quality=50), ".webp"),
    "bmp": (save(Image.fromarray(smooth()), "BMP"), ".bmp"),
}


@pytest.mark.parametrize("case", CASES)
def test_lossless_formats_keep_every_sample_outside_the_face(tmp_path: Path, case: str) -> None:
    data, suffix = CASES[case]
    written, result = write(tmp_path, data, suffix)
    before, after = samples(data), samples(result)
    assert written.changed and written.largest_difference == 0
    if "gray alpha" in case:
        after = after[..., [0, 3]] if after.shape[2] == 4 else after
    assert after.dtype == before.dtype and after.shape == before.shape
    assert np.array_equal(after[outside(before.shape)], before[outside(before.shape)])
    assert written.path.suffix == (".png" if case in ("bmp", "16-bit tiff") else suffix)
    # The decoded face must be 20 levels brighter, and alpha must not change.
    if "alpha" in case:
        assert np.array_equal(after[..., -1], before[..., -1])
    gain = decode(result)[FACE].astype(int) - decode(data)[FACE]
    assert abs(gain.mean() - 20) < 1 and np.abs(gain - 20).max() <= 2


@pytest.mark.parametrize("case", [*CASES, "jpeg"])
def test_a_photo_without_a_change_is_copied_byte_for_byte(tmp_path: Path, case: str) -> None:
    data, suffix = CASES.get(case, (save(Image.fromarray(smooth()), "JPEG"), ".jpg"))
    written, result = write(tmp_path, data, suffix, levels=0)
    assert result == data and not written.changed and written.path.name == f"in{suffix}"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "lossless JPEG"])
def test_a_photo_keeps_its_orientation_and_metadata(tmp_path: Path, orientation: int, kind: str) -> None:
    exif, lossless = exif_block(orientation), kind == "lossless JPEG"
    fmt = kind.removeprefix("lossless ")
    if fmt == "PNG":
        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta/>")
        options: dict[str, object] = {"pnginfo": info}
    else:
        options = {"quality": 95, "subsampling": 0, "xmp": b"<x:xmpmeta/>"}
    data = save(Image.fromarray(smooth(120, 120)), fmt, exif=exif, **options)
    _, result = write(tmp_path, data, ".png" if fmt == "PNG" else ".jpg", lossless=lossless)
    before, after = decode(data).astype(int), decode(result).astype(int)
    assert abs((after - before)[22:48, 42:78].mean() - 20) < 1
    near = outside(before.shape, np.s_[12:58, 32:88])
    assert np.abs(after - before)[near].max() <= (2 if kind == "JPEG" else 0)
    with Image.open(io.BytesIO(result)) as image:
        assert image.getexif()[0x0110] == "A camera" and image.info["xmp"] == b"<x:xmpmeta/>"
        assert image.getexif()[0x0112] == (1 if lossless else orientation)


def make_gamma_profile(gamma: float) -> bytes:
    """Returns sRGB's profile with the curve value^gamma instead of sRGB's curve."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = int.from_bytes(data[128:132], "big")
    for entry in range(132, 132 + 12 * count, 12):
        if data[entry : entry + 4] in (b"rTRC", b"gTRC", b"bTRC"):
            place = int.from_bytes(data[entry + 4 : entry + 8], "big")
            data[place : place + 16] = b"para" + bytes(4) + bytes(4) + round(gamma * 65536).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize("channels", ["colour", "gray values"])
def test_a_face_with_a_colour_profile_changes_as_it_looks(tmp_path: Path, channels: str) -> None:
    icc = make_gamma_profile(1.4)
    image = smooth()
    if channels == "gray values":
        image = np.repeat(image[..., :1], 3, axis=2)
    data = save(Image.fromarray(image), "PNG", icc_profile=icc)
    _, result = write(tmp_path, data, ".png")
    gain = decode(result)[FACE].astype(int) - decode(data)[FACE]
    assert np.abs(image.astype(int) - decode(data)).max() > 10, "the profile must differ from sRGB"
    assert abs(gain.mean() - 20) < 1 and np.abs(gain - 20).max() <= 3
    assert np.array_equal(samples(result)[outside((80, 128))], image[outside((80, 128))])
    if channels == "gray values":
        assert np.ptp(samples(result), axis=2).max() == 0
    with Image.open(io.BytesIO(result)) as written:
        assert written.info["icc_profile"] == icc


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_a_jpeg_keeps_its_tables_subsampling_and_metadata(tmp_path: Path, mode: str, subsampling: int) -> None:
    image = Image.fromarray(smooth()).convert(mode)
    data = save(image, "JPEG", quality=83, subsampling=subsampling, progressive=True, comment=b"hello")
    written, result = write(tmp_path, data, ".jpg")
    with Image.open(io.BytesIO(data)) as before, Image.open(io.BytesIO(result)) as after:
        assert after.quantization[0] == before.quantization[0] and after.mode == mode
        assert after.info["comment"] == b"hello" and after.info.get("progressive")
        if mode == "RGB":
            assert after.quantization == before.quantization
            assert [part[:4] for part in after.layer] == [part[:4] for part in before.layer]
    difference = np.abs(decode(result).astype(int) - decode(data))
    assert written.largest_difference <= 24 and difference[FACE].mean() > 15
    assert difference[60:].max() <= 3, "blocks far from the face hardly change"


@settings(max_examples=20)
@given(quality=st.integers(30, 92), columns=st.integers(1, 3), rows=st.integers(1, 3), seed=st.integers(0, 9))
def test_a_jpeg_of_luma_and_half_chroma_survives_a_second_encoding(
    quality: int, columns: int, rows: int, seed: int
) -> None:
    # the sides are multiples of 16 px, because libjpeg pads other sizes anew in each encoding
    width, height = 16 * columns, 16 * rows
    noise = np.random.default_rng(seed).integers(90, 160, (height, width, 3)).astype(np.uint8)
    data = save(Image.fromarray(noise), "JPEG", quality=quality, subsampling=2)
    parts = read_jpeg_parts(io.BytesIO(data), True)
    assert parts.planes is not None and parts.planes.shape == (height, width, 3)
    image = Image.frombytes("YCbCr", (width, height), parts.planes.tobytes())
    again = decode(encode_jpeg(image, parts))
    assert np.abs(again.astype(int) - decode(data)).max() <= 2


def test_a_jpeg_of_four_inks_cannot_become_a_png(tmp_path: Path) -> None:
    data = save(Image.fromarray(smooth()).convert("CMYK"), "JPEG")
    with pytest.raises(BadInput, match="a PNG cannot hold the colours"):
        write(tmp_path, data, ".jpg", lossless=True)


@pytest.mark.parametrize("broken", [b"", b"Exif\x00\x00", b"II*\x00\xff\xff\xff\xff", exif_block(6)[:20]])
def test_a_broken_exif_block_stays(broken: bytes) -> None:
    assert set_upright(broken) == broken
