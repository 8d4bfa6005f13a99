"""The errors of `curate.faces`. They do not derive from LikenessError, because `curate.faces` imports nothing of ours.

The command line prints them like a LikenessError: as one sentence, with the exit code of the class.
"""

from __future__ import annotations


class FaceModelError(Exception):
    """A face model is missing, broken or unsuitable. The text is one sentence that says what to do."""

    exit_code = 1


class NoSuchModels(FaceModelError):
    """The spec does not name any face models."""

    exit_code = 2
