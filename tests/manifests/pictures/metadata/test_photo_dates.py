"""Tests that the date of a photo comes from the best field that has a date, and that doubtful dates have a reason."""

import io
from datetime import datetime

import numpy as np
import pytest
from PIL import Image

from manifests.pictures.images import decode_picture
from manifests.pictures.metadata.photo_dates import PhotoDate, read_photo_date
from tests.doubles.pictures.metadata import laugh, packet

PIXELS = np.full((16, 16, 3), 90, np.uint8)
NOON = datetime(2015, 6, 1, 12, 30, 5)


def exif_with(original=None, digitized=None, changed=None, **others) -> Image.Exif:
    exif = Image.Exif()
    tags = {36867: original, 36868: digitized, 36881: others.get("offset"), 41728: others.get("source")}
    exif[0x8769] = {tag: value for tag, value in tags.items() if value is not None}
    for tag, value in ((306, changed), (271, others.get("maker")), (272, others.get("model"))):
        if value is not None:
            exif[tag] = value
    loaded = Image.Exif()
    loaded.load(exif.tobytes())
    return loaded


def saved(file_format: str, exif: Image.Exif, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, file_format, exif=exif, **options)
    return file.getvalue()


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_each_format_gives_the_date_its_offset_and_the_camera(file_format):
    exif = exif_with("2015:06:01 12:30:05", offset="-03:30", maker="Canon", model="EOS 5D")
    date = decode_picture(saved(file_format, exif), identify=True).date
    assert date == PhotoDate(NOON, -210, "exif_original", None, "Canon EOS 5D")
    assert decode_picture(saved(file_format, Image.Exif()), identify=True).date == PhotoDate()


def test_jpeg_xl_gives_the_date():
    pylibjxl = pytest.importorskip("pylibjxl")
    data = pylibjxl.encode(PIXELS, exif=exif_with("2015:06:01 12:30:05").tobytes())
    assert decode_picture(data, identify=True).date == PhotoDate(NOON, None, "exif_original")


@pytest.mark.parametrize(
    ("text", "taken", "doubt"),
    [
        ("2015:06:01 12:30:05", NOON, None),
        ("2015-06-01 12:30:05", NOON, None),
        ("2015:06:01", datetime(2015, 6, 1, 12), None),
        ("2016:12:31 23:59:60", datetime(2016, 12, 31, 23, 59, 59), None),
        ("0000:00:00 00:00:00", None, "unset"),
        ("    :  :     :  :  ", None, "unset"),
        ("2015:13:01 00:00:00", None, "unreadable"),
        ("2015:02:30 10:00:00", None, "unreadable"),
        ("2015:06:01 25:00:00", None, "unreadable"),
        ("last summer", None, "unreadable"),
        ("20150601" * 40, None, "unreadable"),
        (b"\xff\xfe2\x000", None, "unreadable"),
        # The decoder does not know the present time. The stage `date` marks this date as doubtful.
        ("2099:01:02 00:00:01", datetime(2099, 1, 2, 0, 0, 1), None),
    ],
)
def test_dates_of_exif(text, taken, doubt):
    date = decode_picture(saved("JPEG", exif_with(text)), identify=True).date
    assert (date.taken, date.taken_from, date.taken_doubt) == (taken, "exif_original", doubt)


def test_a_better_field_comes_first_and_a_doubtful_one_last():
    def read(exif: Image.Exif, *properties: str, xmp: bytes = b"") -> tuple:
        image = Image.fromarray(PIXELS)
        date = read_photo_date(image, exif, xmp or (packet(*properties) if properties else b""))
        return date.taken_from, date.taken_doubt, date.taken and date.taken.year, date.taken_offset

    created = "<photoshop:DateCreated>1985-07-30T10:00:00.5+02:00</photoshop:DateCreated>"
    made = "<xmp:CreateDate>2001-01-05</xmp:CreateDate>"
    full = exif_with("2015:06:01 12:30:05", "2014:06:01 12:30:05", "2020:01:02 10:00:00")
    assert read(full, created) == ("exif_original", None, 2015, None)
    assert read(exif_with(None, "2014:06:01 12:30:05"), created) == ("xmp_created", None, 1985, 120)
    assert read(exif_with("0000:00:00 00:00:00"), created, made) == ("xmp_created", None, 1985, 120)
    assert read(exif_with(None, "2014:06:01 12:30:05"), made) == ("exif_digitized", "digitized", 2014, None)
    assert read(exif_with("0000:00:00 00:00:00"), made) == ("exif_original", "unset", None, None)
    assert read(exif_with(changed="2020:01:02 10:00:00")) == ("exif_changed", "changed", 2020, None)
    assert read(Image.Exif(), made) == ("xmp_digitized", "digitized", 2001, None)
    assert read(Image.Exif(), "<exif:DateTimeOriginal>1985-07</exif:DateTimeOriginal>")[0] == "xmp_original"
    # this source means that a scanner wrote the file
    assert read(exif_with("2015:06:01 12:30:05", source=b"\1"))[1] == "digitized"
    assert read(Image.Exif(), xmp=laugh()) == (None, None, None, None)


def test_iptc_gives_the_date_that_was_created():
    def record(tag: int, text: bytes) -> bytes:
        return b"\x1c\x02" + bytes([tag]) + len(text).to_bytes(2, "big") + text

    records = record(55, b"19850730") + record(60, b"101500+0100")
    block = b"8BIM\x04\x04\0\0" + len(records).to_bytes(4, "big") + records + b"\0" * (len(records) % 2)
    data = saved("JPEG", Image.Exif())
    segment = b"Photoshop 3.0\0" + block
    data = data[:2] + b"\xff\xed" + (len(segment) + 2).to_bytes(2, "big") + segment + data[2:]
    date = decode_picture(data, identify=True).date
    assert date == PhotoDate(datetime(1985, 7, 30, 10, 15), 60, "iptc_created")


def test_a_broken_exif_block_is_no_date_and_no_error():
    data = saved("JPEG", exif_with("2015:06:01 12:30:05"))
    start = data.index(b"2015:06")
    for place in range(20, start + 30, 3):
        broken = data[:place] + b"\xff\xff\xff" + data[place + 3 :]
        try:
            date = decode_picture(broken, identify=True).date
        # this error is allowed, because the changed byte may be in a marker of the JPEG itself
        except Exception as error:
            assert type(error).__name__ == "UndecodableImage"
        else:
            assert date.taken in (None, NOON) or date.taken_from is not None
