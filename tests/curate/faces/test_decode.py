"""Any photo becomes RGB uint8, upright; anything else becomes a reason."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

from curate.faces.decode import UndecodableImage, decode

# four quarters of plain colour: survives JPEG, and shows every turn
COLOURS = [[(200, 30, 40), (30, 180, 60)], [(40, 60, 210), (230, 220, 50)]]


def quarters(height: int = 48, width: int = 64) -> np.ndarray:
    image = np.zeros((height, width, 3), np.uint8)
    for row in (0, 1):
        for column in (0, 1):
            image[row * height // 2 :, column * width // 2 :] = COLOURS[row][column]
    return image


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def close(found: np.ndarray, wanted: np.ndarray, by: int) -> bool:
    """Alike away from the quarters' edges."""
    away = np.ones(wanted.shape[:2], bool)
    h, w = away.shape
    away[h // 2 - 9 : h // 2 + 9] = False
    away[:, w // 2 - 9 : w // 2 + 9] = False
    return found.shape == wanted.shape and int(np.abs(found.astype(int) - wanted)[away].max()) <= by


LOSSLESS = {"PNG": {}, "WEBP": {"lossless": True}, "BMP": {}, "TIFF": {}}
LOSSY = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"quality": 95}}


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_formats_come_back_exactly(kind):
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    found = decode(saved(Image.fromarray(image), kind, **LOSSLESS[kind]))
    assert found.dtype == np.uint8 and found.flags.c_contiguous and (found == image).all()


@pytest.mark.parametrize("kind", LOSSY)
def test_lossy_formats_come_back_nearly(kind):
    assert close(decode(saved(Image.fromarray(quarters()), kind, **LOSSY[kind])), quarters(), 8)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow was built without AVIF")
def test_avif(tmp_path):
    assert close(decode(saved(Image.fromarray(quarters()), "AVIF", quality=90)), quarters(), 16)


def test_a_path_reads_like_its_bytes(tmp_path):
    path = tmp_path / "photo.txt"  # the name says nothing
    path.write_bytes(saved(Image.fromarray(quarters()), "PNG"))
    assert (decode(path) == quarters()).all()
    with pytest.raises(OSError, match="No such file"):
        decode(tmp_path / "missing.png")


def test_gif_webp_tiff_and_png_give_their_first_frame():
    frames = [Image.fromarray(np.full((16, 16, 3), value, np.uint8)) for value in (250, 10, 90)]
    for kind, options in (("GIF", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("PNG", {})):
        found = decode(saved(frames[0], kind, save_all=True, append_images=frames[1:], **options))
        assert (found == 250).all(), kind


def test_a_phones_multi_picture_jpeg_gives_its_first_picture():
    small = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    data = saved(Image.fromarray(quarters()), "MPO", save_all=True, append_images=[small], quality=95)
    assert close(decode(data), quarters(), 12)


TURNED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", TURNED)
def test_every_exif_orientation_is_brought_upright(kind, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    lying = np.ascontiguousarray(TURNED[orientation](quarters()))
    options = {**LOSSY, **LOSSLESS}[kind] | ({"quality": 95} if kind == "JPEG" else {})
    found = decode(saved(Image.fromarray(lying), kind, exif=exif, **options))
    assert close(found, quarters(), 8)


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0garbage" * 9, b"Exif\0\0II*\0\xff\xff\xff\xff"])
def test_a_broken_exif_block_does_not_lose_the_picture(exif):
    data = saved(Image.fromarray(quarters()), "JPEG", quality=95)
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    assert close(decode(data[:2] + segment + data[2:]), quarters(), 12)


def test_an_orientation_that_does_not_exist_is_upright():
    exif = Image.Exif()
    exif[274] = 77
    assert (decode(saved(Image.fromarray(quarters()), "PNG", exif=exif)) == quarters()).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_gray_is_scaled_not_clipped(kind):
    deep = np.array([[0, 128, 257, 32768, 65279, 65535]], np.uint16).repeat(4, 0)
    found = decode(saved(Image.fromarray(deep), kind))
    assert found.shape == (4, 6, 3) and found[0, :, 1].tolist() == [0, 0, 1, 128, 254, 255]


def test_16_bit_colour_png_is_scaled():
    rows = b"".join(b"\0" + struct.pack(">6H", 65535, 32896, 0, 257, 0, 65535) for _ in range(2))
    assert decode(png(2, 2, 16, 2, rows))[0].tolist() == [[255, 128, 0], [1, 0, 255]]


def test_whole_numbers_and_floats_of_tiff():
    for values, wanted in (
        (np.array([[0, 65535]], np.int32), [0, 255]),
        (np.array([[0.0, 1.0]], np.float32), [0, 255]),
        (np.array([[0.0, 128.0]], np.float32), [0, 128]),
        (np.array([[np.nan, 1.0]], np.float32), [0, 255]),
    ):
        assert decode(saved(Image.fromarray(values), "TIFF"))[0, :, 0].tolist() == wanted


def test_gray_one_bit_and_palette():
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert (decode(saved(Image.fromarray(gray), "PNG")) == gray[:, :, None]).all()
    bits = Image.fromarray((gray > 100).astype(np.uint8) * 255).convert("1")
    assert (decode(saved(bits, "PNG")) == (gray > 100)[:, :, None] * 255).all()
    for kind in ("PNG", "GIF", "BMP"):
        assert (decode(saved(Image.fromarray(quarters()).quantize(4), kind)) == quarters()).all(), kind


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_alpha_is_laid_on_white(mode):
    alpha = np.zeros((48, 64), np.uint8)
    alpha[:24] = 255
    alpha[24:, :32] = 128
    image = Image.fromarray(np.dstack([quarters(), alpha]))
    image = image if mode == "RGBA" else image.convert(mode)
    opaque = np.asarray(image.convert("RGBA"))[..., :3].astype(float)
    share = np.asarray(image.convert("RGBA"))[..., 3:] / 255
    found = decode(saved(image, "PNG" if mode != "PA" else "TIFF"))
    assert np.abs(found - (opaque * share + 255 * (1 - share))).max() <= 1.5


def test_a_palettes_transparent_colour_is_white():
    image = Image.fromarray(quarters()).quantize(4)
    clear = image.getpixel((0, 0))
    wanted = quarters()
    wanted[:24, :32] = 255
    for kind in ("PNG", "GIF"):
        assert (decode(saved(image, kind, transparency=clear)) == wanted).all(), kind


def cmyk() -> Image.Image:
    return Image.fromarray(quarters()).convert("CMYK")


def test_cmyk_as_adobe_writes_it_inverted_in_jpeg():
    data = saved(cmyk(), "JPEG", quality=95, subsampling=0)
    assert b"Adobe" in data and close(decode(data), quarters(), 10)


def test_cmyk_with_black_ink_is_dark_not_light():
    ink = Image.new("CMYK", (32, 32), (0, 0, 0, 230))
    for kind in ("JPEG", "TIFF"):
        assert decode(saved(ink, kind)).max() < 40, kind


def test_cmyk_of_tiff_is_not_inverted():
    assert close(decode(saved(cmyk(), "TIFF")), quarters(), 2)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty_file"),
        (b"Dear photograph,\nyou are a letter.\n", "not_an_image"),
        (b"%PDF-1.7 ...", "not_an_image"),
        (bytes(1000), "not_an_image"),
        (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", "not_an_image"),
        (saved(Image.effect_noise((64, 64), 90), "JPEG")[:900], "truncated"),
        (saved(Image.effect_noise((64, 64), 90), "PNG")[:900], "truncated"),
        (saved(Image.effect_noise((64, 64), 90), "TIFF")[:900], "truncated"),
        (saved(Image.effect_noise((64, 64), 90), "BMP")[:900], "truncated"),
    ],
)
def test_what_is_no_picture_has_a_reason(data, reason):
    with pytest.raises(UndecodableImage) as refused:
        decode(data)
    assert refused.value.reason == reason


def png(width: int, height: int, depth: int, kind: int, rows: bytes) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_nothing_of_a_picture_of_too_many_pixels_is_decoded():
    data = png(30_000, 30_000, 1, 0, bytes(3751 * 30_000))
    assert len(data) < 200_000
    with pytest.raises(UndecodableImage) as refused:
        decode(data)
    assert refused.value.reason == "too_many_pixels"
    with pytest.raises(UndecodableImage, match="64 x 48"):
        decode(saved(Image.fromarray(quarters()), "PNG"), max_pixels=64 * 48 - 1)
    assert decode(saved(Image.fromarray(quarters()), "PNG"), max_pixels=64 * 48).shape == (48, 64, 3)


WHOLE = [saved(Image.fromarray(quarters()), kind) for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(WHOLE), st.data())
def test_a_damaged_file_decodes_or_has_a_reason_and_nothing_else(whole, data):
    at = data.draw(st.integers(0, len(whole) - 1))
    cut = data.draw(st.integers(0, len(whole)))
    damaged = bytearray(whole)
    damaged[at] ^= data.draw(st.integers(1, 255))
    try:
        found = decode(bytes(damaged[:cut]), max_pixels=10**6)
    except UndecodableImage as refused:
        assert refused.reason in ("empty_file", "not_an_image", "too_many_pixels", "truncated", "broken_image")
    else:
        assert found.dtype == np.uint8 and found.ndim == 3 and found.shape[2] == 3
