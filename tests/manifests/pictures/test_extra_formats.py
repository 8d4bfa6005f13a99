"""Tests that HEIC, JPEG XL, RAW, motion photos and MPO are read, or get a reason that names the kind of picture."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from curate.photos.history.file_stamps import is_unchanged, stamp_row
from curate.photos.read_files import scan_batch
from curate.run.summary import _describe_kinds
from manifests.ledger.records import File
from manifests.pictures import extra_formats, images
from manifests.pictures.embedded_metadata import read_embedded_metadata
from manifests.pictures.images import UndecodableImage, decode, decode_picture, is_picture
from tests.doubles.pictures.pictures import close, quarters, saved
from tests.doubles.pictures.profiles import profile_of
from tests.doubles.pictures.raw_files import with_preview

# Two HEIC files of the picture `quarters()`, encoded by pillow-heif. The first file is stored upright, and the second
# is stored turned, with EXIF orientation 6.
PLAIN_HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAX1tZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAACJpbG9j"
    "AAAAAERAAAEAAQAAAAABoQABAAAAAAAAAMQAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABodmMxAAAAAA5waXRtAAAAAAABAAAA/Wlw"
    "cnAAAADdaXBjbwAAAHZodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQAqQgEBA3AA"
    "AAMAkAAAAwAAAwAeoCCBBZbq5Ka5uAhoMCAAAAMDIAAAAwAhYgABAAZEAcFzwIkAAAATY29scm5jbHgAAQANAAaAAAAAFGlzcGUAAAAAAAAA"
    "QAAAAEAAAAAoY2xhcAAAAEAAAAABAAAAMAAAAAEAAAAAAAAAAv////AAAAACAAAAEHBpeGkAAAAAAwgICAAAABhpcG1hAAAAAAAAAAEAAQWB"
    "AgMFhAAAAMxtZGF0AAAAwCgBrwngITip//ML3/7UnZe0U6eVp79Y//Yw+8au/+FRt0fo8TzD1TT+1j/56T62RkjC//gVZfWgYs7/oAZ0XXXe"
    "gT2RxcKvy5Pz7fR/N/WkCCx0jafRzBullE5AFOVjDmsG6P2mEahk5bL8Z/ITvr/BQ8NxPP5gAWGgFitHGUAmfRh3pdXzKFy8oLTxTGD3zSlg"
    "JGOzn/r3+mqDSaa0e4OuVEgna4+FeswjxT31zMSrVt+rRFQHPFsqayGjVZsWKA=="
)
TURNED_HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAchtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAADRpbG9j"
    "AAAAAERAAAIAAQAAAAAB7AABAAAAAAAAAFsAAgAAAAACRwABAAAAAAAAACQAAAA4aWluZgAAAAAAAgAAABVpbmZlAgAAAAABAABodmMxAAAA"
    "ABVpbmZlAgAAAQACAABFeGlmAAAAAA5waXRtAAAAAAABAAABB2lwcnAAAADmaXBjbwAAAHZodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNg"
    "AAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQAqQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbq5Ka5uAhoMCAAAAMDIAAAAwAhYgABAAZE"
    "AcFzwIkAAAATY29scm5jbHgAAQANAAaAAAAAFGlzcGUAAAAAAAAAQAAAAEAAAAAoY2xhcAAAADAAAAABAAAAQAAAAAH////wAAAAAgAAAAAA"
    "AAACAAAAEHBpeGkAAAAAAwgICAAAAAlpcm90AwAAABlpcG1hAAAAAAAAAAEAAQaBAgMFhIYAAAAaaXJlZgAAAAAAAAAOY2RzYwACAAEAAQAA"
    "AIdtZGF0AAAAVygBrwng44Salv+7P//UT//sbsxu+K3WLxfxjzfuIHRu2CWYDsgR0cw5W7dfb5vfpZBjQ6/zaNb/9Uz8NXreejO75B1Wn7T5"
    "X7l7+ok98Mfn++wvbX2mYAAAAAZFeGlmAABNTQAqAAAACAABARIAAwAAAAEABgAAAAAAAA=="
)
PREVIEW = np.full((12, 16, 3), 255, np.uint8)


def bayer() -> np.ndarray:
    """Returns sensor data of a gray picture that is brighter at the left."""
    return np.where(np.arange(400) < 200, 40_000, 4_000).astype("<u2")[None].repeat(300, 0)


def jxl(samples: np.ndarray, **options) -> bytes:
    pylibjxl = pytest.importorskip("pylibjxl")
    return bytes(pylibjxl.encode(np.ascontiguousarray(samples), lossless=True, **options))


@pytest.mark.parametrize("data", [PLAIN_HEIC, TURNED_HEIC], ids=["plain", "turned"])
def test_heic_is_read_upright(data, tmp_path):
    pytest.importorskip("pi_heif")
    picture = decode_picture(data, keep_original=True)
    assert close(picture.rgb, quarters(), 8) and picture.original is not None
    assert (picture.original.file_format, picture.original.orientation) == ("HEIF", 1)
    (tmp_path / "photo.heic").write_bytes(data)
    assert is_picture(tmp_path / "photo.heic")


def test_jpeg_xl_is_read_upright_with_its_profile_and_transparency():
    pylibjxl = pytest.importorskip("pylibjxl")
    assert close(decode(jxl(quarters())), quarters(), 0)
    assert close(decode(jxl(quarters()[..., :1])), quarters()[..., :1].repeat(3, 2), 0)
    assert close(decode(jxl(quarters().astype(np.uint16) * 257)), quarters(), 1)
    clear = np.dstack([quarters(), np.zeros(quarters().shape[:2], np.uint8)])
    assert (decode(jxl(clear)) == 255).all()
    wide = profile_of("Display P3")
    png = io.BytesIO()
    Image.fromarray(quarters()).save(png, "PNG", icc_profile=wide)
    assert close(decode(jxl(quarters(), icc=wide)), decode(png.getvalue()), 3)
    exif = Image.Exif()
    exif[274] = 6
    jpeg = io.BytesIO()
    Image.fromarray(np.rot90(quarters()).copy()).save(jpeg, "JPEG", quality=95, exif=exif.tobytes())
    assert close(decode(bytes(pylibjxl.jpeg_to_jxl(jpeg.getvalue()))), decode(jpeg.getvalue()), 8)


def test_a_raw_is_read_from_its_sensor_data_and_never_from_its_preview(monkeypatch):
    pytest.importorskip("rawpy")
    data = with_preview(PREVIEW, bayer(), is_dng=True)
    rgb = decode(data)
    assert rgb.shape == (300, 400, 3) and rgb[150, 100].mean() > rgb[150, 300].mean() + 50
    for orientation in (1, 3, 6, 8):
        turned = with_preview(PREVIEW, bayer(), is_dng=True, orientation=orientation)
        assert decode(turned).shape[:2] == ((400, 300) if orientation > 4 else (300, 400))
        assert read_embedded_metadata(io.BytesIO(turned)).turned_by == orientation
    with pytest.raises(UndecodableImage, match="has more than 178 megapixels") as error:
        decode(data, max_pixels=1000)
    assert error.value.reason == "too_many_pixels"
    # A TIFF with a preview but without sensor data is no RAW file. Its preview must not count as a photo.
    with pytest.raises(UndecodableImage) as error:
        decode(with_preview(PREVIEW, quarters(), is_dng=False))
    assert error.value.reason == "other_picture_format"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (PLAIN_HEIC, "heic_not_installed"),
        (b"\x00\x00\x00\x18ftypmif1\x00\x00\x00\x00mif1heic", "heic_not_installed"),
        (b"\xff\x0a" + bytes(50), "jxl_not_installed"),
        (b"\x00\x00\x00\x0cJXL \r\n\x87\n" + bytes(50), "jxl_not_installed"),
        (b"\x00\x00\x00\x18ftypcrx \x00\x00\x00\x01crx isom", "raw_not_installed"),
        (b"FUJIFILMCCD-RAW 0201", "raw_not_installed"),
        (b"II*\0\x10\0\0\0CR\2\0" + bytes(50), "raw_not_installed"),
        (with_preview(PREVIEW, bayer(), True), "raw_not_installed"),
        (with_preview(PREVIEW, quarters(), False), "other_picture_format"),  # this file has no sensor data
        (b"8BPS\0\1" + bytes(50), "other_picture_format"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "other_picture_format"),
        (b"P6\n1 1\n255\nabc", "other_picture_format"),
        (b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom", "not_an_image"),
    ],
)
def test_a_picture_that_is_not_read_says_which_kind_it_is(data, reason, monkeypatch):
    monkeypatch.setattr(images, "is_installed", lambda kind: False)
    with pytest.raises(UndecodableImage) as error:
        decode(data)
    assert error.value.reason == reason
    if reason == "heic_not_installed":
        assert str(error.value).endswith("is missing: pip install 'likeness[heic]'")


@pytest.mark.parametrize(
    "data", [PLAIN_HEIC[:300], b"\xff\x0a" + bytes(50), with_preview(PREVIEW, bayer(), True)[:5000]]
)
def test_a_damaged_file_is_an_error_of_the_file(data):
    for module in ("pi_heif", "pylibjxl", "rawpy"):
        pytest.importorskip(module)
    with pytest.raises(UndecodableImage) as error:
        decode(data)
    assert error.value.reason in ("broken_image", "truncated", "other_picture_format", "not_an_image")


def test_a_file_is_read_again_once_its_library_is_installed(tmp_path, monkeypatch):
    path = tmp_path / "photo.heic"
    path.write_bytes(PLAIN_HEIC)
    with monkeypatch.context() as patch:
        patch.setattr(images, "is_installed", lambda kind: False)
        (row,) = scan_batch([path])
    assert isinstance(row, File) and (row.status, row.reason) == ("failed", "heic_not_installed")
    assert stamp_row(row, path.stat()) == row
    monkeypatch.setattr("curate.photos.history.file_stamps.is_installed", lambda kind: False)
    assert is_unchanged(row, path.stat())
    monkeypatch.setattr("curate.photos.history.file_stamps.is_installed", lambda kind: True)
    assert not is_unchanged(row, path.stat())
    (notice,) = _describe_kinds({"heic_not_installed": 3, "ok": 2})
    assert notice.startswith("3 HEIC pictures were not read") and "pip install 'likeness[heic]'" in notice


def test_of_a_motion_photo_and_of_an_mpo_the_still_is_read():
    still = saved(Image.fromarray(quarters()), "JPEG")
    assert close(decode(still + b"\0\0\0\x18ftypmp42" + bytes(200)), decode(still), 0)
    mpo = io.BytesIO()
    other = Image.fromarray(255 - quarters())
    Image.fromarray(quarters()).save(mpo, "MPO", save_all=True, append_images=[other])
    assert close(decode(mpo.getvalue()), quarters(), 30) and extra_formats.find_kind(mpo) is None
