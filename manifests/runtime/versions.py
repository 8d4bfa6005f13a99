"""Reads the versions of the installed packages without importing the packages."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version

# packages whose version can change a result
TOOLS = ("duckdb", "faiss-cpu", "insightface", "numpy", "onnxruntime", "opencv-python", "pillow", "torch", "dlib-bin",
          "faiss-gpu", "faiss-gpu-cu12", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino")  # fmt: skip


@cache  # reading a version takes a millisecond, and each record of a stage needs the versions of all packages
def find_version(name: str) -> str | None:
    """Returns the version of a package, or None if the package is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def code_version() -> str:
    """Returns the version of Likeness, or `source` if Likeness is not installed."""
    return find_version("likeness") or "source"


def tool_versions() -> dict[str, str]:
    """Returns a dict that maps each installed package of TOOLS to its version."""
    return {tool: version_ for tool in TOOLS if (version_ := find_version(tool))}
