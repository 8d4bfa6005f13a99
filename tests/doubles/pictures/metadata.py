"""Writes metadata into picture files without changing a pixel, like programs that rate or rotate photos."""

import io
import struct
import zlib
from pathlib import Path

from PIL import Image

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:li xmp:Rating="%d"/></x:xmpmeta>'


def rate(path: Path, stars: int = 5) -> None:
    """Writes a rating as XMP into a JPEG, PNG or WebP."""
    embed_xmp(path, XMP % stars)


def embed_xmp(path: Path, xmp: bytes) -> None:
    """Writes an XMP packet into a JPEG, PNG or WebP."""
    data = path.read_bytes()
    if data[:2] == b"\xff\xd8":
        segment = b"http://ns.adobe.com/xap/1.0/\0" + xmp
        data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data[2:]
    elif data[:4] == b"\x89PNG":
        chunk = b"iTXtXML:com.adobe.xmp\0\0\0\0\0" + xmp
        chunk = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        data = data[:33] + chunk + data[33:]
    else:
        width, height = Image.open(io.BytesIO(data)).size
        chunks = data[12:] if data[12:16] != b"VP8X" else data[30:]
        header = b"VP8X" + struct.pack("<IB3x", 10, 4) + (width - 1).to_bytes(3, "little")
        chunks = header + (height - 1).to_bytes(3, "little") + chunks + b"XMP " + struct.pack("<I", len(xmp)) + xmp
        chunks += b"\0" * (len(xmp) % 2)
        data = b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WEBP" + chunks
    path.write_bytes(data)


def orient(path: Path, orientation: int) -> None:
    """Writes an EXIF block with this orientation at the start of a JPEG."""
    exif = b"Exif\0\0II*\0" + struct.pack("<IHHHIHHI", 8, 1, 274, 3, 1, orientation, 0, 0)
    data = path.read_bytes()
    start = 2
    while data[start : start + 2] == b"\xff\xe1" and data[start + 4 : start + 8] == b"Exif":
        start += 2 + int.from_bytes(data[start + 2 : start + 4], "big")
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[start:])


def encode_again(path: Path, quality: int = 90, scale: float = 1) -> None:
    """Decodes a file and saves it again in the same format, at `scale` times its size."""
    with Image.open(path) as image:
        size = round(image.width * scale), round(image.height * scale)
        image, file_format = image.convert("RGB").resize(size, Image.Resampling.LANCZOS), image.format
    image.save(path, file_format, quality=quality)


PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about=""
 xmlns:mwg-rs="http://www.metadataworkinggroup.com/schemas/regions/" xmlns:stArea="http://ns.adobe.com/xmp/sType/Area#"
 xmlns:stDim="http://ns.adobe.com/xap/1.0/sType/Dimensions#" xmlns:MP="http://ns.microsoft.com/photo/1.2/"
 xmlns:MPRI="http://ns.microsoft.com/photo/1.2/t/RegionInfo#" xmlns:MPReg="http://ns.microsoft.com/photo/1.2/t/Region#"
 xmlns:digiKam="http://www.digikam.org/ns/1.0/" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/" xmlns:xmp="http://ns.adobe.com/xap/1.0/"
 xmlns:exif="http://ns.adobe.com/exif/1.0/">%s</rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>"""


def packet(*properties: str) -> bytes:
    """Returns an XMP packet with these properties, as XML."""
    return (PACKET % "".join(properties)).encode()


def bag(name: str, items: list[str]) -> str:
    return f"<{name}><rdf:Bag>{''.join(items)}</rdf:Bag></{name}>"


def mwg(regions: list[tuple[str, tuple[float, ...]]], size: tuple[int, int] | None, kind: str = "Face") -> str:
    """Returns MWG regions as digiKam and Lightroom write them.

    `regions` contains (name, box). A box is x0, y0, x1, y1 as shares of the width and the height.
    """
    items = [
        f"<rdf:li><rdf:Description mwg-rs:Name='{name}' mwg-rs:Type='{kind}'><mwg-rs:Area stArea:x='{(x0 + x1) / 2}' "
        f"stArea:y='{(y0 + y1) / 2}' stArea:w='{x1 - x0}' stArea:h='{y1 - y0}' stArea:unit='normalized'/>"
        "</rdf:Description></rdf:li>"
        for name, (x0, y0, x1, y1) in regions
    ]
    applied = ""
    if size is not None:
        applied = (
            "<mwg-rs:AppliedToDimensions rdf:parseType='Resource'>"
            f"<stDim:w>{size[0]}</stDim:w><stDim:h>{size[1]}</stDim:h><stDim:unit>pixel</stDim:unit>"
            "</mwg-rs:AppliedToDimensions>"
        )
    regions_text = bag("mwg-rs:RegionList", items)
    return f"<mwg-rs:Regions rdf:parseType='Resource'>{applied}{regions_text}</mwg-rs:Regions>"


def microsoft(regions: list[tuple[str, tuple[float, ...]]]) -> str:
    """Returns Microsoft's regions. `regions` contains (name, box), with the box x0, y0, x1, y1 as shares."""
    items = [
        f"<rdf:li MPReg:PersonDisplayName='{name}' MPReg:Rectangle='{x0}, {y0}, {x1 - x0}, {y1 - y0}'/>"
        for name, (x0, y0, x1, y1) in regions
    ]
    return f"<MP:RegionInfo rdf:parseType='Resource'>{bag('MPRI:Regions', items)}</MP:RegionInfo>"


def names(property_name: str, *people: str) -> str:
    return bag(property_name, [f"<rdf:li>{name}</rdf:li>" for name in people])


def rect64(box: tuple[float, ...]) -> str:
    """Returns Picasa's text for a box, without leading zeros. The box is x0, y0, x1, y1, as shares of the width or the
    height of the picture."""
    return f"rect64({''.join(f'{round(share * 0xFFFF):04x}' for share in box).lstrip('0')})"


def laugh() -> bytes:
    """Returns an XML text of some hundred bytes that expands to 3 GB."""
    entities = "".join(f"<!ENTITY l{n} '{f'&l{n - 1};' * 10 if n else 'lol' * 10}'>" for n in range(9))
    return f"<!DOCTYPE lolz [{entities}]><lolz>&l8;</lolz>".encode()
