"""Every error a user can meet, drawn as a tree.

    LikenessError                 one sentence that says what to do next; the command line prints it, never a traceback
    ├── BadInput                  what was offered cannot be used: a path, an option, a photo, a θ      (exit code 2)
    ├── ModelUnavailable          a model file is missing or does not fit                               (exit code 1)
    ├── FolderBusy                another process is writing into this folder                           (exit code 1)
    └── LedgerError               the ledger itself                                                     (exit code 1)
        ├── LedgerMissing         there is no manifest.duckdb in this folder
        ├── LedgerLocked          another process holds the ledger
        ├── LedgerTooNew          written by a newer Likeness
        └── LedgerBroken          a check failed: a row without its file, a leak between splits

`curate.faces` imports nothing of ours and has a root of its own, `curate.faces.errors.FaceModelError`.
"""

from __future__ import annotations


class LikenessError(Exception):
    """Root of the tree; its text is one sentence for the user."""

    exit_code = 1


class BadInput(LikenessError):
    """What was offered cannot be used."""

    exit_code = 2


class ModelUnavailable(LikenessError):
    """A model file is missing or does not fit."""


class FolderBusy(LikenessError):
    """Another process is writing into this folder."""


class LedgerError(LikenessError):
    """The ledger cannot be used."""


class LedgerMissing(LedgerError):
    """There is no ledger where one was expected."""

    exit_code = 2


class LedgerLocked(LedgerError):
    """Another process holds the ledger."""


class LedgerTooNew(LedgerError):
    """The ledger was written by a newer Likeness."""


class LedgerBroken(LedgerError):
    """The ledger contradicts itself or the files beside it."""
