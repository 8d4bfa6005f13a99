"""Tests the page with questions in Chromium: answers by keys and by buttons, undo, and the message at the end."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page

from manifests.ledger.ledger import Ledger
from manifests.ledger.records import DecisionRow, Identity, Membership
from tests.doubles.curation import rows
from tests.doubles.review.browser import CHROMIUM, Hand, Server

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")


@pytest.mark.parametrize(
    "with_keyboard", [pytest.param(False, id="mouse"), pytest.param(True, id="keyboard", marks=pytest.mark.exhaustive)]
)
def test_a_divided_person_is_asked_about_and_the_answer_is_undone(
    dataset: Path, page: Page, with_keyboard: bool
) -> None:
    members = rows(dataset, Membership)
    half = [row.face_id for row in members if row.identity_id == members[0].identity_id][:2]
    with Ledger.open(dataset, write=True) as ledger:
        moved = [Membership(face, "p-000000000000", 0.9, 0.5) for face in half]
        ledger.record("muddled", "all", {}, [*moved, Identity("p-000000000000", "<b>Ann</b>")])
    hand, server = Hand(page, with_keyboard), Server(dataset)

    def reply(word: str) -> None:
        page.wait_for_selector("#answers:not([hidden])")
        old = page.get_attribute("#sides", "data-question")
        if with_keyboard:
            page.keyboard.press(word[0])
        else:
            page.locator(f'#answers [data-answer="{word}"]').click()
        wait_for_other_question(old)

    def wait_for_other_question(old: str | None) -> None:
        sides = "document.getElementById('sides')"
        hand.wait(f"{sides}.hidden || {sides}.dataset.question !== '{old}'")

    def find_parts() -> None:
        """Skips questions until the page asks about the two people into whom one person was divided."""
        for _ in range(60):
            sides, title = str(page.text_content("#sides")), str(page.text_content("#question"))
            if "2 faces" in sides and "3 faces" in sides and "two people" in title:
                return
            reply("skip")
        raise AssertionError("the page does not ask about the two people")

    page.goto(server.link)
    page.goto(f"{server.base}/ask")
    page.wait_for_selector("#answers:not([hidden])")
    find_parts()
    assert "<b>Ann</b>" in str(page.text_content("#sides"))  # the page shows a name that looks like HTML as plain text
    reply("yes")
    (decision,) = rows(dataset, DecisionRow)
    assert decision.kind == "merge"
    old = page.get_attribute("#sides", "data-question")
    hand.undo()
    wait_for_other_question(old)
    find_parts()
    reply("no")
    assert [row.kind for row in rows(dataset, DecisionRow)] == ["merge", "undo", "apart"]
    # The answer `mixed` opens the page of a person with a proposal. Until this person changes, no question is about the
    # person.
    asked = page.locator("#sides a").evaluate_all("links => links.map(link => link.pathname)")
    if with_keyboard:
        page.keyboard.press("m")
    else:
        page.get_by_role("button", name="Mixed: one side shows several people; open the person").click()
    page.wait_for_url("**/person/*?mixed=1")
    page.locator("#message:has-text('may show another person')").wait_for()
    assert page.locator("#dock").is_visible() and urlsplit(page.url).path in asked
    mixed = urlsplit(page.url).path
    page.click("#back")
    page.wait_for_url("**/ask")
    page.wait_for_selector("#remaining:not(:empty)")
    for _ in range(60):
        assert page.locator(f"#sides a[href='{mixed}']").count() == 0
        if page.text_content("#question") == "No question is left":
            break
        reply("skip")
    assert page.text_content("#question") == "No question is left" and page.locator("#answers").is_hidden()
    assert len(rows(dataset, DecisionRow)) == 3
    server.stop()
