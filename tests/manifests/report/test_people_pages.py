"""Tests that the pages of people show all people, with ids for `decide`, and are removed when a face is erased."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from curate.decisions.decide import decide
from curate.decisions.lookup.face_lookup import FaceLookup
from curate.people.pending.people_now import PeopleNow
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import Face, Identity, Membership
from manifests.privacy.erase import erase_faces
from manifests.report import people_pages
from manifests.report.build_report import build_report
from manifests.report.people_pages import list_orders, list_people, shorten_ids
from tests.doubles.curation import curated, curated_album, install, photo, rows, save


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes a dataset of five people with three photos each. A page shows two people."""
    install(monkeypatch)
    monkeypatch.setattr(people_pages, "PEOPLE_A_PAGE", 2)
    _, dataset = curated_album(tmp_path, people=5)
    return dataset


def test_everybody_is_on_a_page_with_ids_that_decide_accepts_and_the_file(dataset: Path) -> None:
    folder = build_report(dataset).parent
    (folder / "people-9.html").write_text("of an earlier report")
    build_report(dataset)
    pages = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("people-*.html"))]
    shown = re.findall(r"<code>(?:(p-)?([0-9a-f]+))</code>", "".join(pages))
    lookup = FaceLookup(PeopleNow(rows(dataset, Face), rows(dataset, Membership), [], [], b""))
    found = sorted(lookup.complete_id(person + rest) for person, rest in shown)
    people = {row.identity_id for row in rows(dataset, Membership)}
    assert len(pages) == 3 and found == sorted([*people, *(row.face_id for row in rows(dataset, Face))])
    assert "".join(pages).count('/person0/0.png">0.png</a>') == 1
    every = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.html") if path.name != "index.html")
    links = set(re.findall(r'href="((?!file:)[^"]+)"', every))
    assert {link.partition("#")[0] for link in links} <= {path.name for path in folder.iterdir()}
    assert not re.search(r"<script|<link|@import|src=\"(?!data:)", every)
    with Ledger.open(dataset, write=True) as ledger:
        erase_faces(ledger, ledger.read_rows(Face)[:1], "double")
    assert list(folder.iterdir()) == []


def test_names_of_files_and_people_are_escaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    odd = "<script>alert('1')&amp;\"x.png"
    save(tmp_path / "photos" / "a.png", photo([0], 1)).rename(tmp_path / "photos" / odd)
    save(tmp_path / "photos" / "b.png", photo([0], 2))
    save(tmp_path / "photos" / "c.png", photo([1], 3)[:40]).rename(tmp_path / "photos" / f"c{odd}")
    dataset = tmp_path / "dataset"
    curated(tmp_path / "photos", dataset)
    (person,) = {row.identity_id for row in rows(dataset, Membership)}
    decide(dataset, [{"kind": "rename", "faces": [person], "name": "<img onerror=x>"}])
    pages = [path.read_text(encoding="utf-8") for path in build_report(dataset).parent.glob("*.html")]
    assert len(pages) > 2 and not any("<script" in page or "<img onerror" in page for page in pages)
    assert any("&lt;script&gt;alert(&#39;1&#39;)&amp;amp;" in page for page in pages)
    assert any("&lt;img onerror=x&gt;" in page for page in pages)


def test_people_are_listed_in_three_orders(dataset: Path) -> None:
    with Ledger.open(dataset) as ledger:
        orders = dict(list_orders(list_people(ledger)))
    weakest = [row["weakest"] for row in orders["Lowest confidence first"]]
    closest = [row["closest"] for row in orders["Smallest margin first"]]
    assert weakest == sorted(weakest) and closest == sorted(closest) and len(weakest) == 5


def test_a_doubtful_person_is_shown_as_set_aside(dataset: Path) -> None:
    people = [replace(row, doubtful=place == 0) for place, row in enumerate(rows(dataset, Identity))]
    with Ledger.open(dataset, write=True) as ledger:
        ledger.record("double", "all", {}, people)
        split_of = {row["identity_id"]: row["split"] for row in list_people(ledger).rows}
    assert [row.identity_id for row in people if split_of[row.identity_id] == "doubtful, set aside"] == [
        people[0].identity_id
    ]


def test_short_ids_are_as_short_as_they_can_be() -> None:
    assert shorten_ids(["aaa1", "aab2", "b"], 1) == {"aaa1": "aaa", "aab2": "aab", "b": "b"}
    assert shorten_ids([], 8) == {}
