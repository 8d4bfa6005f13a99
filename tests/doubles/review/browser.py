"""Drives the pages of the review with the system's Chromium. The server runs in a thread of this process."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from pathlib import Path

import uvicorn
from playwright.sync_api import Page

from curate.review.server import make_app
from curate.review.session.session import Session
from curate.review.web.access import Access

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

# Every wait ends when the page has the expected state. The limits below only end a test that would wait for ever.
PATIENCE = 60_000  # The limit in milliseconds for a change of the page.
WORK = 240_000  # The limit in milliseconds for work in another process, which first imports its libraries.


class Server:
    """A running review. The address `link` opens the pages, and works only one time."""

    def __init__(self, dataset: Path) -> None:
        self.session = Session(dataset, idle=1e9)
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        access = Access(make_app(self.session), "127.0.0.1", port)
        self.link = access.link
        self.base = f"http://127.0.0.1:{port}"
        self._server = uvicorn.Server(uvicorn.Config(access, log_level="error", access_log=False, lifespan="off"))
        self._thread = threading.Thread(target=self._server.run, args=([self._listener],), daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)

    def stop(self) -> None:
        """Ends the server as Ctrl-C does. The decisions are then applied."""
        self._server.should_exit = self._server.force_exit = True
        self._thread.join()
        self._listener.close()
        self.session.close(lambda sentence: None)


class Hand:
    """Does the acts of a user, either with the mouse or only with the keyboard."""

    def __init__(self, page: Page, with_keyboard: bool) -> None:
        self.page, self.with_keyboard = page, with_keyboard

    def choose(self, *ids: str) -> None:
        """Selects the cells with these ids."""
        self.page.wait_for_timeout(200)  # waits as a user does, because the page may still draw the last answer
        for one in ids:
            if self.with_keyboard:
                self.go_to(one)
                self.page.keyboard.press("x")
            else:
                self.page.locator(f'.cell[data-id="{one}"] .pick').click()
            self.wait(f"document.querySelector('.cell[data-id=\"{one}\"]').getAttribute('aria-selected') === 'true'")

    def go_to(self, one: str) -> None:
        """Moves the focus to a cell with j and k."""
        cell = f'.cell[data-id="{one}"]'
        self.page.wait_for_selector(cell)
        self.page.keyboard.press("j")  # puts the focus into the grid, if the focus is elsewhere
        for _ in range(50):
            # the page may read its rows again between two keys
            steps = self.page.evaluate(
                f"document.querySelector('{cell}').dataset.index - (document.activeElement.dataset.index ?? 0)"
            )
            if steps == 0:
                return
            self.page.keyboard.press("j" if steps > 0 else "k")
        raise AssertionError(f"the focus does not reach {one}")

    def open(self, one: str) -> None:
        """Opens the page of a person, or the dialog of a face."""
        if self.with_keyboard:
            self.go_to(one)
            self.page.keyboard.press("Enter")
        else:
            self.page.locator(f'.cell[data-id="{one}"] img').click()

    def act(self, name: str, key: str, place: str = "#dock") -> None:
        """Starts an act with its button or its key."""
        if self.with_keyboard:
            self.page.keyboard.press(key)
        else:
            self.page.locator(f'{place} [data-act="{name}"]').click()

    def confirm(self, text: str | None = None) -> None:
        """Confirms the dialog. If a text is given, types it into the dialog first."""
        self.page.wait_for_selector("#ask[open]")
        if text is not None:
            self.page.keyboard.press("Control+a")
            self.page.keyboard.type(text)
        if self.with_keyboard:
            self.page.keyboard.press("Enter")
        else:
            self.page.locator("#ask-yes").click()

    def pick_person(self, identity_id: str) -> None:
        """Chooses a person in the dialog that looks for people."""
        self.page.wait_for_selector("#choose[open]")
        self.page.keyboard.type(identity_id)
        if self.with_keyboard:
            self.page.keyboard.press("Enter")  # presses the key at once, while the list may still show other people
            return
        choice = self.page.locator(f'#choose-list button:has(span:text-matches("{identity_id[:10]}"))')
        choice.first.wait_for()
        self.wait("document.querySelectorAll('#choose-list button').length === 1")
        choice.click()

    def wait(self, condition: str) -> None:
        """Waits until a condition in JavaScript is true.

        Playwright's own function for this needs eval, which the pages forbid.
        """
        end = time.monotonic() + PATIENCE / 1000
        while time.monotonic() < end:
            if self.page.evaluate(condition):
                return
            time.sleep(0.02)
        raise AssertionError(f"{condition} is not true")

    def undo(self) -> None:
        self._press("u", "#undo")

    def redo(self) -> None:
        self._press("U", "#redo")

    def _press(self, key: str, button: str) -> None:
        self.page.wait_for_selector(f"{button}:not([disabled])")
        if self.with_keyboard:
            self.page.keyboard.press(key)
        else:
            self.page.locator(button).click()
