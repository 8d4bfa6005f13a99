"""Loads the face models of `--faces SPEC`: auto, dlib, or insightface:<pack name or folder>."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from curate.faces.errors import FaceModelError, NoSuchModels
from curate.faces.interface import FaceModels
from curate.faces.models.dlib_models import load_dlib
from curate.faces.models.insightface_models import list_packs, load_insightface
from curate.faces.networks.devices import Device, choose_device


def load_faces(spec: str = "auto", threads: int = 1, device: str = "cpu") -> FaceModels:
    """Returns the models of a spec. The spec is `auto`, `dlib` or `insightface:<pack name or folder>`.

    `auto` uses a pack in ~/.insightface/models. If ~/.insightface/models has no pack, insightface downloads buffalo_l.
    If the download fails, dlib's models are used, with a notice. `threads` is the number of threads of onnxruntime. In
    our tests with 1 to 8 threads, the number of threads did not change a result. Another processor may change the last
    bits of a result, because onnxruntime chooses its code by the processor's vector instructions. `device` is `auto` or
    the name of a device (curate/faces/networks/devices.py). dlib's models always run on the CPU. Raises NoSuchModels if
    the spec names no models. Raises NoSuchDevice if the device is unknown or not installed. Raises FaceModelError if
    the models cannot be loaded.
    """
    chosen = choose_device(device)
    if spec == "dlib":
        notice = f"dlib's models run on the CPU, so --device {device} has no effect."
        return load_dlib() if device in ("auto", "cpu") else replace(load_dlib(), notices=(notice,))
    if spec.startswith("insightface:") and spec != "insightface:":
        return load_insightface(spec.removeprefix("insightface:"), threads, chosen)
    if spec == "auto":
        return _load_auto(threads, chosen)
    raise NoSuchModels(f"'{spec}' names no face models. Give auto, dlib, or insightface:<pack name or folder>.")


@cache  # the models stay in memory, so that a process does not load them for every batch
def _load(spec: str, device: str) -> FaceModels:
    return load_faces(spec, device=device)


def load_faces_once(spec: str = "auto", device: str = "cpu") -> FaceModels:
    """Returns the models of `load_faces`. A second call with the same spec and device returns the same models."""
    return _load(spec, device)


def _load_auto(threads: int, device: Device) -> FaceModels:
    if packs := list_packs():
        return load_insightface(packs[0], threads, device)
    try:
        return load_insightface("buffalo_l", threads, device)
    except FaceModelError as error:
        notice = f"No InsightFace pack can be loaded, so the weaker models of dlib are used. {error}"
        return replace(load_dlib(), notices=(notice,))
