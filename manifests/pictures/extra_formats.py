"""Recognizes files in HEIC, JPEG XL and camera RAW by their content, and decodes them with the libraries of these
extras:

    pip install 'likeness[heic]'   # pi-heif (BSD-3-Clause; its wheel bundles libheif and libde265, LGPL-3.0)
    pip install 'likeness[jxl]'    # pylibjxl (BSD-3-Clause)
    pip install 'likeness[raw]'    # rawpy (MIT; its wheel bundles LibRaw, LGPL-2.1)

pi-heif, pylibjxl and rawpy return a picture that is already upright. A RAW file often begins with a small preview,
which Likeness never uses.
"""

from __future__ import annotations

import contextlib
import importlib.util
import warnings
from collections.abc import Callable
from typing import BinaryIO

from PIL import Image, TiffImagePlugin

HEIC, JXL, RAW = "heic_not_installed", "jxl_not_installed", "raw_not_installed"
OTHER_PICTURE = "other_picture_format"
# maps a kind to three names: of the module that decodes it, of the extra, and of the format
EXTRAS = {
    HEIC: ("pi_heif", "heic", "HEIC"),
    JXL: ("pylibjxl", "jxl", "JPEG XL"),
    RAW: ("rawpy", "raw", "camera RAW"),
}
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_JXL_STARTS = (b"\xff\x0a", b"\x00\x00\x00\x0cJXL \r\n\x87\n")
# The first bytes of RAW files of Olympus, Panasonic, Fujifilm, Sigma, Minolta and Canon (CRW). The RAW files of other
# cameras are TIFF files or ISO base media files.
_RAW_STARTS = (b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FUJIFILMCCD-RAW", b"FOVb", b"\0MRM", b"II\x1a\0\0\0HEAPCCDR")
# The first bytes of files of Photoshop, GIMP, OpenEXR, Radiance, JPEG XR, QOI, DirectDraw, PostScript, icons and PNM.
_OTHER_STARTS = (
    *(b"8BPS", b"gimp xcf", b"v/1\x01", b"#?RADIANCE", b"#?RGBE", b"II\xbc\x01", b"qoif", b"DDS ", b"%!PS"),
    *(b"\0\0\x01\0", b"P1\n", b"P2\n", b"P3\n", b"P4\n", b"P5\n", b"P6\n", b"P7\n"),
)
_NEW_SUBFILE_TYPE, _PHOTOMETRIC, _SUB_IFDS, _DNG_VERSION = 254, 262, 330, 50706  # Tags of TIFF, TIFF/EP and DNG 1.7.
_SENSOR_DATA = (32803, 34892)  # The values of _PHOTOMETRIC for a colour filter array and for linear raw.


def find_kind(file: BinaryIO) -> str | None:
    """Returns HEIC, JXL, RAW or OTHER_PICTURE for a picture file of such a kind. Returns None for any other file.

    OTHER_PICTURE is any picture format that Likeness recognizes but cannot decode, even with the extras.
    """
    file.seek(0)
    head = file.read(512)
    if head[4:8] == b"ftyp":
        size = min(int.from_bytes(head[:4], "big"), len(head))
        brands = {head[8:12], *(head[at : at + 4] for at in range(16, size, 4))}
        if brands & _HEIC_BRANDS:
            return HEIC
        return RAW if head[8:12] == b"crx " else None  # Canon CR3
    if head.startswith(_JXL_STARTS):
        return JXL
    if head.startswith(_RAW_STARTS):
        return RAW
    if head[:4] in (b"II*\0", b"MM\0*"):
        return _find_tiff_kind(file, head)
    is_svg = head.lstrip()[:5] in (b"<?xml", b"<svg ") and b"<svg" in head
    return OTHER_PICTURE if head.startswith(_OTHER_STARTS) or is_svg else None


def _find_tiff_kind(file: BinaryIO, head: bytes) -> str | None:
    """Returns RAW if a TIFF contains sensor data.

    Returns OTHER_PICTURE if the first picture of the TIFF is only a preview, and the full picture is in a SubIFD
    without sensor data. Returns None for any other TIFF.
    """
    if head[8:10] == b"CR":  # Canon CR2
        return RAW
    try:
        tags = _read_tags(file, head, None)
        if _DNG_VERSION in tags or tags.get(_PHOTOMETRIC) in _SENSOR_DATA:
            return RAW
        if not (int(tags.get(_NEW_SUBFILE_TYPE, 0)) & 1 and _SUB_IFDS in tags):
            return None
    except Exception:  # the tags are broken, and the decoder of TIFF will report this
        return None
    try:
        places = tags[_SUB_IFDS]
        parts = [_read_tags(file, head, at) for at in (places if isinstance(places, tuple) else (places,))]
    except Exception:  # the tags are broken, and the library of RAW will report this
        return RAW
    return RAW if any(part.get(_PHOTOMETRIC, _SENSOR_DATA[0]) in _SENSOR_DATA for part in parts) else OTHER_PICTURE


def _read_tags(file: BinaryIO, head: bytes, at: int | None) -> TiffImagePlugin.ImageFileDirectory_v2:
    """Returns the tags of the directory at the byte `at` of a TIFF, or of the first directory if `at` is None."""
    tags = TiffImagePlugin.ImageFileDirectory_v2(head[:8])
    file.seek(tags.next if at is None else at)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about broken tags
        tags.load(file)
    return tags


def is_installed(kind: str) -> bool:
    """Returns whether the library that reads pictures of this kind (HEIC, JXL or RAW) is installed."""
    return importlib.util.find_spec(EXTRAS[kind][0]) is not None


def open_extra(file: BinaryIO, kind: str, check_size: Callable[[int, int], None]) -> Image.Image:
    """Returns a HEIC, JPEG XL or RAW picture, upright.

    Calls `check_size` with width and height before it decodes pixels.

    Raises an error of the library if the file is broken. Raises NotImplementedError if the library does not know the
    camera or the compression.
    """
    file.seek(0)
    image = {HEIC: _open_heic, JXL: _open_jxl, RAW: _open_raw}[kind](file, check_size)
    image.format = {HEIC: "HEIF", JXL: "JXL", RAW: "RAW"}[kind]
    return image


def read_extra_metadata(file: BinaryIO, kind: str) -> tuple[Image.Exif, bytes]:
    """Returns the EXIF block and the XMP packet of a HEIC, JPEG XL or RAW picture.

    The EXIF block of a RAW picture is read only if the file is a TIFF file. A broken EXIF block counts as empty.
    """
    file.seek(0)
    exif = Image.Exif()
    if kind == RAW:
        if file.read(4) in (b"II*\0", b"MM\0*"):
            with contextlib.suppress(Exception):  # Pillow raises many classes of errors on broken blocks
                file.seek(0)
                exif.load_from_fp(file)
        return exif, b""
    if kind == HEIC:
        import pi_heif

        metadata = pi_heif.open_heif(file).info
    else:
        import pylibjxl

        metadata = pylibjxl.decode(file.read(), metadata=True)[1]
    with contextlib.suppress(Exception):
        exif.load(metadata.get("exif") or b"")
    return exif, metadata.get("xmp") or b""


def _open_heic(file: BinaryIO, check_size: Callable[[int, int], None]) -> Image.Image:
    import pi_heif

    heif = pi_heif.open_heif(file)
    check_size(*heif.size)
    return heif.to_pillow()


def _open_jxl(file: BinaryIO, check_size: Callable[[int, int], None]) -> Image.Image:
    import pylibjxl

    data = file.read()
    facts = pylibjxl.probe(data)
    check_size(facts["width"], facts["height"])
    samples, metadata = pylibjxl.decode(data, metadata=True)
    image = Image.fromarray(samples[..., 0] if samples.shape[2:] == (1,) else samples)
    names = (("icc_profile", "icc"), ("xmp", "xmp"), ("exif", "exif"))
    image.info |= {name: metadata[key] for name, key in names if metadata.get(key)}
    return image


def read_raw_turn(file: BinaryIO) -> int:
    """Returns the EXIF orientation that the decoder applies to a RAW picture.

    Raises an error of rawpy if the file is broken.
    """
    import rawpy

    file.seek(0)
    with rawpy.imread(file) as raw:
        # in LibRaw, 3 is a turn by 180 degrees, 5 by 90 degrees to the left, and 6 by 90 degrees to the right
        return {3: 3, 5: 8, 6: 6}.get(raw.sizes.flip, 1)


def _open_raw(file: BinaryIO, check_size: Callable[[int, int], None]) -> Image.Image:
    import rawpy

    try:
        with rawpy.imread(file) as raw:
            check_size(raw.sizes.width, raw.sizes.height)
            return Image.fromarray(raw.postprocess(use_camera_wb=True, output_bps=8))
    except (rawpy.LibRawFileUnsupportedError, rawpy.LibRawNotImplementedError) as error:
        raise NotImplementedError(str(error)) from None
