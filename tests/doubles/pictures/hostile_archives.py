"""Writes the zip and tar files of the hostile corpus: bombs, cut files, wrong sizes, paths that leave the folder."""

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
from collections.abc import Callable

import numpy as np

Photo = Callable[[], bytes]
TRICKS = (
    "../up.png",
    "/absolute.png",
    "a/../../up.png",
    "C:\\drive.png",
    "..\\up.png",
    "con.png",
    "d/NUL",
    "\\\\host\\x.png",
)
FINE = (
    "a b.png",
    "dir/\u00e9.png",
    "-rf.png",
    "new\nline.png",
    "🙂.png",
    "\u202egpj.png",
    "#0.png",
    "x" * 300 + ".png",
)


def zipped(members: list[tuple[str | zipfile.ZipInfo, bytes]], kind: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", kind) as file:
        for name, data in members:
            info = name if isinstance(name, zipfile.ZipInfo) else zipfile.ZipInfo(name)
            file.writestr(info, data, kind)
    return buffer.getvalue()


def tarred(members: list[tuple[str | tarfile.TarInfo, bytes]], form: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form, encoding="utf-8", errors="surrogateescape") as file:
        for name, data in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def header(name: str, kind: bytes, size: int, link: str = "") -> bytes:
    """Returns a tar header with this name, type, size and link. The values may contradict the member that follows."""
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, link
    return info.tobuf(tarfile.GNU_FORMAT)


def with_size(raw: bytes, size: bytes) -> bytes:
    """Returns a tar header whose field `size` has these 12 bytes, with a correct checksum."""
    block = bytearray(raw)
    block[124:136] = size
    block[148:156] = b"%06o\0 " % (sum(block) - sum(block[148:156]) + 8 * 32)
    return bytes(block)


def central(data: bytes, at: int, value: bytes, number: int = 0) -> bytes:
    """Returns the zip file with `value` at the byte `at` of an entry of its central directory."""
    raw, start = bytearray(data), -1
    for _ in range(number + 1):
        start = data.index(b"PK\1\2", start + 1)
    raw[start + at : start + at + len(value)] = value
    return bytes(raw)


def archives(save: Callable[..., object], rng: np.random.Generator, photo: Photo) -> bytes:
    """Writes all archives, and returns one good zip file.

    `save` also gets the allowed reasons of each archive. The reasons belong to the row of the archive itself, and not
    to the rows of its members.
    """
    good = zipped([("folder/", b""), ("folder/a.png", photo()), ("letter.txt", b"Dear photograph")])
    zips(save, photo, good)
    tars(save, rng, photo)
    return good


def zips(save: Callable[..., object], photo: Photo, good: bytes) -> None:
    fine, cut = {"archive"}, {"broken_archive", "truncated"}

    def keep(name: str, data: bytes, right: set[str]) -> None:
        save(f"archives/{name}", data, right)

    keep("good.zip", good, fine)
    keep("good.jpg", zipped([("under another name.png", photo())], zipfile.ZIP_DEFLATED), fine)
    keep("empty.zip", zipped([]), fine)
    keep("tricks.zip", zipped([(name, photo()) for name in TRICKS]), fine)
    keep("names.zip", zipped([(name, photo()) for name in FINE]), fine)
    twice = zipped([("same.png", photo()), ("samf.png", photo())])
    keep("twice.zip", twice.replace(b"samf", b"same"), fine)
    keep("nul.zip", zipped([("nul_.png", photo())]).replace(b"nul_", b"nul\0"), fine)
    keep("bytes.zip", zipped([("caf_.png", photo())]).replace(b"caf_", b"caf\xe9"), fine)
    utf8 = zipped([("é_.png", photo())])
    keep("not_utf8.zip", utf8.replace("é_".encode(), b"\xff\xfe_"), cut)
    locked = zipped([("locked.png", photo()), ("open.png", photo())])
    keep("encrypted.zip", central(locked, 8, b"\x01\0"), fine)
    link = zipfile.ZipInfo("link.png")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    keep("link.zip", zipped([(link, b"../../outside/canary.png")]), fine)
    stored = zipped([("wrong_sum.png", photo()), ("b.png", photo())])
    at = stored.index(b"IDAT")
    keep("sum.zip", stored[: at + 9] + bytes([stored[at + 9] ^ 255]) + stored[at + 10 :], fine)
    keep("method.zip", central(zipped([("a.png", photo())]), 10, b"\x63\0"), fine)
    keep("small.zip", central(stored, 24, struct.pack("<I", 10)), fine)
    keep("large.zip", central(stored, 24, struct.pack("<I", 2**20)), fine)
    keep("huge.zip", central(stored, 24, struct.pack("<I", 2**32 - 2)), {"archive_bomb"})
    keep("offset.zip", central(stored, 42, struct.pack("<I", 2**31)), fine | cut)
    keep("local.zip", stored.replace(b"wrong_sum", b"other_sum", 1), fine)
    keep("overlapping.zip", central(stored, 42, bytes(4), 1), fine)
    keep("bomb.zip", zipped([("zeros.bmp", bytes(260 * 2**20)), ("a.png", photo())], zipfile.ZIP_DEFLATED), fine)
    bomb = zipped([(f"{i}.bmp", bytes(2**20)) for i in range(16)], zipfile.ZIP_DEFLATED)
    for number in range(16):  # each member claims a size of 250 MiB
        bomb = central(bomb, 24, struct.pack("<I", 250 * 2**20), number)
    keep("bombs.zip", bomb, {"archive_bomb"})
    nested = zipped([("inner.zip", good), ("inner.tar.gz", gzip.compress(tarred([("a.png", photo())]), mtime=0))])
    keep("nested.zip", zipped([("nested.zip", nested), ("inner.tar", tarred([("a.png", photo())]))]), fine)
    keep("many.zip", zipped([(f"{i}.txt", b"") for i in range(500)]), fine)
    for number, share in enumerate((0.2, 0.7, 0.98)):
        keep(f"cut{number}.zip", good[: int(share * len(good))], cut)
    keep("head.zip", b"PK\3\4" + bytes(100), cut)
    for number in range(8):
        raw = bytearray(good)
        for at in np.random.default_rng([8, number]).integers(0, len(raw), 6):
            raw[at] ^= 0x55
        keep(f"flipped{number}.zip", bytes(raw), fine | cut | {"not_an_image"})


def tars(save: Callable[..., object], rng: np.random.Generator, photo: Photo) -> None:
    fine, cut, end = {"archive"}, {"broken_archive", "truncated"}, bytes(1024)

    def keep(name: str, data: bytes, right: set[str]) -> None:
        save(f"archives/{name}", data, right)

    good = tarred([("a.png", photo()), ("letter.txt", b"Dear photograph"), ("b/c.png", photo())])
    keep("good.tar", good, fine)
    keep("good.tar.gz", gzip.compress(good, mtime=0), fine)
    keep("good.tar.bz2", bz2.compress(good), fine)
    keep("good.tar.xz", lzma.compress(good), fine)
    keep("tricks.tar", tarred([(name, photo()) for name in (*TRICKS, "same.png", "same.png")]), fine)
    keep("names.tar", tarred([(name, photo()) for name in (*FINE, "caf\udce9.png")], tarfile.GNU_FORMAT), fine)
    kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)
    led = b"".join(header(f"kind{kind.decode()}", kind, 0, "../../outside/canary.png") for kind in kinds)
    keep("kinds.tar", led + end, fine)
    keep("sparse.tar", header("holes.bmp", tarfile.GNUTYPE_SPARSE, 0) + end, fine | cut)
    endless = tarfile.TarInfo("endless.bmp")
    endless.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "x"}
    keep("endless.tar", tarred([(endless, b"999999999\n")])[:-9000], fine | cut | {"timed_out"})
    one = header("a.png", tarfile.REGTYPE, 100)
    keep("size.tar", with_size(one, b"77777777777\0") + bytes(2048), cut)
    keep("size64.tar", with_size(one, b"\x80" + b"\0" * 4 + b"\x7f" + b"\xff" * 6) + bytes(2048), cut)
    keep("backwards.tar", with_size(one, b"\xff" * 11 + b"\0") + bytes(2048), fine | cut | {"timed_out"})
    keep(
        "pax.tar", with_size(header("x", tarfile.XHDTYPE, 100), b"77777777777\0") + bytes(2048), cut | {"out_of_memory"}
    )
    keep(
        "long.tar",
        with_size(header("x", tarfile.GNUTYPE_LONGNAME, 9), b"77777777777\0") + bytes(2048),
        cut | {"out_of_memory"},
    )
    keep("nested.tar", tarred([("inner.tar", good), ("inner.gz", gzip.compress(good, mtime=0))]), fine)
    keep(
        "large.tar.gz", gzip.compress(tarred([("zeros.bmp", bytes(257 * 2**20)), ("a.png", photo())]), 1, mtime=0), fine
    )
    keep("photo.png.gz", gzip.compress(photo(), mtime=0), {"not_an_image"})
    for number, share in enumerate((0.01, 0.2, 0.3)):
        keep(f"cut{number}.tar", good[: int(share * len(good)) | 1], cut | {"not_an_image"})
        packed = gzip.compress(good, mtime=0)
        keep(f"cut{number}.tar.gz", packed[: int(share * len(packed))], cut | {"not_an_image"})
    for name, packed in (
        ("gz", gzip.compress(good, mtime=0)),
        ("bz2", bz2.compress(good)),
        ("xz", lzma.compress(good)),
    ):
        raw = bytearray(packed)
        raw[len(raw) // 2] ^= 0x55
        keep(f"flipped.tar.{name}", bytes(raw), fine | cut | {"not_an_image"})
    for number in range(8):
        raw = bytearray(good)
        for at in rng.integers(0, len(raw), 6):
            raw[at] ^= 0x55
        keep(f"flipped{number}.tar", bytes(raw), fine | cut | {"not_an_image"})
