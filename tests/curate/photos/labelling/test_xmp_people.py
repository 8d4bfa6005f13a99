"""Tests the people whom XMP packets and Picasa's files name, and packets that must not be trusted."""

import time
from pathlib import Path

import pytest

from curate.photos.labelling.picasa import find_picasa_people, parse_picasa_file
from curate.photos.labelling.xmp_people import MAX_REGIONS, NamedPeople, Region, read_xmp_people
from manifests.pictures.metadata.xmp import MAX_XMP, BrokenXml, parse_xml
from tests.doubles.pictures.metadata import laugh, microsoft, mwg, names, packet, rect64

BOX = (0.25, 0.25, 0.5, 0.75)
SIZE = (400.0, 300.0)


def test_mwg_regions_give_name_box_and_the_size_that_the_writer_saw():
    assert read_xmp_people(packet(mwg([("Ann", BOX)], (400, 300)))) == NamedPeople((Region("Ann", BOX, SIZE),))
    assert read_xmp_people(packet(mwg([("Ann", BOX)], None))).regions == (Region("Ann", BOX),)
    assert read_xmp_people(packet(mwg([("Rex", BOX)], None, kind="Pet"))) == NamedPeople()
    elements = """<mwg-rs:Regions><rdf:Description><mwg-rs:AppliedToDimensions stDim:w="400" stDim:h="300"/>
        <mwg-rs:RegionList><rdf:Bag><rdf:li rdf:parseType="Resource"><mwg-rs:Name> Zoe\u0308 </mwg-rs:Name>
        <mwg-rs:Area rdf:parseType="Resource"><stArea:x>150</stArea:x><stArea:y>150</stArea:y><stArea:w>100</stArea:w>
        <stArea:h>150</stArea:h><stArea:unit>pixel</stArea:unit></mwg-rs:Area></rdf:li></rdf:Bag></mwg-rs:RegionList>
        </rdf:Description></mwg-rs:Regions>"""
    # the name is in the Unicode form NFC
    assert read_xmp_people(packet(elements)).regions == (Region("Zoë", BOX, SIZE),)


def test_microsoft_regions_count_where_there_are_no_mwg_regions():
    assert read_xmp_people(packet(microsoft([("Ann", BOX)]))).regions == (Region("Ann", BOX),)
    both = packet(microsoft([("Ann", (0, 0, 0.5, 0.5))]), mwg([("Ann", BOX)], None))
    assert read_xmp_people(both).regions == (Region("Ann", BOX),)


def test_names_without_a_place():
    people = read_xmp_people(
        packet(
            names("Iptc4xmpExt:PersonInImage", "Ann", "Ann", ""),
            names("digiKam:TagsList", "People/Family/Bob", "People/Unknown", "Places/Rome", "People"),
        )
    )
    assert people == NamedPeople(names=("Ann", "Bob"))


@pytest.mark.parametrize(
    ("name", "box", "counted"),
    [
        ("", BOX, "unnamed"),
        ("ffffffffffffffff", BOX, "unnamed"),
        ("x" * 256, BOX, "broken"),
        ("a&#9;b", BOX, "broken"),
        ("Ann", (0.5, 0.5, 0.5, 0.7), "broken"),
        ("Ann", (1.5, 0.5, 1.7, 0.7), "broken"),
        ("Ann", (0.1, float("nan"), 0.2, 0.3), "broken"),
        ("Ann", (0.1, float("inf"), 0.2, 0.3), "broken"),
    ],
)
def test_regions_that_cannot_be_used_are_counted(name, box, counted):
    for properties in (mwg([(name, box)], None), microsoft([(name, box)])):
        people = read_xmp_people(packet(properties))
        assert people.regions == () and getattr(people, counted) == 1


def test_a_packet_with_very_many_regions_is_cut():
    people = read_xmp_people(packet(microsoft([("Ann", BOX)] * (MAX_REGIONS + 3))))
    assert (len(people.regions), people.broken) == (MAX_REGIONS, 3)


def test_a_billion_laughs_are_refused_before_they_expand():
    start = time.perf_counter()
    for text in (laugh(), b"<!DOCTYPE a SYSTEM 'file:///etc/passwd'><a/>", b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>"):
        with pytest.raises(BrokenXml, match="document type"):
            parse_xml(text)
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize(
    "text", [b"", b"\0", b"<a", b"<a>&b;</a>", b"<?xml version='1.0' encoding='no'?><a/>", b"\xff"]
)
def test_broken_xml_is_refused(text):
    with pytest.raises(BrokenXml, match="broken"):
        parse_xml(text)


def test_large_and_deep_xml():
    with pytest.raises(BrokenXml, match="more than 4 MiB"):
        parse_xml(b"<a>" + b" " * MAX_XMP + b"</a>")
    assert parse_xml(b"<a>" * 100_000 + b"</a>" * 100_000).tag == "a"
    assert parse_xml("<a>ë</a>".encode("utf-16")).text == "ë"


def test_picasa_regions_have_the_names_of_their_file_or_of_the_contacts():
    ini = f"""[Picasa]\nname=Party\n[IMG_1.JPG]\nstar=yes\n
faces={rect64(BOX)},8e62;{rect64((0, 0, 0.5, 0.5))},0077;{rect64(BOX)},ffffffffffffffff;{rect64(BOX)},99;rect64(zz),8e62
[Contacts2]\n8e62=Ann Smith;;\n"""
    file = parse_picasa_file(Path("/a/.picasa.ini"), ini.encode("utf-8-sig"))
    contacts = parse_picasa_file(
        Path("/a/contacts.xml"), b'<contacts><contact id="77" name="Bob &amp; Co" display="B"/></contacts>'
    ).contacts
    people = find_picasa_people(file, Path("/a/img_1.jpg"), contacts)
    assert [region.name for region in people.regions] == ["Ann Smith", "Bob & Co"] and people.unnamed == 2
    assert people.regions[0].box == pytest.approx(BOX, abs=1e-4)
    assert people.regions[1].box == pytest.approx((0, 0, 0.5, 0.5), abs=1e-4)
    assert find_picasa_people(file, Path("/a/other.jpg"), contacts) == NamedPeople()
    assert parse_picasa_file(Path("/a/.picasa.ini"), b"\xff\xfe\0[\n=\n[]\nfaces=\n").faces.get("x") is None
    with pytest.raises(BrokenXml):
        parse_picasa_file(Path("/a/contacts.xml"), laugh())
