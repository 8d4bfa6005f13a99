"""The errors of `curate.faces`, which imports nothing of ours; the command line shows them like a LikenessError."""

from __future__ import annotations


class FaceModelError(Exception):
    """A face model is missing, broken or does not fit; the text is one sentence that says what to do."""

    exit_code = 1


class NoSuchModels(FaceModelError):
    """The spec names no face models."""

    exit_code = 2
