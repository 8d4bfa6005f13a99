"""The errors of `curate.faces`, which imports no other package and so cannot derive errors from LikenessError.

The command line prints such an error like a LikenessError, and exits with the exit code of the class.
"""

from __future__ import annotations


class FaceModelError(Exception):
    """A face model is missing, broken or unsuitable. The text is one sentence that says what to do."""

    exit_code = 1


class NoSuchModels(FaceModelError):
    """The spec does not name any face models."""

    exit_code = 2
