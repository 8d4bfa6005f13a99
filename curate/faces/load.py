"""Load face models by the spec that `--faces` takes: auto, dlib, or insightface:<pack name or folder>."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from curate.faces.dlib_models import load_dlib
from curate.faces.errors import FaceModelError, NoSuchModels
from curate.faces.insightface_models import list_packs, load_insightface
from curate.faces.interface import FaceModels


def load_faces(spec: str = "auto", threads: int = 1) -> FaceModels:
    """Returns the models that `spec` names: `auto`, `dlib` or `insightface:<pack name or folder>`.

    `auto` takes a pack under ~/.insightface/models. If there is none, insightface downloads buffalo_l. If that fails,
    dlib's models are used, with a notice. `threads` is the number of threads of onnxruntime; with 1, results are the
    same on every machine. Raises NoSuchModels if the spec names no models, FaceModelError if they cannot be loaded.
    """
    if spec == "dlib":
        return load_dlib()
    if spec.startswith("insightface:") and spec != "insightface:":
        return load_insightface(spec.removeprefix("insightface:"), threads)
    if spec == "auto":
        return _load_auto(threads)
    raise NoSuchModels(f"'{spec}' names no face models: say auto, dlib, or insightface:<pack name or folder>.")


load_faces_once = cache(load_faces)  # the models stay in memory, so that a process does not load them for every batch


def _load_auto(threads: int) -> FaceModels:
    if packs := list_packs():
        return load_insightface(packs[0], threads)
    try:
        return load_insightface("buffalo_l", threads)
    except FaceModelError as error:
        notice = f"dlib's models are used, which are weaker, because no InsightFace pack can be loaded: {error}"
        return replace(load_dlib(), notices=(notice,))
