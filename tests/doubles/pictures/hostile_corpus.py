"""Writes more than 300 bad files, which are small on disk: `python tests/doubles/pictures/hostile_corpus.py FOLDER`.

`build` writes the files into FOLDER/offered. Some of these files try to reach a file in FOLDER/outside. `build` returns
the allowed reasons of each file. If `ok` is among them, a decoder may accept the file. With the same random generator,
the files are the same.
"""

import io
import os
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from tests.doubles.pictures.hostile_archives import archives

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF")
UNSURE = {"ok", "same_file", "truncated", "broken_image", "not_an_image", "too_many_pixels", "out_of_memory"}
UNSURE |= {"other_picture_format"}  # a changed byte can turn a TIFF into a RAW file that no library can read
NO_IMAGE, BROKEN = {"not_an_image"}, {"broken_image", "truncated", "not_an_image"}
FINE = {"ok", "same_file"}

Save = Callable[[str | bytes, bytes, set[str]], Path]


def picture(rng: np.random.Generator, height: int = 60, width: int = 80) -> Image.Image:
    coarse = rng.integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def seeds(rng: np.random.Generator) -> dict[str, bytes]:
    """Returns a small good photo of every format, and of rare variants of the formats."""
    one, frames = picture(rng), [picture(rng) for _ in range(3)]
    found = {kind: saved(one, kind) for kind in FORMATS}
    found |= {
        f"{kind}-frames": saved(one, kind, save_all=True, append_images=frames) for kind in ("GIF", "PNG", "TIFF")
    }
    found["WEBP-lossless"] = saved(one, "WEBP", lossless=True)
    found["WEBP-frames"] = saved(one, "WEBP", save_all=True, append_images=frames)
    found["JPEG-progressive"] = saved(one, "JPEG", progressive=True)
    found["JPEG-cmyk"] = saved(one.convert("CMYK"), "JPEG")
    found["PNG-palette"] = saved(one.quantize(16), "PNG", transparency=3)
    found["PNG-alpha"] = saved(one.convert("RGBA"), "PNG")
    found["PNG-16"] = saved(Image.fromarray(np.asarray(one.convert("L")).astype(np.uint16) * 257), "PNG")
    for compression in ("tiff_lzw", "jpeg", "tiff_deflate", "packbits", "group4"):
        mode = one.convert("1") if compression == "group4" else one
        found[f"TIFF-{compression}"] = saved(mode, "TIFF", compression=compression)
    found["TIFF-float"] = saved(Image.fromarray(np.asarray(one.convert("L")).astype(np.float32)), "TIFF")
    return found


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Returns the data with some bytes changed, removed, repeated, or replaced by numbers that break parsers."""
    raw = bytearray(data)
    for _ in range(int(rng.integers(1, 6))):
        at = int(rng.integers(0, len(raw))) if rng.random() < 0.5 else int(rng.integers(0, min(len(raw), 200)))
        match int(rng.integers(0, 6)):
            case 0:
                raw[at] ^= 1 << int(rng.integers(0, 8))
            case 1:
                raw[at] = int(rng.integers(0, 256))
            case 2:
                raw[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\x80\0\0\0"])
            case 3:
                raw[at:at] = raw[at : at + int(rng.integers(1, 64))]
            case 4:
                del raw[at : at + int(rng.integers(1, 64))]
            case 5:
                del raw[max(at, 1) :]
        raw = raw or bytearray(data[:1])
    return bytes(raw)


def png(width: int, height: int, depth: int, colour: int, packed: bytes, *extra: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), *extra, chunk(b"IDAT", packed), chunk(b"IEND", b"")]
    )


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def zeros(count: int) -> bytes:
    """Returns `count` zero bytes in deflated form. The zero bytes are never in memory all at once."""
    pack, part = zlib.compressobj(9), bytes(2**20)
    return b"".join([pack.compress(part[: min(2**20, count - at)]) for at in range(0, count, 2**20)]) + pack.flush()


def tiff(*directories: list[tuple[int, int, int, int]], following: tuple[int, ...] = (), data: bytes = b"") -> bytes:
    """Returns a little-endian TIFF. Each directory is a list of (tag, type, count, value).

    For each directory, `following` contains the offset of the next directory.
    """
    out, starts = b"", []
    for entries in directories:
        starts.append(8 + len(out))
        out += struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    raw = bytearray(b"II*\0" + struct.pack("<I", 8) + out + data)
    for number, offset in enumerate(following):
        at = starts[number] + 2 + 12 * len(directories[number])
        raw[at : at + 4] = struct.pack("<I", offset)
    return bytes(raw)


def plain(width: int, height: int, at: int = 8, size: int = 0, **other: int) -> list[tuple[int, int, int, int]]:
    """Returns the directory entries of a gray 8-bit TIFF."""
    strip, packed = (273, 4, 1, at), (259, 3, 1, other.get("compression", 1))
    return [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), packed, (262, 3, 1, 1), strip, (279, 4, 1, size)]


def jpeg_with(data: bytes, marker: int, content: bytes) -> bytes:
    return data[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content + data[2:]


def damaged(save: Save, rng: np.random.Generator, good: dict[str, bytes]) -> None:
    for kind in FORMATS:
        data = good[kind]
        for number, share in enumerate((0.05, 0.3, 0.6, 0.9, 0.99)):
            save(f"truncated/{kind}-{number}.{kind.lower()}", data[: int(share * len(data))], UNSURE)
        for number in range(12):
            raw = bytearray(data)
            for at in rng.integers(0, len(raw), 1 + number):
                raw[at] ^= 1 << int(rng.integers(0, 8))
            save(f"flipped/{kind}-{number}.{kind.lower()}", bytes(raw), UNSURE)
        for length in (2, 4, 12, 30):
            save(f"magic/{kind}-{length}", data[:length], BROKEN)
        for other in ("jpg", "tar", "txt"):
            save(f"extension/{kind}.{other}", data, FINE)
    for number, length in enumerate((1, 2, 3, 10, 100, 1000, 5000, 20_000)):
        save(f"noise/{number}.jpg", bytes([1]) + rng.bytes(length - 1), NO_IMAGE)
    save("empty.png", b"", {"empty_file"})
    others = {
        "html": b"<html>",
        "pdf": b"%PDF-1.7\n",
        "exe": b"MZ" + bytes(200),
        "mp4": bytes(4) + b"ftypisom",
    }
    for name, head in others.items():
        save(f"extension/{name}.jpg", head + bytes(600), NO_IMAGE)
    save("extension/eps.jpg", b"%!PS" + bytes(600), {"other_picture_format"})


def bombs(save: Save, rng: np.random.Generator, good: dict[str, bytes]) -> None:
    big, large = 8000, {"too_many_pixels"}
    rows = zeros((3 * big + 1) * big)  # decompresses to 192 MB of black pixels
    save("bombs/decompression.png", png(big, big, 8, 2, rows), FINE)
    save("bombs/short_data.png", png(big, big, 8, 2, zeros(10**6)), BROKEN)
    save("bombs/too_much_data.png", png(16, 16, 8, 2, rows), UNSURE)
    for number, (width, height) in enumerate([(60_000, 60_000), (2**31 - 1, 1), (1, 2**31 - 1), (2**31 - 1,) * 2]):
        save(f"bombs/dimensions{number}.png", png(width, height, 8, 2, zeros(100)), large | BROKEN)
    text = b"Comment\0\0" + zeros(2 * 10**8)
    save("bombs/text.png", png(16, 16, 8, 0, zeros(17 * 16), chunk(b"zTXt", text)), UNSURE)
    texts = [chunk(b"zTXt", b"Comment\0\0" + zeros(10**6))] * 200
    save("bombs/texts.png", png(16, 16, 8, 0, zeros(17 * 16), *texts), UNSURE)
    save("bombs/profile.png", png(16, 16, 8, 0, zeros(17 * 16), chunk(b"iCCP", b"x\0\0" + zeros(10**8))), UNSURE)
    for number, (width, height) in enumerate([(65_535, 65_535), (65_535, 3000)]):
        save(f"bombs/dimensions{number}.gif", gif(width, height), large)
        jpeg = bytearray(good["JPEG"])
        at = jpeg.index(b"\xff\xc0")
        jpeg[at + 5 : at + 9] = struct.pack(">HH", height, width)
        # A JPEG is read at half size if it has up to four times as many pixels as the limit. The second JPEG of this
        # loop is read in this way, and then refused because it is truncated.
        save(f"bombs/dimensions{number}.jpg", bytes(jpeg), large | BROKEN)
    black = Image.new("L", (big, big))
    save("bombs/decompression.gif", saved(black, "GIF"), FINE)
    save("bombs/decompression.webp", saved(black.convert("RGB"), "WEBP", lossless=True, method=0), FINE)
    save("bombs/dimensions.webp", webp(16_384, 16_384), large | BROKEN)
    packed = zeros(big * big)
    deflated = plain(big, big, 8 + 2 + 12 * 7 + 4, len(packed), compression=8)
    save("bombs/decompression.tif", tiff(deflated, data=packed), FINE)
    for number, (width, height) in enumerate([(60_000, 60_000), (2**32 - 1, 2**32 - 1), (2**31, 1), (1, 2**31)]):
        save(f"bombs/dimensions{number}.tif", tiff(plain(width, height)), large | BROKEN)
    save("bombs/strips.tif", tiff([*plain(16, 16)[:-2], (273, 4, 2**31, 8), (279, 4, 2**31, 8)]), UNSURE)
    save("bombs/count.tif", tiff([(256, 4, 2**32 - 1, 8), *plain(16, 16)[1:]]), UNSURE)
    save("bombs/bits.tif", tiff([*plain(16, 16), (277, 3, 1, 65_535)]), UNSURE)
    for number, size in enumerate([(60_000, 60_000), (2**31 - 1, 2**31 - 1), (-5, 7), (16, -(2**31))]):
        bmp = bytearray(good["BMP"])
        bmp[18:26] = struct.pack("<ii", *size)
        save(f"bombs/dimensions{number}.bmp", bytes(bmp), UNSURE)
    avif, at = bytearray(good["AVIF"]), good["AVIF"].index(b"ispe")
    avif[at + 8 : at + 16] = struct.pack(">II", 60_000, 60_000)
    save("bombs/dimensions.avif", bytes(avif), UNSURE)
    progressive = saved(Image.new("L", (1200, 1200), 128), "JPEG", progressive=True)
    at = progressive.rindex(b"\xff\xda")
    save("bombs/scans.jpg", progressive[:at] + progressive[at:-2] * 300 + progressive[-2:], UNSURE)
    for kind in ("GIF", "PNG", "TIFF", "WEBP"):
        frames = [Image.new("L", (4, 4), i % 256) for i in range(400)]
        save(f"bombs/frames.{kind.lower()}", saved(frames[0], kind, save_all=True, append_images=frames[1:]), FINE)


def gif(width: int, height: int) -> bytes:
    size = struct.pack("<HH", width, height)
    return b"GIF89a" + size + b"\x80\0\0" + bytes(6) + b"," + bytes(4) + size + b"\0\x02\x02L\x01\0;"


def webp(width: int, height: int) -> bytes:
    bits = struct.pack("<I", (width - 1) | (height - 1) << 14)
    data = b"VP8L" + struct.pack("<I", 26) + b"/" + bits + bytes(21)
    return b"RIFF" + struct.pack("<I", len(data) + 4) + b"WEBP" + data


def odd(save: Save, rng: np.random.Generator, good: dict[str, bytes]) -> None:
    for kind, at in (("PNG", 16), ("BMP", 18), ("GIF", 6)):
        raw = bytearray(good[kind])
        raw[at : at + 4] = bytes(4)
        save(f"zero/width.{kind.lower()}", bytes(raw), UNSURE)
    jpeg = bytearray(good["JPEG"])
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 7] = bytes(2)
    save("zero/height.jpg", bytes(jpeg), BROKEN)
    save("zero/none.png", png(0, 0, 8, 2, zeros(1)), BROKEN)
    save("zero/none.tif", tiff(plain(0, 0)), BROKEN)
    save("zero/none.gif", gif(0, 0), BROKEN)
    save("zero/empty.tif", b"II*\0" + bytes(4), BROKEN)

    jpeg = good["JPEG"]
    loop = tiff([(274, 3, 1, 1), (34665, 4, 1, 8)], following=(8,))
    exifs = [b"", b"garbage" * 9, b"II*\0\xff\xff\xff\xff", b"MM\0*" + bytes(4), loop, tiff([(274, 2, 2**31, 8)])]
    exifs += [tiff([(274, 12, 1, 8)]), tiff([(274, 3, 0, 0)]), tiff([(274, 3, 1, 6)])[:-9], rng.bytes(500)]
    for number, exif in enumerate(exifs):
        save(f"exif/{number}.jpg", jpeg_with(jpeg, 0xE1, b"Exif\0\0" + exif), FINE)
        ihdr = good["PNG"][:33]
        save(f"exif/{number}.png", ihdr + chunk(b"eXIf", exif) + good["PNG"][33:], FINE)
    for number, profile in enumerate([b"", b"\1\1", b"\0\5", b"\1\1" + rng.bytes(300), b"\1\1" + b"\xff" * 128]):
        right = FINE if profile else NO_IMAGE  # Pillow does not recognise a JPEG with an empty profile as a picture
        save(f"icc/{number}.jpg", jpeg_with(jpeg, 0xE2, b"ICC_PROFILE\0" + profile), right)
        save(f"icc/{number}.png", ihdr + chunk(b"iCCP", b"x\0\0" + zlib.compress(profile)) + good["PNG"][33:], FINE)

    gray = plain(4, 4, 8 + 2 * (2 + 12 * 7 + 4), 16)
    save("cycles/itself.tif", tiff(gray, gray, following=(8,), data=bytes(16)), FINE)
    save("cycles/two.tif", tiff(gray, gray, following=(98, 8), data=bytes(16)), FINE)
    save("cycles/sub.tif", tiff([*gray, (330, 4, 1, 8)], data=bytes(200)), UNSURE)
    for number, offset in enumerate((0, 1, 7, 10**6, 2**32 - 1)):
        save(f"cycles/first{number}.tif", b"II*\0" + struct.pack("<I", offset) + bytes(60), BROKEN)
        save(f"cycles/big{number}.tif", b"II+\0\x08\0\0\0" + struct.pack("<Q", offset << 31) + bytes(60), BROKEN)


def polyglots(save: Save, rng: np.random.Generator, good: dict[str, bytes], packed: bytes) -> None:
    """Writes files that belong to two formats at once.

    If such a file begins with a picture, it counts as this picture. Otherwise it counts as no image.
    """
    for kind in ("GIF", "JPEG", "PNG", "BMP"):
        save(f"polyglots/{kind}.zip", good[kind] + packed, FINE)
        save(f"polyglots/{kind}.php", good[kind] + b"<?php system($_GET['c']); ?>", FINE)
    save("polyglots/comment.html", jpeg_with(good["JPEG"], 0xFE, b"--><script>alert(1)</script><!--"), FINE)
    save("polyglots/script.gif", good["GIF"] + b"*/=1;alert(1);//", FINE)
    save("polyglots/pdf.zip", b"%PDF-1.7\n" + packed, NO_IMAGE)
    save("polyglots/exe.zip", b"MZ" + bytes(510) + packed, NO_IMAGE)
    save("polyglots/pdf.jpg", b"%PDF-1.7\n" + good["JPEG"], NO_IMAGE)


def names(save: Save, rng: np.random.Generator, good: dict[str, bytes]) -> None:
    odd = [b"new\nline", b"tab\t", b"\xff\xfe", b"caf\xe9", b"-rf", b"--out", b" ", b"...", b"..hidden", b"%2e%2e%2f"]
    odd += [
        b"a#1",
        b"a#0/b",
        b"a?b",
        b"$(touch pwned)",
        b"`id`",
        b"; rm -rf ~",
        b"'\"",
        b"C:\\x",
        b"..\\..\\x",
        b"NUL",
        b"CON",
    ]
    odd += ["\u202egpj.exe".encode(), "🙂".encode(), "\u00e9".encode(), "e\u0301".encode(), b"n" * 240, b"\x1b[2J\x07"]
    for number, name in enumerate(odd):
        image = saved(picture(np.random.default_rng([7, number])), "PNG")
        save(b"names/" + name + b".png", image, {"ok"})
        save(b"names/bad " + name, b"no photo", NO_IMAGE)


def special(folder: Path, outside: Path, may: dict[Path, set[str]]) -> None:
    """Makes symlinks that leave the folder or never end, and a pipe to which nobody writes."""
    links = {
        "file": outside / "canary.png",
        "folder": outside,
        "up": Path("../../outside"),
        "passwd": Path("/etc/passwd"),
        "root": Path("/"),
        "device": Path("/dev/zero"),
        "chain": Path("file"),
    }
    here = folder / "special"
    here.mkdir(parents=True)
    for name, target in links.items():
        (here / name).symlink_to(target)
        may[here / name] = {"symlink_leaves_folder"}
    (here / "loop").symlink_to("loop")
    (here / "a").symlink_to("b")
    (here / "b").symlink_to("a")
    (here / "again").symlink_to("..")
    os.mkfifo(here / "pipe")
    may |= {here / name: {"symlink_loop"} for name in ("loop", "a", "b")}
    may |= {here / "again": {"folder_already_walked"}, here / "pipe": {"special_file"}}


def build(folder: Path, rng: np.random.Generator, with_bombs: bool = True) -> dict[Path, set[str]]:
    """Writes the corpus into `folder`/offered, and a photo that nobody may read into `folder`/outside.

    Returns the allowed reasons of each file. The bombs are small files of very large pictures. To write and read them
    takes half of the time.
    """
    offered, outside = folder / "offered", folder / "outside"
    outside.mkdir(parents=True)
    may: dict[Path, set[str]] = {}

    def save(name: str | bytes, data: bytes, right: set[str]) -> Path:
        path = offered / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        assert path not in may
        path.write_bytes(data)
        may[path] = right
        return path

    good = seeds(rng)
    (outside / "canary.png").write_bytes(saved(picture(rng), "PNG"))
    damaged(save, rng, good)
    if with_bombs:
        bombs(save, rng, good)
    odd(save, rng, good)
    names(save, rng, good)
    packed = archives(save, rng, lambda: saved(picture(rng), "PNG"))
    polyglots(save, rng, good, packed)
    special(offered, outside, may)
    return may


if __name__ == "__main__":
    print(len(build(Path(sys.argv[1]), np.random.default_rng(0))), "files")
