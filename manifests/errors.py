"""The tree of all errors that a user can see.

    LikenessError                 one sentence with what to do next; the command line prints it without a traceback
    ├── BadInput                  a path, an option, a photo or another input cannot be used            (exit code 2)
    ├── ModelUnavailable          a model file is missing or cannot be used                             (exit code 1)
    ├── StoreFailed               an object store or a web server did not do what the command needs     (exit code 1)
    ├── FolderBusy                another process is writing into this folder                           (exit code 1)
    ├── ClusterLost               the Ray cluster stopped during the work                               (exit code 130)
    └── LedgerError               the ledger cannot be used                                             (exit code 1)
        ├── LedgerMissing         there is no manifest.duckdb in this folder                            (exit code 2)
        ├── LedgerLocked          another process is using the ledger
        ├── LedgerTooNew          a newer Likeness wrote the ledger
        └── LedgerBroken          rows and files contradict each other, or a person leaks between splits

The error `curate.faces.errors.FaceModelError` is not in this tree, because the package `curate.faces` does not import
other code of Likeness.
"""

from __future__ import annotations


class LikenessError(Exception):
    """The root of the tree of errors. The text of an error is one sentence for the user."""

    exit_code = 1


class BadInput(LikenessError):
    """A path, an option, a photo or another input cannot be used."""

    exit_code = 2


class ModelUnavailable(LikenessError):
    """A model file is missing or cannot be used."""


class FolderBusy(LikenessError):
    """Another process is writing into this folder."""


class StoreFailed(LikenessError):
    """An object store or a web server did not do what the command needs."""


class ClusterLost(LikenessError):
    """The Ray cluster stopped during the work. The same command resumes the work."""

    exit_code = 130  # as after Ctrl-C, because the work was interrupted


class LedgerError(LikenessError):
    """The ledger cannot be used."""


class LedgerMissing(LedgerError):
    """There is no ledger in this folder."""

    exit_code = 2


class LedgerLocked(LedgerError):
    """Another process is using the ledger."""


class LedgerTooNew(LedgerError):
    """A newer Likeness wrote the ledger."""


class LedgerBroken(LedgerError):
    """Rows and files contradict each other, or a person leaks between splits."""
