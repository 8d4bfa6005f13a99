"""Tests the networks of the face models on devices. All devices of the tests use onnxruntime's CPU provider."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from curate.faces.errors import NoSuchDevice, is_out_of_memory
from curate.faces.networks.devices import CPU, DEVICES, Device, choose_device, list_devices
from curate.faces.networks.network import Network

# A device with batches and I/O binding. Its provider and its memory are those of the CPU.
GPU = Device("cuda", "CPUExecutionProvider", "onnxruntime-gpu", photos=4, faces=8, memory="cpu")


def make_model(flat: bool = True, batch: int = 1) -> onnx.ModelProto:
    """Returns a network with one output. As in SCRFD's files, the declared batch is 1.

    If `flat`, the axis of pictures is moved and joined as in SCRFD's files. Otherwise a layer contains the batch size
    1.
    """
    weights = np.random.default_rng(0).normal(size=(2, 3, 3, 3)).astype(np.float32)
    shape = np.array([-1, 2] if flat else [1, -1, 2], np.int64)
    nodes = [
        helper.make_node("Conv", ["in", "weights"], ["maps"], pads=[1, 1, 1, 1]),
        helper.make_node("Transpose", ["maps"], ["last"], perm=[2, 3, 0, 1] if flat else [0, 2, 3, 1]),
        helper.make_node("Reshape", ["last", "shape"], ["out"]),
    ]
    graph = helper.make_graph(
        nodes,
        "double",
        [helper.make_tensor_value_info("in", TensorProto.FLOAT, [batch, 3, "h", "w"])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [64, 2] if flat else [1, 64, 2])],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(shape, "shape")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def make_pictures(n: int) -> np.ndarray:
    return np.random.default_rng(1).uniform(-1, 1, (n, 3, 8, 8)).astype(np.float32)


class Watched:
    """A session that records the number of pictures of each run, and raises an error for some runs."""

    def __init__(self, session, error=None) -> None:
        self.session, self.error, self.plain, self.bound = session, error, [], []

    def __getattr__(self, name):
        return getattr(self.session, name)

    def _fail(self, pictures: int) -> None:
        if self.error is not None and (error := self.error(pictures)) is not None:
            raise RuntimeError(error)

    def run(self, names, feed):
        self.plain.append(len(feed["in"]))
        self._fail(len(feed["in"]))
        return self.session.run(names, feed)

    def run_with_iobinding(self, binding):
        self.session.run_with_iobinding(binding)
        self.bound.append(len(binding.copy_outputs_to_cpu()[0]) // 64)
        self._fail(self.bound[-1])


def watch(network: Network, error=None) -> Watched:
    network._session = Watched(network._session, error)
    return network._session


def run(network: Network, pictures: np.ndarray) -> np.ndarray:
    (output,) = network.run(None, {"in": pictures})
    return output.reshape(len(pictures), -1, 2)


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    return run(Network("detector", make_model(), CPU, 1), make_pictures(10))


def test_the_cpu_computes_one_picture_at_a_time(expected):
    network = Network("detector", make_model(), CPU, 1)
    seen = watch(network)
    assert np.array_equal(run(network, make_pictures(10)), expected)
    assert seen.plain == [1] * 10 and seen.bound == []


def test_a_device_with_its_own_memory_computes_batches_with_io_binding(expected):
    network = Network("detector", make_model(), GPU, GPU.photos)
    seen = watch(network)
    assert np.allclose(run(network, make_pictures(10)), expected, atol=1e-6)
    assert seen.bound == [4, 4, 2] and seen.plain == [] and network.notices == []


def test_a_device_without_its_own_memory_computes_batches_without_binding(expected):
    network = Network("detector", make_model(), replace(GPU, memory=None), 4)
    seen = watch(network)
    assert np.allclose(run(network, make_pictures(10)), expected, atol=1e-6)
    assert seen.plain == [4, 4, 2] and seen.bound == []


def test_a_network_with_a_fixed_batch_in_its_layers_gets_one_picture_at_a_time(expected):
    network = Network("detector", make_model(flat=False), GPU, 4)
    assert network.batch == 1 and network.device is GPU
    assert np.allclose(run(network, make_pictures(3)), expected[:3], atol=1e-6)


def test_a_device_with_little_memory_halves_its_batch_and_says_so(expected):
    network = Network("detector", make_model(), GPU, 4)
    seen = watch(network, lambda n: "CUDA failure 2: out of memory" if n > 1 else None)
    assert np.allclose(run(network, make_pictures(3)), expected[:3], atol=1e-6)
    assert seen.bound == [3, 1, 1, 1] and network.batch == 1 and network.device is GPU
    (notice,) = network.notices
    assert "too little memory for 3 pictures" in notice and "cuda" in notice and "\n" not in notice


@pytest.mark.parametrize("text", ["CUDA failure 2: out of memory", "CUDA failure 999: unknown error\nat line 5"])
def test_a_device_that_fails_is_replaced_by_the_cpu_with_one_sentence(expected, text):
    network = Network("recognizer", make_model(), GPU, 1)
    watch(network, lambda _: text)
    assert np.array_equal(run(network, make_pictures(3)), expected[:3])
    assert network.device is CPU
    (notice,) = network.notices
    assert text.splitlines()[0] in notice and "recognizer runs on the CPU" in notice and "\n" not in notice


def test_all_outputs_of_a_call_come_from_one_device(monkeypatch, expected):
    network = Network("recognizer", make_model(), GPU, 4)
    seen = watch(network, lambda n: "CUDA failure 999: unknown error" if n == 2 else None)
    start, on_cpu = Network._start, list[Watched]()

    def start_watched(self: Network) -> Watched:
        on_cpu.append(Watched(start(self)))
        return on_cpu[-1]

    monkeypatch.setattr(Network, "_start", start_watched)
    assert np.array_equal(run(network, make_pictures(10)), expected)
    assert seen.bound == [4, 4, 2] and [session.plain for session in on_cpu] == [[1] * 10]


def test_an_error_on_the_cpu_is_raised():
    network = Network("detector", make_model(), CPU, 1)
    watch(network, lambda _: "broken")
    with pytest.raises(RuntimeError, match="broken"):
        run(network, make_pictures(1))


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_does_not_start_is_replaced_by_the_cpu_with_one_sentence(expected):
    # onnxruntime itself would start this session on the CPU without an error.
    device = replace(GPU, provider="CUDAExecutionProvider", memory="cuda")
    network = Network("detector", make_model(), device, 4)
    assert network.device is CPU and network.batch == 1
    assert np.array_equal(run(network, make_pictures(2)), expected[:2])
    (notice,) = network.notices
    assert notice.startswith("The device cuda could not be started") and notice.endswith("runs on the CPU.")


def test_the_error_of_a_provider_is_in_the_sentence(monkeypatch, expected):
    real = onnxruntime.InferenceSession

    def start(model, options, providers, **settings):
        if providers[0][0] != "CPUExecutionProvider":
            raise RuntimeError("libcublasLt.so.12: cannot open shared object file\nmore")
        return real(model, options, providers=providers, **settings)

    monkeypatch.setattr(onnxruntime, "InferenceSession", start)
    network = Network("detector", make_model(), DEVICES["cuda"], 4)
    assert "(libcublasLt.so.12: cannot open shared object file)" in network.notices[0]
    assert np.array_equal(run(network, make_pictures(1)), expected[:1])


def test_auto_takes_a_gpu_whose_package_is_installed(monkeypatch):
    assert choose_device("auto") is CPU and choose_device("cpu") is CPU
    providers = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    assert choose_device("auto") is DEVICES["cuda"] and choose_device("tensorrt") is DEVICES["tensorrt"]
    assert list_devices() == ["cpu", "cuda", "tensorrt"]
    # The results of Core ML and OpenVINO may have other bits, so `auto` never takes them.
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CoreMLExecutionProvider"])
    assert choose_device("auto") is CPU and choose_device("coreml") is DEVICES["coreml"]


def test_without_onnxruntime_only_the_cpu_is_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert list_devices() == ["cpu"] and choose_device("auto") is CPU


@pytest.mark.parametrize(("name", "advice"), [("cuda", "onnxruntime-gpu"), ("tpu", "Give auto, cpu, cuda")])
def test_a_device_that_is_unknown_or_not_installed_is_refused_with_one_sentence(name, advice):
    with pytest.raises(NoSuchDevice, match=advice) as refused:
        choose_device(name)
    assert refused.value.exit_code == 2 and "\n" not in str(refused.value)


def test_the_options_ask_for_32_bits_and_only_the_cpu_computes_one_picture_at_a_time():
    assert DEVICES["cuda"].options["use_tf32"] == "0" and DEVICES["tensorrt"].options["trt_fp16_enable"] == "0"
    assert "NeuralEngine" not in DEVICES["coreml"].options["MLComputeUnits"]
    assert [device.name for device in DEVICES.values() if device.photos == 1] == ["cpu"]


def test_memory_errors_of_all_providers_are_recognized():
    for text in ("Failed to allocate memory for requested buffer of size 5", "CUBLAS_STATUS_ALLOC_FAILED"):
        assert is_out_of_memory(RuntimeError(text))
    assert not is_out_of_memory(RuntimeError("CUDA failure 700: an illegal memory access"))
