"""Tests in Chromium the scripts of the areas: the map, the zoom, the slider, copies and the plan of a repair."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Page

from curate.decisions.decide import decide
from manifests.ledger.records import DecisionRow, Face, Membership
from tests.doubles.curation import curated_album, install, rows
from tests.doubles.review.browser import CHROMIUM, WORK, Server
from tests.doubles.review.reviewed_dataset import make_result

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")


def test_the_map_selects_with_a_lasso_and_with_the_keyboard(page: Page, made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "dataset")
    server = Server(tmp_path / "dataset")
    page.goto(server.link)
    page.goto(f"{server.base}/map")  # the page shows a progress bar until the map is computed
    canvas = page.locator("#map:not([aria-busy])")
    canvas.wait_for(timeout=WORK)
    faces = sum(face.status == "ok" for face in rows(made, Face))
    canvas.focus()
    page.keyboard.press("ArrowLeft")
    for _ in range(11):
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowUp")
    for _ in range(26):
        page.keyboard.press("Shift+ArrowRight")
        page.keyboard.press("Shift+ArrowDown")
    page.keyboard.press("Enter")
    page.locator(f"#chosen:text-is('{faces} faces selected.')").wait_for()
    page.keyboard.press("Escape")
    page.locator("#show:disabled").wait_for()
    box = canvas.bounding_box()
    assert box is not None
    right, bottom = box["x"] + box["width"] - 2, box["y"] + box["height"] - 2
    page.mouse.move(box["x"] + 2, box["y"] + 2)
    page.mouse.down()
    for x, y in ((right, box["y"] + 2), (right, bottom), (box["x"] + 2, bottom)):
        page.mouse.move(x, y, steps=3)
    page.mouse.up()
    page.locator(f"#chosen:text-is('{faces} faces selected.')").wait_for()
    page.locator("#show").click()
    page.wait_for_url("**/selection*")
    page.locator(".cell img").first.wait_for()
    page.locator(f"#total:has-text('{faces} faces of ')").wait_for()
    page.locator(".cell .pick").first.click()
    page.locator("#dock:not([hidden])").wait_for()
    page.keyboard.press("d")
    page.wait_for_selector("#ask[open]")
    page.keyboard.press("Enter")  # the drop is confirmed without a reason
    page.locator(f"#total:has-text('{faces - 1} faces of ')").wait_for()
    server.stop()
    assert [(row.kind, row.name) for row in rows(tmp_path / "dataset", DecisionRow)] == [("drop", None)]


def test_the_zoom_and_the_slider_work_by_keyboard(page: Page, made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "dataset")
    make_result(made, tmp_path / "dataset" / "run")
    server = Server(tmp_path / "dataset")
    page.goto(server.link)
    page.goto(f"{server.base}/sets")
    for key in ("+", "+", "ArrowLeft"):
        page.keyboard.press(key)
    styles = page.locator(".zoom img").evaluate_all("images => images.map(one => one.getAttribute('style'))")
    assert len(styles) > 3 and len(set(styles)) == 1 and "scale(2)" in styles[0] and "40% 50%" in styles[0]
    page.goto(f"{server.base}/runs")
    slider = page.locator(".case input").first
    slider.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") == "1% before, 99% restored"
    page.keyboard.press("c")
    assert slider.get_attribute("aria-valuetext") == "1% restored, 99% truth"
    assert page.locator(".stack").first.evaluate("stack => stack.offsetWidth") == 32
    server.stop()


def choose_copy(page: Page, made: Path, folder: Path) -> Server:
    """Serves FOLDER/dataset, a new copy of `made`, and presses the first button on the page of near-duplicates."""
    shutil.copytree(made, folder / "dataset")
    server = Server(folder / "dataset")
    page.goto(server.link)
    page.goto(f"{server.base}/copies")
    page.get_by_role("button", name="Use this copy").first.click()
    page.get_by_role("button", name="Chosen").wait_for()
    return server


def test_a_copy_is_chosen_by_a_click_and_given_back_by_a_key(page: Page, made: Path, tmp_path: Path) -> None:
    server = choose_copy(page, made, tmp_path)
    page.keyboard.press("u")
    # after the undo, the page is loaded again, and each of the two near-duplicates has the button "Use this copy"
    page.get_by_role("button", name="Use this copy").nth(1).wait_for()
    assert page.get_by_role("button", name="Chosen").count() == 0
    # Accepts a face that a filter dropped. The test uses only the keyboard.
    page.goto(f"{server.base}/unused?kind=face&reason=too_small")
    page.get_by_role("button", name="Use it after all").first.focus()
    page.keyboard.press("Enter")
    told = page.locator(".then:not([hidden])")
    told.wait_for()
    assert told.inner_text() == "The next likeness curate uses this face. Undo u takes this back."
    page.reload()
    page.get_by_text("uses this face, because a decision accepts it.").wait_for()
    page.keyboard.press("u")
    page.get_by_role("button", name="Use it after all").nth(1).wait_for()
    server.stop()
    assert [row.kind for row in rows(tmp_path / "dataset", DecisionRow)] == ["prefer", "undo", "accept", "undo"]


def test_an_undo_before_the_first_answer_also_loads_the_page_again(page: Page, made: Path, tmp_path: Path) -> None:
    server = choose_copy(page, made, tmp_path)
    page.route("**/api/state", lambda route: None)  # this request is never answered
    page.reload()
    assert page.get_by_role("button", name="Use this copy").count() == 1
    page.keyboard.press("u")
    page.get_by_role("button", name="Use this copy").nth(1).wait_for()
    server.stop()
    assert [row.kind for row in rows(tmp_path / "dataset", DecisionRow)] == ["prefer", "undo"]


def test_a_repair_of_leaks_is_planned_first(page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    _, dataset = curated_album(tmp_path, people=3, each=4)
    faces: dict[str, list[str]] = {}
    for row in rows(dataset, Membership):
        faces.setdefault(row.identity_id, []).append(row.face_id)
    decide(dataset, [{"kind": "split", "faces": sorted(own)[:2]} for own in faces.values()])
    server = Server(dataset)
    page.goto(server.link)
    page.goto(f"{server.base}/leaks")
    page.locator(".pair").first.wait_for(timeout=WORK)
    page.get_by_role("button", name="Show what a repair would do").click()
    page.get_by_role("button", name="Repair", exact=True).wait_for(timeout=WORK)
    assert "You can take each decision back." in page.locator("#plan-text").inner_text()
    assert page.locator("#plan").is_hidden()
    server.stop()
    assert {row.kind for row in rows(dataset, DecisionRow)} == {"split"}  # the plan of a repair recorded nothing
