"""Reads XMP packets of unknown origin. A packet is an XML text in a picture or in a sidecar file (ISO 16684-1).

A valid packet has no document type (DTD). A packet with a document type is refused before any of its entities is read.
No packet can therefore make the parser expand entities.
"""

from __future__ import annotations

import codecs
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

MAX_XMP = 4 * 2**20  # a packet with more bytes than this (ours) is not read; in a JPEG, a packet has at most 64 KiB

_RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
_XML = "{http://www.w3.org/XML/1998/namespace}"

Value = Element | str  # The value of a property: an XML element, or the text of an XML attribute.


class BrokenXml(Exception):
    """An XML text cannot be used. The text of the exception is the end of a sentence that begins with a file name."""


class _RefuseDocumentType(ElementTree.TreeBuilder):
    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise BrokenXml("has a document type, whose entities may expand to any size")


def parse_xml(data: bytes) -> Element:
    """Returns the root of an XML text. Raises BrokenXml if the text is broken or has more than MAX_XMP bytes."""
    if len(data) > MAX_XMP:
        raise BrokenXml(f"has more than {MAX_XMP // 2**20} MiB of metadata")
    if not data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        data = data.strip(b"\0\t\n\r ")  # some programs fill the end of a packet with blanks and zeros
    parser = ElementTree.XMLParser(target=_RefuseDocumentType())
    try:
        parser.feed(data)
        root: Element = parser.close()
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise BrokenXml(f"has broken metadata ({error})") from None
    return root


def parse_xmp(packet: bytes) -> dict[str, Value]:
    """Returns a dict that maps the name of each property of a packet to its value. A name is `{namespace}name`.

    Raises BrokenXml if the packet cannot be used.
    """
    found: dict[str, Value] = {}
    root = parse_xml(packet)
    for rdf in root.iter(f"{_RDF}RDF"):
        found |= read_fields(rdf)
    return found


def read_fields(value: Value | None) -> dict[str, Value]:
    """Returns a dict that maps the name of each field of a structure to its value.

    XMP writes a field as an attribute or as an element.
    """
    found: dict[str, Value] = {}
    if isinstance(value, Element):
        for part in (value, *value.findall(f"{_RDF}Description")):
            found |= {name: text for name, text in part.attrib.items() if not name.startswith((_RDF, _XML))}
            found |= {child.tag: child for child in part if child.tag != f"{_RDF}Description"}
    return found


def read_items(value: Value | None) -> list[Value]:
    """Returns the items of a list (rdf:Bag, rdf:Seq or rdf:Alt). Returns [] if the value is not a list."""
    if not isinstance(value, Element):
        return []
    return [item for kind in ("Bag", "Seq", "Alt") for item in value.findall(f"{_RDF}{kind}/{_RDF}li")]


def read_text(value: Value | None) -> str:
    """Returns the text of a value without blanks at its ends, or "" if the value has no text."""
    text = value.text if isinstance(value, Element) else value
    return (text or "").strip()


def read_number(value: Value | None) -> float | None:
    """Returns the number in the text of a value, or None if the text is not a number."""
    try:
        return float(read_text(value))
    except ValueError:
        return None
