"""How `--faces` finds the face models."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from curate.faces.dlib_models import load_dlib
from curate.faces.errors import FaceModelError, NoSuchModels
from curate.faces.insightface_models import list_packs, load_insightface
from curate.faces.interface import FaceModels


def load_faces(spec: str = "auto", threads: int = 1) -> FaceModels:
    """The models behind `auto`, `insightface:<pack name or folder>` or `dlib`.

    `auto`: a pack under ~/.insightface/models, else insightface's own download of buffalo_l, else dlib with a notice.
    `threads` is onnxruntime's; 1 keeps results the same on every machine size. Raises FaceModelError,
    NoSuchModels for a spec that names nothing.
    """
    if spec == "dlib":
        return load_dlib()
    if spec.startswith("insightface:") and spec != "insightface:":
        return load_insightface(spec.removeprefix("insightface:"), threads)
    if spec == "auto":
        return _auto(threads)
    raise NoSuchModels(f"'{spec}' names no face models: say auto, dlib, or insightface:<pack name or folder>.")


# a process keeps its models between batches
load_faces_once = cache(load_faces)


def _auto(threads: int) -> FaceModels:
    found = list_packs()
    if found:
        return load_insightface(found[0], threads)
    try:
        return load_insightface("buffalo_l", threads)
    except FaceModelError as missing:
        notice = f"No InsightFace pack could be had ({missing}) Using dlib's models, which are weaker."
        return replace(load_dlib(), notices=(notice,))
