"""Lets torch's exporter export stable sorts, which the prompt of OSDFace needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_SORT, _ARGSORT = "aten::sort", "aten::argsort"


@contextmanager
def stable_sort(opset: int) -> Iterator[None]:
    """Exports a stable ascending sort as TopK inside the context.

    TopK places the earlier of two equal values first.
    """
    torch.onnx.register_custom_op_symbolic(_SORT, _write_sort, opset)
    torch.onnx.register_custom_op_symbolic(_ARGSORT, _write_argsort, opset)
    try:
        yield
    finally:
        torch.onnx.unregister_custom_op_symbolic(_SORT, opset)
        torch.onnx.unregister_custom_op_symbolic(_ARGSORT, opset)


def _write_sort(graph: Any, values: Any, *_: Any) -> Any:
    """Writes a sort of the last dimension. train/models/prompts/vre.py sorts only this dimension."""
    last = graph.op("Constant", value_t=torch.tensor([-1]))
    count = graph.op("Gather", graph.op("Shape", values), last, axis_i=0)
    return graph.op("TopK", values, count, axis_i=-1, largest_i=0, outputs=2)


def _write_argsort(graph: Any, values: Any, *_: Any) -> Any:
    return _write_sort(graph, values)[1]
