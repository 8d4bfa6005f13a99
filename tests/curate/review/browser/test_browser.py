"""Tests the pages of the review in Chromium: every act by mouse and by keyboard, undo, restart, and the ledger."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
from playwright.sync_api import Page

from curate.decisions.decide import decide
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import DecisionRow, Identity, Membership
from tests.doubles.curation import contents, rows
from tests.doubles.review.browser import CHROMIUM, PATIENCE, Hand, Server

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")


# This script delays every answer that contains faces by half a second.
_SLOW_FACES = """const quick = fetch; window.fetch = async (path, ...more) => {
  if (String(path).includes("/faces?")) await new Promise((done) => { setTimeout(done, 500); });
  return quick(path, ...more);
};"""


def find_people(dataset: Path) -> dict[str, list[str]]:
    """Returns a dict that maps each person of the ledger to the faces of the person, sorted."""
    people: dict[str, list[str]] = {}
    for row in rows(dataset, Membership):
        people.setdefault(row.identity_id, []).append(row.face_id)
    return dict(sorted(people.items()))


def wait_for_decisions(server: Server, number: int) -> list[DecisionRow]:
    """Waits until the ledger has a decision with this number, and returns all decisions."""
    end = time.monotonic() + PATIENCE / 1000
    while time.monotonic() < end:
        log = server.session.read().people.log
        if log and log[-1].number >= number:
            with server.session.lock:  # while the test holds this lock, no act can write
                return rows(server.session.dataset, DecisionRow)
        time.sleep(0.02)
    raise AssertionError(f"decision {number} was not recorded; the log has {[one.kind for one in log]}")


def strip(dataset: Path) -> dict[str, list]:
    return {name: table for name, table in contents(dataset).items() if name != "stages"}


def describe(dataset: Path) -> set[tuple]:
    """Returns the people of the ledger without their ids."""
    name = {row.identity_id: (row.name, row.locked) for row in rows(dataset, Identity)}
    return {(*name[person], tuple(faces)) for person, faces in find_people(dataset).items()}


@pytest.mark.parametrize(
    "with_keyboard", [pytest.param(False, id="mouse", marks=pytest.mark.exhaustive), pytest.param(True, id="keyboard")]
)
def test_every_act_gives_the_ledger_of_decide_and_can_be_undone(
    dataset: Path, tmp_path: Path, page: Page, with_keyboard: bool
):
    twin = tmp_path / "twin"
    shutil.copytree(dataset, twin)
    start = describe(dataset)
    (one, first), (two, second), (three, third), (four, fourth) = find_people(dataset).items()
    hand, server = Hand(page, with_keyboard), Server(dataset)

    page.goto(server.link)
    hand.choose(one, two)
    hand.act("merge", "m")
    kept = min(one, two)
    decide(twin, [{"kind": "merge", "sides": order(server, [one, two], 1)}])
    wait_for_decisions(server, 1)
    page.wait_for_selector(f'.cell[data-id="{kept}"] .text:has-text("10 faces")')

    hand.open(kept)
    page.wait_for_url(f"**/person/{kept}")
    page.wait_for_selector(".cell img")
    hand.act("rename", "n", ".head")
    hand.confirm("Ada <i>Lovelace</i>")
    wait_for_decisions(server, 2)
    decide(twin, [{"kind": "rename", "faces": [kept], "name": "Ada <i>Lovelace</i>"}])
    hand.wait("document.getElementById('name').textContent === 'Ada <i>Lovelace</i>'")

    hand.choose(second[0])
    hand.act("split", "s")
    wait_for_decisions(server, 3)
    decide(twin, [{"kind": "split", "faces": [second[0]]}])
    page.wait_for_selector(f'.cell[data-id="{second[0]}"]', state="detached")

    hand.choose(second[1])
    hand.act("move", "v")
    hand.pick_person(three)
    wait_for_decisions(server, 4)
    decide(twin, [{"kind": "move", "faces": [second[1]], "to": three}])

    page.wait_for_selector(f'.cell[data-id="{second[1]}"]', state="detached")
    hand.choose(second[2], second[3])
    hand.act("out", "o")
    hand.confirm()
    wait_for_decisions(server, 6)
    out = order(server, second[2:4], 5)
    decide(twin, [{"kind": "split", "faces": [face]} for face in out])

    page.wait_for_selector(f'.cell[data-id="{second[2]}"]', state="detached")
    hand.choose(first[0])
    page.evaluate(_SLOW_FACES)
    hand.act("drop", "d")
    page.wait_for_selector("#ask[open]")
    assert len(page.query_selector_all("#ask-suggestions option")) == 4
    hand.confirm("not a face" if with_keyboard else "")
    wait_for_decisions(server, 7)
    decide(twin, [{"kind": "drop", "faces": [first[0]], **({"reason": "not a face"} if with_keyboard else {})}])

    hand.choose(first[1])  # the face is selected while the page is reading the faces again
    page.wait_for_selector(f'.cell[data-id="{first[0]}"]', state="detached")
    hand.wait(f"document.querySelector('.cell[data-id=\"{first[1]}\"]').getAttribute('aria-selected') === 'true'")
    assert page.inner_text("#dock .chosen") == "1 face of 5"
    hand.act("lock", "l", ".head")
    wait_for_decisions(server, 8)
    decide(twin, [{"kind": "lock", "faces": [kept]}])
    page.wait_for_selector("#facts:has-text('locked')")
    if with_keyboard:
        page.focus("#split")
        page.keyboard.press("v")
    else:
        page.select_option("#split", "val")
    wait_for_decisions(server, 9)
    decide(twin, [{"kind": "assign", "faces": [kept], "split": "val"}])
    page.wait_for_selector("#facts:has-text('split val')")
    assert "9 decisions not yet applied" in page.inner_text("#unapplied")

    server.stop()
    assert strip(dataset) == strip(twin)

    server = Server(dataset)
    page.goto(server.link)
    page.wait_for_selector(".cell img")
    for undone, total in enumerate((10, 11, 12, 14, 15, 16, 17, 18), 1):
        hand.undo()
        wait_for_decisions(server, total)
        hand.wait(f"state.revision === {server.session.revision}")
        assert undone
    hand.redo()
    wait_for_decisions(server, 19)
    hand.wait(f"state.revision === {server.session.revision}")
    hand.undo()
    wait_for_decisions(server, 20)
    server.stop()
    assert describe(dataset) == start and [fourth, third] == [find_people(dataset)[four], find_people(dataset)[three]]


def test_the_focus_stays_on_its_face_while_the_page_reads_the_faces_again(dataset: Path, page: Page):
    hand, server = Hand(page, True), Server(dataset)
    person = min(find_people(dataset))
    page.goto(server.link)
    page.goto(f"{server.base}/person/{person}")
    page.wait_for_selector(".cell img")
    faces = [str(cell.get_attribute("data-id")) for cell in page.query_selector_all(".cell")]
    page.evaluate(_SLOW_FACES)
    hand.choose(faces[0])
    hand.go_to(faces[2])
    hand.act("split", "s")
    wait_for_decisions(server, 1)
    page.keyboard.press("j")  # the page still shows the old faces
    page.wait_for_selector(f'.cell[data-id="{faces[0]}"]', state="detached")
    assert page.evaluate("document.activeElement.dataset.id") == faces[3]
    page.keyboard.press("k")
    assert page.evaluate("document.activeElement.dataset.id") == faces[2]
    hand.act("drop", "d")  # the face with the focus
    hand.confirm("")
    page.wait_for_selector(f'.cell[data-id="{faces[2]}"]', state="detached")
    assert page.evaluate("document.activeElement.dataset.id") == faces[3]
    server.stop()


def order(server: Server, ids: list[str], number: int) -> list[str]:
    """Returns the ids in the order in which the page sent them. The decisions from `number` on contain this order."""
    log = wait_for_decisions(server, number)
    dataset = server.session.dataset
    with server.session.lock, Ledger.open(dataset) as ledger:
        place = {
            row[0]: f'"photo": "{row[1]}", "box": [{", ".join(str(round(float(side), 2)) for side in row[2])}]'
            for row in ledger.query("SELECT face_id, photo_id, box FROM faces").iter_rows()
        }
    text = " ".join(row.faces for row in log[number - 1 :])
    people = find_people(dataset)
    return sorted(ids, key=lambda one: min(text.find(place[face]) for face in people.get(one, [one])))
