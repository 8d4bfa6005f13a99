"""Versions of what is installed, read without importing it."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version

# whose versions can change a result
_TOOLS = ("duckdb", "faiss-cpu", "insightface", "numpy", "onnxruntime", "opencv-python", "pillow", "torch", "dlib-bin")


@cache  # reading a package's metadata costs a millisecond, and every record of a stage wants ten
def find_version(name: str) -> str | None:
    """The version of a package; None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def code_version() -> str:
    """Likeness's own version; `source` where it runs without being installed."""
    return find_version("likeness") or "source"


def tool_versions() -> dict[str, str]:
    """Package -> version of all that can change a result."""
    return {tool: found for tool in _TOOLS if (found := find_version(tool))}
