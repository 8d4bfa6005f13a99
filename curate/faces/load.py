"""Loads the face models of `--faces SPEC`: auto, dlib, or insightface:<pack name or folder>."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from curate.faces.dlib_models import load_dlib
from curate.faces.errors import FaceModelError, NoSuchModels
from curate.faces.insightface_models import list_packs, load_insightface
from curate.faces.interface import FaceModels


def load_faces(spec: str = "auto", threads: int = 1) -> FaceModels:
    """Returns the models of a spec. The spec is `auto`, `dlib` or `insightface:<pack name or folder>`.

    `auto` uses a pack in ~/.insightface/models. If ~/.insightface/models has no pack, insightface downloads buffalo_l.
    If the download fails, dlib's models are used, with a notice. `threads` is the number of threads of onnxruntime. In
    our tests with 1 to 8 threads, the number of threads did not change a result. Another processor may change the last
    bits, because onnxruntime chooses its code by the processor's vector instructions. Raises NoSuchModels if the spec
    names no models. Raises FaceModelError if the models cannot be loaded.
    """
    if spec == "dlib":
        return load_dlib()
    if spec.startswith("insightface:") and spec != "insightface:":
        return load_insightface(spec.removeprefix("insightface:"), threads)
    if spec == "auto":
        return _load_auto(threads)
    raise NoSuchModels(f"'{spec}' names no face models. Give auto, dlib, or insightface:<pack name or folder>.")


load_faces_once = cache(load_faces)  # the models stay in memory, so that a process does not load them for every batch


def _load_auto(threads: int) -> FaceModels:
    if packs := list_packs():
        return load_insightface(packs[0], threads)
    try:
        return load_insightface("buffalo_l", threads)
    except FaceModelError as error:
        notice = f"No InsightFace pack can be loaded, so the weaker models of dlib are used. {error}"
        return replace(load_dlib(), notices=(notice,))
