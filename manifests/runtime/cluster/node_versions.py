"""Compares the versions of Likeness, Python and the libraries on a node with the versions on the driver's machine.

With other versions, a node could return other rows or other bytes. Such a node is therefore refused.
"""

from __future__ import annotations

from collections.abc import Callable

from manifests.runtime.versions import TOOLS

SOURCES = "sources of Likeness"
NOT_INSTALLED = "none"
_MODELS = ("diffusers", "peft", "transformers")  # libraries that can change the result of a restorer


def find_versions() -> dict[str, str]:
    """Returns the versions on this machine. `make_finder` explains the result."""
    return make_finder()()


def make_finder() -> Callable[[], dict[str, str]]:
    """Returns a function that returns a dict with the versions on the machine on which it is called.

    The keys of the dict are Likeness, Python, the libraries whose version can change a result, and SOURCES. The value
    of SOURCES is a hash of all files of code, because two copies of Likeness can have the same version and different
    code. The function is an inner function and imports no module of Likeness, so Ray can send its code to any node.
    """
    names, sources, absent = (*TOOLS, *_MODELS), SOURCES, NOT_INSTALLED
    found: dict[str, str] = {}  # the result of the first call in a process; empty when Ray sends the code to a node

    def find() -> dict[str, str]:
        if found:
            return found
        import hashlib
        import platform
        from importlib.metadata import PackageNotFoundError, version
        from importlib.util import find_spec
        from pathlib import Path

        def look_up(package: str) -> str:
            try:
                return version(package)
            except PackageNotFoundError:
                return absent

        spec, code = find_spec("likeness"), hashlib.sha256()
        folder = Path(spec.origin).parent if spec is not None and spec.origin else Path("missing")
        for part in ("curate", "degrade", "manifests", "train"):
            for path in sorted((folder / part).rglob("*.py")):
                code.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
        found.update({"Likeness": look_up("likeness"), "Python": platform.python_version()})
        found.update({name: look_up(name) for name in names})
        found[sources] = code.hexdigest()[:12]
        return found

    return find


def describe_difference(node: str, there: dict[str, str], here: dict[str, str]) -> str:
    """Returns a sentence about the first difference between the versions on a node and on this machine."""
    name = next(name for name in here if there.get(name) != here[name])
    if name == SOURCES:
        return (
            f"The code of Likeness {here['Likeness']} on the node {node} ({there.get(name)}) differs from the code of "
            f"this command ({here[name]}). Install the same files on all nodes of the cluster."
        )
    found, own = (
        f"no {name}" if versions.get(name, NOT_INSTALLED) == NOT_INSTALLED else f"{name} {versions[name]}"
        for versions in (there, here)
    )
    return (
        f"The node {node} has {found}, and this command runs with {own}. Install the same versions on all nodes of the "
        "cluster."
    )
