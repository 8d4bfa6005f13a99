"""Runs one ONNX network in batches on a device. If the device fails, the network continues on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from curate.faces.errors import is_out_of_memory
from curate.faces.networks.devices import CPU, Device


class Network:
    """An ONNX network on a device.

    `get_inputs` and `get_outputs` are the methods of onnxruntime's InferenceSession. The results of the network do not
    depend on the batch, except for rounding.
    """

    def __init__(self, role: str, model: Any, device: Device, batch: int, threads: int = 1) -> None:
        """Starts the network `model`, an onnx.ModelProto, on `device`.

        `role` names the network in messages. At most `batch` pictures are computed at once. If the device does not
        start, the network runs on the CPU.
        """
        self.role, self.device, self.batch, self.threads = role, device, batch, threads
        self.notices: list[str] = []  # Sentences for the user about failures of the device.
        if batch > 1:
            _free_batch(model)
        self._model = model.SerializeToString()
        if device.provider == CPU.provider:
            self._session = self._start()
        else:
            try:
                self._session = self._start()
            except Exception as error:  # providers raise many kinds of errors
                self._continue_on_cpu(f"could not be started ({first_line(error)})")
        if self.batch > 1 and not self._keeps_pictures_apart():
            self.batch = 1

    def get_inputs(self) -> Any:
        """Returns the inputs of the network, with names and shapes."""
        return self._session.get_inputs()

    def get_outputs(self) -> Any:
        """Returns the outputs of the network, with names and shapes."""
        return self._session.get_outputs()

    def run(self, names: None, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Returns the outputs for the pictures in `feed`, float32 (n, 3, H, W).

        The outputs of several batches are joined along the first axis. If the device runs out of memory, the batch is
        halved. If the device fails in another way or cannot compute a single picture, the network continues on the CPU.
        The CPU then computes all pictures of the call, so that all outputs come from one device. On the CPU, the error
        is raised.
        """
        ((name, pictures),) = feed.items()
        parts: list[list[np.ndarray]] = []
        at = 0
        while at < len(pictures):
            part = pictures[at : at + self.batch]
            try:
                parts.append(self._run_part(name, part))
            except Exception as error:  # providers raise many kinds of errors
                if self.device is CPU:
                    raise
                self._recover(error, len(part))
                if self.device is CPU:
                    parts, at = [], 0
                continue
            at += len(part)
        return parts[0] if len(parts) == 1 else [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]

    def _run_part(self, name: str, pictures: np.ndarray) -> list[np.ndarray]:
        if self.device.memory is None:
            return list(self._session.run(None, {name: pictures}))
        import onnxruntime

        # I/O binding: one copy of the input to the device, and one copy of all outputs back.
        binding = self._session.io_binding()
        value = onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(pictures), self.device.memory, 0)
        binding.bind_ortvalue_input(name, value)
        for output in self._session.get_outputs():
            binding.bind_output(output.name, self.device.memory)
        self._session.run_with_iobinding(binding)
        return list(binding.copy_outputs_to_cpu())

    def _recover(self, error: Exception, pictures: int) -> None:
        """Halves the batch after the device ran out of memory. After another error, starts the network on the CPU."""
        if pictures > 1 and is_out_of_memory(error):
            self.batch = pictures // 2
            self.notices.append(
                f"The device {self.device.name} has too little memory for {pictures} pictures at once, so the "
                f"{self.role} continued with {self.batch}."
            )
            return
        self._continue_on_cpu(f"failed ({first_line(error)})")

    def _continue_on_cpu(self, what: str) -> None:
        self.notices.append(f"The device {self.device.name} {what}, so the {self.role} runs on the CPU.")
        self.device, self.batch = CPU, 1
        self._session = self._start()

    def _start(self) -> Any:
        """Returns a session on the device. Raises an error if the provider of the device does not start."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = self.threads
        options.log_severity_level = 3  # hides the warning about photos whose size differs from the input size
        options.enable_mem_pattern = self.device.has_memory_pattern
        providers = [(self.device.provider, dict(self.device.options))]
        if self.device.provider != CPU.provider:
            options.log_severity_level = 4  # The notice already contains the error that onnxruntime would print.
            providers.append((CPU.provider, {}))  # The CPU runs the layers that the device does not support.
        # Without enable_fallback=0, onnxruntime itself would continue on the CPU and print several lines.
        session = onnxruntime.InferenceSession(self._model, options, providers=providers, enable_fallback=0)
        if (started := session.get_providers()[0]) != self.device.provider:
            raise RuntimeError(f"onnxruntime started {started} in place of {self.device.provider}")
        return session

    def _keeps_pictures_apart(self) -> bool:
        """Returns whether a run with two pictures gives the results of two runs.

        Some networks contain the fixed batch of 1 in their layers, and cannot compute two pictures at once.
        """
        source = self._session.get_inputs()[0]
        sides = [side if isinstance(side, int) and side > 0 else 64 for side in source.shape[2:4]]
        pictures = np.random.default_rng(0).uniform(-1, 1, (2, 3, *sides)).astype(np.float32)
        try:
            both = self._session.run(None, {source.name: pictures})
            alone = [self._session.run(None, {source.name: pictures[i : i + 1]}) for i in range(2)]
        except Exception:  # a network with a fixed batch raises an error of onnxruntime
            return False
        joined = [np.concatenate(outputs) for outputs in zip(*alone, strict=True)]
        return all(a.shape == b.shape and np.allclose(a, b, atol=1e-3) for a, b in zip(both, joined, strict=True))


def _free_batch(model: Any) -> None:
    """Lets the network accept any number of pictures.

    In SCRFD's files, the network first moves the axis of the pictures behind the rows and columns, (H, W, n, C), and
    then joins all axes except the last. The changed network keeps the axis of the pictures first, so that the results
    of each picture stay together. For a single picture, both orders are equal. The shapes that the file declares for
    inner tensors and outputs are removed.
    """
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Transpose" and list(attribute.ints) == [2, 3, 0, 1]:
                attribute.ints[:] = [0, 2, 3, 1]
    weights = {weight.name for weight in model.graph.initializer}
    source = next(value for value in model.graph.input if value.name not in weights)
    source.type.tensor_type.shape.dim[0].dim_param = "pictures"
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]


def first_line(error: Exception) -> str:
    """Returns the first line of an error's text, or the name of its class."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
