"""The devices on which onnxruntime runs the face models, and the choice of a device by `--device`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from curate.faces.errors import NoSuchDevice


@dataclass(frozen=True)
class Device:
    """A device, and how the networks run on the device."""

    name: str  # The value of --device.
    provider: str  # The name of onnxruntime's execution provider.
    package: str  # The package that contains the provider.
    # The options of the provider. The options ask for 32 bits, so that the boxes and embeddings differ only by
    # rounding.
    options: Mapping[str, str] = field(default_factory=dict)
    photos: int = 16  # Largest number (ours) of photos in one run of the detector.
    faces: int = 64  # Largest number (ours) of faces in one run of the recognizer.
    # onnxruntime's name of the memory to which I/O binding copies the inputs. If `memory` is None, onnxruntime copies
    # the inputs itself.
    memory: str | None = None
    has_memory_pattern: bool = True  # Whether the provider works with onnxruntime's memory patterns.


# On a CPU, a larger batch takes more time for each picture, because its activations do not fit into the cache
# (docs/speed.md).
CPU = Device("cpu", "CPUExecutionProvider", "onnxruntime", photos=1, faces=1)

# Without HEURISTIC, cuDNN tries all its algorithms for each new size of an input. Without use_tf32=0, convolutions
# round their inputs to 10 bits. The names and values of all options come from onnxruntime's documentation.
_CUDA = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"}

# onnxruntime has no option that keeps TensorRT from TF32, which rounds the inputs of convolutions to 10 bits. Only the
# environment variable NVIDIA_TF32_OVERRIDE=0 turns TF32 off (issue 26029 of onnxruntime).
_TENSORRT = {"trt_fp16_enable": "0"}

DEVICES = {
    device.name: device
    for device in (
        CPU,
        Device("cuda", "CUDAExecutionProvider", "onnxruntime-gpu", _CUDA, memory="cuda"),
        Device("tensorrt", "TensorrtExecutionProvider", "onnxruntime-gpu", _TENSORRT, memory="cuda"),
        Device("directml", "DmlExecutionProvider", "onnxruntime-directml", has_memory_pattern=False),
        # CPUAndGPU leaves out the Neural Engine, which computes with 16 bits.
        Device(
            "coreml",
            "CoreMLExecutionProvider",
            "onnxruntime for macOS",
            {"ModelFormat": "MLProgram", "MLComputeUnits": "CPUAndGPU"},
        ),
        # ACCURACY keeps the 32 bits of the model.
        Device(
            "openvino",
            "OpenVINOExecutionProvider",
            "onnxruntime-openvino",
            {"device_type": "AUTO:GPU,CPU", "precision": "ACCURACY"},
        ),
    )
}
# `auto` takes the first of these devices that is installed (ours). The other devices must be named: TensorRT compiles
# each network for minutes, and OpenVINO and Core ML may run a network on the processor.
_AUTO = ("cuda", "directml", "cpu")


def choose_device(name: str) -> Device:
    """Returns the device for a value of `--device`: `auto` or the name of a device.

    Raises NoSuchDevice if the name is unknown, or if the installed onnxruntime has no provider for the device.
    """
    if name == CPU.name:
        return CPU
    installed = list_devices()
    if name == "auto":
        return DEVICES[next(device for device in _AUTO if device in installed)]
    if name not in DEVICES:
        raise NoSuchDevice(f"--device {name} is unknown. Give auto, {', '.join(DEVICES)}.")
    if name not in installed:
        raise NoSuchDevice(
            f"--device {name} needs the package {DEVICES[name].package} in place of the installed onnxruntime, which "
            f"runs on {', '.join(installed)}. Install the package, or leave out --device."
        )
    return DEVICES[name]


def list_devices() -> Sequence[str]:
    """Returns the names of the devices for which the installed onnxruntime has a provider."""
    try:
        import onnxruntime
    except ImportError:  # dlib's models run without onnxruntime; `load_insightface` reports a missing onnxruntime
        return [CPU.name]
    providers = onnxruntime.get_available_providers()
    return [device.name for device in DEVICES.values() if device is CPU or device.provider in providers]
