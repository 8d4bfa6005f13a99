"""The one error of `curate.faces`, which imports nothing of ours; the command line shows it like a LikenessError."""

from __future__ import annotations


class FaceModelError(Exception):
    """A face model is missing, broken or does not fit; the text is one sentence that says what to do."""

    exit_code = 1
