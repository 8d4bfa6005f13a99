"""Tests the menus for consent and their questions in Chromium, for one photo and for all photos of a person."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page

from manifests.ledger.records import DecisionRow, Membership
from tests.doubles.curation import rows
from tests.doubles.review.browser import CHROMIUM, Hand, Server

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")


def test_a_refusal_asks_first_and_hides_the_photo_until_it_is_undone(dataset: Path, page: Page) -> None:
    members = rows(dataset, Membership)
    person = members[0].identity_id
    own = sorted(row.face_id for row in members if row.identity_id == person)
    hand, server = Hand(page, with_keyboard=True), Server(dataset)
    page.goto(server.link)
    page.goto(f"{server.base}/person/{person}")

    # The dialog of a face has the menu of its photo. The test finds the menu by its label, as a screen reader does.
    hand.open(own[0])
    page.wait_for_selector("#face[open]")
    hand.wait("document.getElementById('face-numbers').children.length > 0")
    photo = page.get_by_label("Consent for this photo")
    assert photo.input_value() == "" and photo.locator("option:disabled").inner_text() == "unknown"
    photo.select_option("no")
    page.wait_for_selector("#ask[open]")
    assert "Its crops and embeddings are erased when the decision is applied." in page.inner_text("#ask-text")
    page.keyboard.press("Escape")
    page.wait_for_selector("#ask:not([open])", state="attached")
    assert photo.input_value() == "" and rows(dataset, DecisionRow) == []

    # While the dialog is open, its menu always shows the present consent. If the dialog moves to another face, the menu
    # waits for the facts of that face.
    menu = "document.getElementById('face-consent')"
    photo.select_option("yes")
    hand.wait(f"{menu}.value === 'yes'")
    page.evaluate("document.getElementById('undo').click()")
    hand.wait(f"{menu}.value === ''")
    there, back = ("next", "previous") if page.locator("#face-next").is_enabled() else ("previous", "next")
    page.route("**/api/faces/*", lambda route: route.abort())
    page.evaluate(f"document.getElementById('face-{there}').click()")
    hand.wait(f"!document.getElementById('face-crop').src.includes('{own[0]}')")
    assert photo.is_disabled()
    page.unroute("**/api/faces/*")
    page.evaluate(f"document.getElementById('face-{back}').click()")
    hand.wait(f"!{menu}.disabled && document.getElementById('face-crop').src.includes('{own[0]}')")

    photo.select_option("no")
    hand.confirm()
    page.wait_for_selector(f'.cell[data-id="{own[0]}"]', state="detached")
    hand.wait("!document.getElementById('face').open")
    hand.undo()
    page.wait_for_selector(f'.cell[data-id="{own[0]}"]')

    # The page of a person has a menu for all photos of the person.
    every = page.get_by_label("Consent for all 5 photos of this person")
    assert every.input_value() == ""
    every.select_option("yes")
    hand.confirm()
    hand.wait("document.getElementById('consent').value === 'yes'")
    every.select_option("withdrawn")
    page.wait_for_selector("#ask[open]")
    text = page.inner_text("#ask-text")
    assert text.startswith("The consent is set for 5 photos of this person. The photos are not shown any more.")
    hand.confirm()
    page.wait_for_url(f"{server.base}/")  # the person has no photos any more, so the page of all people opens
    server.stop()
    assert [(row.kind, row.name) for row in rows(dataset, DecisionRow)] == [
        ("consent", "yes"),
        ("undo", None),
        ("consent", "no"),
        ("undo", None),
        ("consent", "yes"),
        ("consent", "withdrawn"),
    ]
    assert person not in {row.identity_id for row in rows(dataset, Membership)}
