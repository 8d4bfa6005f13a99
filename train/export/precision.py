"""Stores the weights of an ONNX file with fewer bits. ONNX Runtime still computes in float32."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FULL = "fp32"
# fp16 halves the files, and int8 divides their size by almost four. int8 stores one scale for each output channel.
PRECISIONS = (FULL, "fp16", "int8")
SMALLEST = 1024  # A tensor with fewer numbers than this (ours) stays float32.
# Maps an operator to the axis of the output channels in its weight. The weight is the second input of the operator.
# With int8, the weights of other operators stay float32.
_CHANNELS = {"Conv": 0, "MatMul": -1, "Gemm": 0}


def store_weights(graph: onnx.GraphProto, precision: str) -> None:
    """Stores the large float32 weights of a graph in the precision `precision`, in place."""
    if precision == FULL:
        return
    readers = {node.input[1]: node for node in graph.node if node.op_type in _CHANNELS and len(node.input) > 1}
    stored, nodes = list[TensorProto](), list[onnx.NodeProto]()
    for tensor in graph.initializer:
        weight = numpy_helper.to_array(tensor)
        if weight.dtype != np.float32 or weight.size < SMALLEST or weight.ndim < 2:
            stored.append(tensor)
        elif precision == "fp16":
            stored.append(numpy_helper.from_array(weight.astype(np.float16), f"{tensor.name}.fp16"))
            nodes.append(helper.make_node("Cast", [stored[-1].name], [tensor.name], to=TensorProto.FLOAT))
        elif tensor.name in readers:
            axis = _CHANNELS[readers[tensor.name].op_type] % weight.ndim
            others = tuple(number for number in range(weight.ndim) if number != axis)
            scale = np.maximum(np.abs(weight).max(others) / 127, np.finfo(np.float32).tiny).astype(np.float32)
            shape = tuple(-1 if number == axis else 1 for number in range(weight.ndim))
            levels = np.rint(weight / scale.reshape(shape)).astype(np.int8)
            names = [f"{tensor.name}.int8", f"{tensor.name}.scale"]
            stored += [numpy_helper.from_array(one, name) for one, name in zip((levels, scale), names, strict=True)]
            nodes.append(helper.make_node("DequantizeLinear", names, [tensor.name], axis=axis))
        else:
            stored.append(tensor)
    del graph.initializer[:]
    graph.initializer.extend(stored)
    nodes += list(graph.node)
    del graph.node[:]
    graph.node.extend(nodes)
