"""The review of one dataset: keeps the view in memory, records decisions, and applies decisions after some idle time.

Between two requests, no connection to the ledger is open, so that other commands can use the ledger.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from curate.decisions.decide import apply_decisions_of
from curate.decisions.lookup.name_decision import name_in_words
from curate.decisions.record import record_decisions
from curate.decisions.requests import Request
from curate.people.constraints.contradictions import Contradiction
from curate.review.session.history import find_redo, find_undo
from curate.review.session.ledger_access import find_read_only, read_stamp, retry
from curate.review.session.view import View, read_view
from curate.review.session.visits import Visit
from manifests.card import write_card
from manifests.errors import BadInput, LedgerLocked, LedgerMissing, LikenessError
from manifests.ledger.decisions.decision_log import Decision
from manifests.ledger.decisions.in_force import resolve_undos
from manifests.ledger.paths import check_ledger_exists
from manifests.privacy.erase import ERASURE_REASONS
from manifests.runtime.progress import Progress
from manifests.runtime.text import format_count

IDLE = 20.0  # Decisions are applied after this many seconds (ours) without an act.
# The idle time is at least this many times (ours) the time that the last decisions took to be applied.
_IDLE_FACTOR = 3.0


class Applying(LikenessError):
    """An act came while decisions were being applied. The browser repeats the act."""


class Session:
    """The open review of a dataset."""

    def __init__(self, dataset: Path, idle: float = IDLE) -> None:
        """Reads the ledger. Raises LedgerError if the ledger cannot be read."""
        self.dataset = dataset
        self.name = dataset.resolve().name
        self.read_only = find_read_only(dataset)  # The result of `find_read_only`.
        self.lock = threading.RLock()  # The lock is needed because the server answers requests in several threads.
        self.revision = 0  # Rises with each change of the view.
        self._busy = ""  # A sentence about another command that uses the ledger, or "".
        self._failure = ""  # A sentence that says why decisions could not be applied, or "".
        self._idle, self._last_act, self._pass_seconds = idle, time.monotonic(), 0.0
        self._pass: threading.Thread | None = None  # the thread that applies decisions
        self._stamp = read_stamp(dataset)
        self._view = read_view(dataset)
        self._visit = Visit(dataset, self._view.people.identity_of)
        self._show(self._view)
        self._ended = threading.Event()
        threading.Thread(target=self._apply_when_idle, daemon=True).start()

    # reading

    def read(self) -> View:
        """Returns the view of the ledger's present state.

        If another command has changed the ledger, this method reads the ledger again. While another command writes, the
        view stays as it was, and `notice` tells the user about the command. Raises LedgerMissing if the dataset was
        deleted.
        """
        with self.lock:
            check_ledger_exists(self.dataset)
            stamp = read_stamp(self.dataset)
            if self._pass is None and (stamp != self._stamp or self._busy):
                try:
                    view = read_view(self.dataset)
                except LedgerLocked:
                    self._busy = "Another command uses this dataset. The pages show the state before this command."
                else:
                    self._stamp, self._busy = stamp, ""
                    self._show(view)
            return self._view

    def _show(self, view: View) -> None:
        # A purge or a refused consent may have removed faces. The file of the faces that the user has seen must not
        # name the removed faces again.
        self._visit.forget_all_but(
            {face.face_id for face in view.people.faces.values() if face.reason not in ERASURE_REASONS}
        )
        by_decision = {face for face, row in view.numbers.items() if row.source == "review"}
        view.mark_joined(self._visit.find_joined(view.people.identity_of, by_decision))
        self._view = view
        self.revision += 1

    def may_show(self, face_id: str) -> bool:
        """Returns whether pictures of a face may be shown."""
        return self._view.may_show(face_id)

    @property
    def notice(self) -> str:
        """The sentence at the top of every page, or ""."""
        if self.read_only or self._busy or self._failure:
            return self.read_only or self._busy or self._failure
        if not self._view.is_finished:
            return (
                "The last curation of this dataset has not finished. Run `likeness curate` again to finish the "
                "curation."
            )
        return ""

    def describe_state(self) -> dict[str, Any]:
        """Returns what every page shows about the session."""
        with self.lock:
            view = self._view
            log, batch_of = view.people.log, view.batch_of
            return {
                "revision": self.revision,
                "notice": self.notice,
                "unapplied": view.unapplied,
                "applying": self._pass is not None,
                "joined": len(view.joined),
                "undo": ", ".join(_list_kinds(log, find_undo(log, batch_of))),
                "redo": ", ".join(_list_kinds(log, find_redo(log, batch_of))),
                "can_write": not self.read_only,
            }

    # acts

    def record(self, requests: Sequence[Request]) -> list[str]:
        """Records decisions, and updates the view. Returns the notices for the user.

        Raises BadInput if the decisions are refused, and Applying while other decisions are being applied. Nothing is
        recorded after an error.
        """
        with self.lock:
            self.check_writable()
            view = self.read()
            if self._busy:
                raise LedgerLocked(f"{self._busy} Nothing is recorded. Do this again when the other command has ended.")
            try:
                recorded = retry(lambda: record_decisions(self.dataset, requests, view.desk))
            except Contradiction as error:
                raise BadInput(f"Nothing is recorded: {_describe_error(error, view)}") from None
            self._last_act = time.monotonic()
            self._stamp = read_stamp(self.dataset)
            if recorded.desk is not view.desk:  # another command changed the ledger after the view was read
                self._show(read_view(self.dataset))
                return list(recorded.notices)
            view.follow(recorded)
            if recorded.change is not None:
                seen = {f: p for f, p in recorded.change.owner.items() if f in self._visit.seen}
                self._visit.mark_seen(seen)
            self.revision += 1
            return list(recorded.notices)

    def undo(self) -> str:
        """Takes the newest act back. Returns a sentence for the user."""
        return self._take_back(find_undo, "There is nothing to undo.", "Undone")

    def redo(self) -> str:
        """Takes the newest undo back. Returns a sentence for the user."""
        return self._take_back(find_redo, "There is nothing to redo.", "Done again")

    def _take_back(self, find: Callable[..., list[int]], nothing: str, verb: str) -> str:
        with self.lock:
            log = self.read().people.log
            numbers = find(log, self._view.batch_of)
            if not numbers:
                raise BadInput(nothing)
            kinds = ", ".join(_list_kinds(log, numbers))
            notices = self.record([{"kind": "undo", "undoes": number} for number in numbers])
            return " ".join([f"{verb}: {format_count(len(numbers), 'decision')} ({kinds}).", *notices])

    def mark_seen(self, person: str | None = None) -> int:
        """Marks the faces that joined `person` since the last visit as seen.

        If `person` is None, marks the faces that joined any person. Returns the number of marked faces.
        """
        with self.lock:
            self.check_writable()
            view = self.read()
            owner = view.people.identity_of
            faces = {face: owner[face] for face in view.joined if face in owner and person in (None, owner[face])}
            self._visit.mark_seen(faces)
            self._save_visit()
            view.mark_joined(view.joined - faces.keys())
            self.revision += 1
            return len(faces)

    def _save_visit(self) -> None:
        """Saves which faces the user has seen.

        Saves nothing while another command writes, because the other command may be a purge.
        """
        if not self._busy:
            self._visit.save()

    def check_writable(self) -> None:
        """Raises an error if nothing can be recorded at present."""
        if self.read_only:
            raise BadInput(self.read_only)
        if self._pass is not None:
            raise Applying("The decisions are being applied. The act is recorded afterwards.")

    # applying

    def apply(self) -> None:
        """Starts a thread that applies the decisions that are not applied yet."""
        with self.lock:
            self.check_writable()
            self.read()
            if self._view.unapplied and not self._busy:
                self._pass = threading.Thread(target=self._run_pass, daemon=True)
                self._pass.start()

    def wait(self) -> None:
        """Waits until no decisions are being applied."""
        thread = self._pass
        if thread is not None:
            thread.join()

    def _run_pass(self) -> None:
        start = time.monotonic()
        try:
            apply_decisions_of(self.dataset)
            write_card(self.dataset)
            failure = ""
        except LikenessError as error:
            failure = f"The decisions are recorded, but not applied: {_describe_error(error, self._view)}"
        except Exception as error:  # the user must see every error of the thread
            failure = f"The decisions are recorded, but not applied: {type(error).__name__}: {error}"
        with self.lock:
            self._pass_seconds = time.monotonic() - start
            self._pass, self._failure, self._last_act = None, failure, time.monotonic()
            try:
                self.read()
            except LikenessError as error:
                self._failure = str(error)

    def _apply_when_idle(self) -> None:
        """Applies decisions after some time without an act.

        After a failure, decisions are applied only when the user asks for it.
        """
        while not self._ended.wait(1.0):
            idle = max(self._idle, _IDLE_FACTOR * self._pass_seconds)
            with self.lock:
                is_idle = self._view.unapplied and time.monotonic() - self._last_act >= idle
                if is_idle and self._pass is None and not (self.read_only or self._failure):
                    try:
                        self.apply()
                    except LikenessError as error:
                        self._failure = str(error)

    def close(self, say: Callable[[str], None], progress: Progress = lambda *_: None) -> None:
        """Ends the review, and applies the decisions that are not applied yet."""
        self._ended.set()
        try:
            self.wait()
            if self.read_only:
                return
            view = self.read()
            self._save_visit()
            if view.unapplied and not self._busy:
                say(f"Applying {format_count(view.unapplied, 'decision')}.")
                outcome = apply_decisions_of(self.dataset, progress=progress)
                write_card(self.dataset)
                say(f"The dataset has {format_count(outcome.people, 'person', 'people')}.")
            elif view.unapplied:
                say(f"{self._busy} {self._how_to_apply(view)}")
        except KeyboardInterrupt:
            say(self._how_to_apply(self._view))
        except LedgerMissing as error:
            say(str(error))
        except (LikenessError, OSError) as error:
            say(f"{error} {self._how_to_apply(self._view)}".rstrip())

    def _how_to_apply(self, view: View) -> str:
        if not view.unapplied:
            return ""
        verb = "is" if view.unapplied == 1 else "are"
        return (
            f"{format_count(view.unapplied, 'decision')} {verb} recorded and not applied yet. Run `likeness decide "
            f"{self.dataset} apply`."
        )


def _list_kinds(log: Sequence[Decision], numbers: Sequence[int]) -> list[str]:
    """Returns the sorted kinds of the decisions that an undo takes back or that a redo restores."""
    by_number = {one.number: one for one in log}
    return sorted({one.kind for one in resolve_undos((by_number[number] for number in numbers), log)})


def _describe_error(error: LikenessError, view: View) -> str:
    """Returns the sentence of an error. The sentence about a contradiction describes the decisions in words."""
    if not isinstance(error, Contradiction):
        return str(error)
    causes = [name_in_words(one, view.people) for one in error.joining] + [f"the label {one}" for one in error.labels]
    return (
        f"{' and '.join(causes)} {'says' if len(causes) == 1 else 'say'} that two faces show one person, but "
        f"{name_in_words(error.separating, view.people)} says that they show two people."
    )
