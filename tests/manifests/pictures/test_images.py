"""Tests that every photo becomes upright RGB uint8, and that every other file gets a reason."""

import hashlib
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features
from PIL.ImageCms import ImageCmsProfile, createProfile, profileToProfile

from manifests.pictures.images import (
    BROKEN_PROFILE,
    HALF_SIZE,
    UndecodableImage,
    decode,
    decode_picture,
    is_picture,
    turn_upright,
)
from tests.doubles.pictures.pictures import COLOURS, close, quarters, saved
from tests.doubles.pictures.png import png
from tests.doubles.pictures.profiles import converted, gray_profile, profile_of

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
    path = tmp_path / "photo.txt"  # the ending of this name is wrong
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


@settings(max_examples=150)
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


# --- colour profiles ---


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return decode(Path(skimage.__file__).parent / "data" / "astronaut.png")


@pytest.mark.parametrize("space", ["Display P3", "Adobe RGB", "ProPhoto"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_a_lossless_wide_gamut_photo_is_within_two_levels_of_its_srgb_original(photo, space, kind):
    wide, icc = converted(photo, space)
    data = saved(wide, kind, icc_profile=icc, **LOSSLESS[kind])
    found = decode_picture(data)
    assert found.notice is None and (np.abs(found.rgb.astype(int) - photo) <= 2).mean() >= 0.99
    assert (np.abs(np.asarray(wide).astype(int) - photo) <= 2).mean() < 0.7, "without its profile the photo is paler"


def test_a_wide_gamut_photo_with_alpha_is_converted_and_then_laid_on_white(photo):
    wide, icc = converted(photo, "Display P3")
    alpha = np.full(photo.shape[:2], 255, np.uint8)
    alpha[:100] = 0
    found = decode(saved(Image.fromarray(np.dstack([np.asarray(wide), alpha])), "PNG", icc_profile=icc))
    assert (found[:100] == 255).all() and (np.abs(found[100:].astype(int) - photo[100:]) <= 2).mean() >= 0.99


@pytest.mark.parametrize("icc", [None, profile_of("sRGB"), ImageCmsProfile(createProfile("sRGB")).tobytes()])
def test_a_photo_without_a_profile_or_with_srgbs_keeps_its_own_bytes(photo, icc):
    found = decode_picture(saved(Image.fromarray(photo), "PNG", icc_profile=icc))
    assert found.notice is None and (found.rgb == photo).all()


@pytest.mark.parametrize("quality", [90, 95])
def test_a_lossy_wide_gamut_photo_is_close_to_its_srgb_original(photo, quality):
    # The photo with a profile may differ from the original by one level more than the same JPEG without a profile.
    wide, icc = converted(photo, "Display P3")
    plain = decode(saved(Image.fromarray(photo), "JPEG", quality=quality, subsampling=0))
    found = decode(saved(wide, "JPEG", quality=quality, subsampling=0, icc_profile=icc))
    lost = np.abs(plain.astype(int) - photo).mean()
    assert np.abs(found.astype(int) - photo).mean() <= lost + 1


def test_a_palette_picture_with_a_profile_is_converted(photo):
    wide, icc = converted(photo, "Display P3")
    few = wide.quantize(64)
    found = decode(saved(few, "PNG", icc_profile=icc))
    wanted = decode(saved(few.convert("RGB"), "PNG", icc_profile=icc))
    assert (found == wanted).all() and np.abs(found.astype(int) - photo).mean() < 8


def test_gray_with_a_profile_of_another_gamma_stays_gray():
    ramp = np.arange(256, dtype=np.uint8)[None].repeat(8, 0)
    for mode_profile, changed in ((gray_profile(1.8), True), (gray_profile(None), False)):
        found = decode(saved(Image.fromarray(ramp), "PNG", icc_profile=mode_profile))
        assert (found[..., 0] == found[..., 1]).all() and (found[..., 1] == found[..., 2]).all()
        assert bool((found[..., 0] != ramp).any()) is changed


def test_cmyk_is_converted_by_its_profile(photo):
    path = Path("/usr/share/color/icc/ghostscript/default_cmyk.icc")
    if not path.is_file():
        pytest.skip("no CMYK profile on this machine (Debian's libgs-common brings one)")
    icc = path.read_bytes()
    inks = profileToProfile(Image.fromarray(photo), createProfile("sRGB"), ImageCmsProfile(str(path)), 1, "CMYK")
    assert inks is not None
    found, plain = decode(saved(inks, "TIFF", icc_profile=icc)), decode(saved(inks, "TIFF"))
    # CMYK has fewer colours than sRGB. The mean difference to the photo is 5.4 levels. The test allows 6 levels.
    assert np.abs(found.astype(int) - photo).mean() <= 6 and (found != plain).any()


def test_lab_is_converted(photo):
    lab = profileToProfile(Image.fromarray(photo), createProfile("sRGB"), createProfile("LAB"), 1, "LAB")
    assert lab is not None
    found = decode(saved(lab, "TIFF"))
    assert (np.abs(found.astype(int) - photo) <= 3).mean() >= 0.98


@pytest.mark.parametrize(
    "icc",
    [b"no profile", b"\0" * 200, profile_of("Adobe RGB")[:90], gray_profile(1.8)],
    ids=["text", "zeros", "cut short", "a gray profile"],
)
def test_a_broken_profile_is_a_notice_and_the_picture_is_kept(photo, icc):
    found = decode_picture(saved(Image.fromarray(photo), "PNG", icc_profile=icc))
    assert found.notice == BROKEN_PROFILE and (found.rgb == photo).all()


# --- large pictures ---


def test_a_jpeg_over_the_limit_is_read_at_half_size():
    whole = saved(Image.fromarray(quarters(480, 640)), "JPEG", quality=95)
    found = decode_picture(whole, max_pixels=480 * 640 - 1)
    assert found.notice == HALF_SIZE and found.rgb.shape == (240, 320, 3)
    assert (np.abs(found.rgb[:100, :100].astype(int) - COLOURS[0][0]) <= 3).all()
    with pytest.raises(UndecodableImage, match=r"640 x 480, 0 megapixels"):
        decode(whole, max_pixels=480 * 640 // 4 - 1)


def test_a_turned_jpeg_over_the_limit_is_upright_at_half_size():
    exif = Image.Exif()
    exif[274] = 6
    whole = saved(Image.fromarray(quarters(480, 640)), "JPEG", quality=95, exif=exif)
    assert decode(whole, max_pixels=200_000).shape == (320, 240, 3)


# --- the file's own samples ---


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("channels", [3, 4])
def test_16_bit_colour_keeps_its_samples_on_request(kind, channels):
    deep = np.random.default_rng(0).integers(0, 65536, (6, 7, channels), np.uint16)
    stored = cv2.cvtColor(deep, cv2.COLOR_RGBA2BGRA if channels == 4 else cv2.COLOR_RGB2BGR)
    data = cv2.imencode("." + kind.lower(), stored)[1].tobytes()
    found = decode_picture(data, keep_original=True)
    assert found.original is not None and found.original.depth == 16 and found.original.file_format == kind
    assert found.original.samples.dtype == np.uint16 and (found.original.samples == deep).all()
    assert found.rgb.dtype == np.uint8 and decode_picture(data).original is None


def test_the_original_is_as_stored_with_profile_metadata_and_orientation(photo):
    exif = Image.Exif()
    exif[274], exif[306] = 6, "2001:02:03 04:05:06"
    wide, icc = converted(photo, "Adobe RGB")
    found = decode_picture(saved(wide, "PNG", icc_profile=icc, exif=exif), keep_original=True)
    original = found.original
    assert original is not None and (original.samples == np.asarray(wide)).all()
    assert original.orientation == 6 and original.icc_profile == icc
    assert original.exif is not None and b"2001:02:03" in original.exif
    upright = turn_upright(original.samples, original.orientation)
    assert upright.shape == found.rgb.shape and (np.rot90(np.asarray(wide), -1) == upright).all()


@pytest.mark.parametrize(
    ("image", "shape", "depth"),
    [
        (Image.new("L", (5, 4), 9), (4, 5), 8),
        (Image.new("CMYK", (5, 4), (1, 2, 3, 4)), (4, 5, 4), 8),
        (Image.new("RGBA", (5, 4), (1, 2, 3, 4)), (4, 5, 4), 8),
        (Image.fromarray(np.full((4, 5), 40_000, np.uint16)), (4, 5), 16),
        (Image.fromarray(np.full((4, 5), 0.5, np.float32)), (4, 5), 32),
    ],
    ids=["gray", "CMYK", "RGBA", "16-bit gray", "float"],
)
def test_the_originals_shape_and_depth(image, shape, depth):
    found = decode_picture(saved(image, "TIFF"), keep_original=True).original
    assert found is not None and found.samples.shape == shape and found.depth == depth
    assert (found.samples == np.asarray(image)).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused(value):
    with pytest.raises(UndecodableImage, match="contains NaN or infinity"):
        decode(saved(Image.fromarray(np.array([[value, 1.0]], np.float32)), "TIFF"))


@pytest.mark.skipif(not features.check("jpg_2000"), reason="this Pillow was built without JPEG 2000")
def test_jpeg_2000(tmp_path):
    for suffix in ("jp2", "j2k"):
        path = tmp_path / f"photo.{suffix}"
        Image.fromarray(quarters()).save(path)
        assert close(decode(path), quarters(), 4)


def test_a_picture_is_known_by_its_content_not_its_name(tmp_path):
    (tmp_path / "photo.txt").write_bytes(saved(Image.fromarray(quarters()), "JPEG"))
    (tmp_path / "text.jpg").write_text("Dear photograph, you are a letter.")
    (tmp_path / "empty.png").write_bytes(b"")
    assert [is_picture(tmp_path / name) for name in ("photo.txt", "text.jpg", "empty.png")] == [True, False, False]


@pytest.mark.parametrize(
    "options",
    [{}, {"icc_profile": profile_of("Display P3")}, {"transparency": (0, 0, 0)}],
    ids=["plain", "p3", "alpha"],
)
def test_the_hash_of_the_samples_does_not_depend_on_a_profile_or_on_alpha(options):
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    stored = decode_picture(saved(Image.fromarray(image), "PNG", **options), identify=True).stored
    assert stored is not None
    assert stored.sha256 == hashlib.sha256(b"RGB 30 20 " + image.tobytes()).hexdigest()
