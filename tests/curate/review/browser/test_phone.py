"""Tests the pages of the review on a narrow screen with touch: sizes of the controls, and the place of messages."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.doubles.review.browser import CHROMIUM, PATIENCE, WORK, Server
from tests.doubles.review.reviewed_dataset import make_result

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")

PAGES = ("/", "/ask", "/map", "/copies", "/unused?kind=face&reason=too_small", "/sets", "/runs", "/leaks")
LEAST = 40  # the least height in pixels of a control that a finger can hit (ours)

# Returns, as text, the controls that are less than `least` pixels high, and the controls that reach beyond the right
# edge of the screen.
FIND_FAULTS = """(least) => [...document.querySelectorAll("header a, button, select, input, .reasons a")]
  .map((one) => [one, one.getBoundingClientRect()])
  .filter(([one, box]) => box.height && (box.height < least || (box.right > innerWidth && !one.closest(".strip"))))
  .map(([one, box]) => `${one.outerHTML.slice(0, 60)}: ${Math.round(box.height)} px`)"""


def test_every_page_suits_a_phone(browser: Browser, made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "dataset")
    make_result(made, tmp_path / "dataset" / "run")
    server = Server(tmp_path / "dataset")
    context = browser.new_context(
        viewport={"width": 375, "height": 812}, has_touch=True, is_mobile=True, reduced_motion="reduce"
    )
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto(server.link)
    page.locator(".cell img").first.wait_for()
    page.keyboard.press("m")  # nothing is selected, so the page shows a message
    page.locator(".cell .pick").first.tap()
    person = page.locator(".cell").first.get_attribute("data-id")
    pages = {path: page.evaluate(FIND_FAULTS, LEAST) for path in [page.url]}
    for path in (*PAGES, f"/person/{person}"):
        page.goto(f"{server.base}{path}")
        if path == "/map":
            page.locator("#map").wait_for(timeout=WORK)  # the page loads itself again when the map has been computed
        pages[path] = page.evaluate(FIND_FAULTS, LEAST)
        assert page.evaluate("document.documentElement.scrollWidth") <= 375, f"{path} scrolls sideways"
    assert {path: faults for path, faults in pages.items() if faults} == {}

    # A message must not cover the buttons of the selection, and the buttons must not show their keys.
    page.locator(".cell img").first.wait_for()
    page.locator(".cell .pick").first.tap()
    page.evaluate("say('The message has so many words that it needs two lines on a phone.')")
    message, dock = page.locator("#message").bounding_box(), page.locator("#dock").bounding_box()
    assert message is not None and dock is not None
    assert message["y"] + message["height"] <= dock["y"] and message["width"] > 300
    assert page.locator("#dock kbd").first.is_hidden()
    assert page.evaluate("[-.001, -.25, .5, 1].map(twoPlaces)") == [".00", "-.25", ".50", "1.00"]

    # The dialog about the keys is longer than the screen. The dialog must first show its top, with its title.
    page.locator("#keys").tap()
    assert page.evaluate("document.getElementById('help').scrollTop") == 0
    context.close()
    server.stop()
