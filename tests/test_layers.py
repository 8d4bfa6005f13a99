"""The layers of the house, held by import-linter, and a wheel that holds what it needs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import REPOSITORY


def test_import_linter_keeps_every_contract() -> None:
    code = "from importlinter.cli import lint_imports; import sys; sys.exit(lint_imports(no_cache=True))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert found.returncode == 0, found.stdout


# import name -> distribution, where the two differ
DISTRIBUTIONS = {"PIL": "pillow", "cv2": "opencv-python", "dlib": "dlib-bin", "faiss": "faiss-cpu"}
# needed without an import of ours: face_recognition_models is found by path, tensorboard writes torch's events, the
# headless wheel is albumentations' and must be of the release of opencv-python, setuptools is for pyiqa's clip
NEVER_IMPORTED = {"face_recognition_models", "opencv-python-headless", "setuptools", "tensorboard"}


def imported() -> Iterator[str]:
    """The first part of every import in the package's own code."""
    ours = ("curate", "degrade", "train", "manifests", "doctor")
    files = [
        REPOSITORY / "likeness.py",
        REPOSITORY / "doctor.py",
        *(path for name in ours for path in (REPOSITORY / name).rglob("*.py")),
    ]
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            yield from {name.split(".")[0] for name in names} - {*ours, *sys.stdlib_module_names}


def test_what_is_imported_is_declared_and_what_is_declared_is_imported() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = (project["optional-dependencies"][name] for name in ("offline", "albumentations", "iqa", "reference"))
    lines = [*project["dependencies"], *(line for extra in extras for line in extra)]
    declared = {re.split(r"[<>=\[]", line)[0] for line in lines}
    assert {DISTRIBUTIONS.get(name, name) for name in imported()} == declared - NEVER_IMPORTED


def test_constraints_pin_every_declared_dependency() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    lines = [line for extra in project["optional-dependencies"].values() for line in extra]
    wanted = {re.split(r"[<>=\[]", line)[0].lower() for line in [*project["dependencies"], *lines]}
    pinned = re.findall(r"^([\w.-]+)==", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE)
    assert wanted <= {name.lower() for name in pinned}


def test_both_wheels_of_opencv_are_of_one_release() -> None:
    pins = dict(line.split("==") for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if "==" in line)
    assert pins["opencv-python"] == pins["opencv-python-headless"]


@pytest.mark.slow
def test_a_built_wheel_holds_the_schema_the_template_and_nothing_stray(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "-w", str(tmp_path), str(REPOSITORY)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("likeness-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "manifests/schema.sql" in names and "manifests/report/template.html.j2" in names and "likeness.py" in names
    assert "doctor.py" in names
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.startswith("likeness")} == {
        "curate",
        "degrade",
        "doctor.py",
        "manifests",
        "train",
    }
