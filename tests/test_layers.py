"""Tests the layers with import-linter, and that the wheel contains all that it needs."""

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

from tests.places import REPOSITORY


def test_import_linter_keeps_every_contract() -> None:
    code = "from importlinter.cli import lint_imports; import sys; sys.exit(lint_imports())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert found.returncode == 0, found.stdout


# This table maps the name of an import to the name of its distribution, if the two names differ.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "cv2": "opencv-python",
    "dlib": "dlib-bin",
    "faiss": "faiss-cpu",
    "pi_heif": "pi-heif",
    "torch_fidelity": "torch-fidelity",
    "zlib_ng": "zlib-ng",
}
# Our code needs these packages, but does not import them. face_recognition_models is found by its path. tensorboard
# writes the events of torch. albumentations needs the headless OpenCV in the same version as opencv-python. pyiqa's
# clip needs setuptools. fsspec loads gcsfs and s3fs.
NEVER_IMPORTED = {"face_recognition_models", "gcsfs", "opencv-python-headless", "s3fs", "setuptools", "tensorboard"}


# the extras whose packages our code imports
EXTRAS = ["offline", "heic", "jxl", "raw", "lmdb", "review", "stores", "ray", "albumentations", "iqa", "reference"]

OURS = ("curate", "degrade", "train", "manifests")
FRONT = ("likeness.py", "doctor.py")


def our_files() -> list[Path]:
    own = (path for name in OURS for path in sorted((REPOSITORY / name).rglob("*.py")))
    return [*(REPOSITORY / name for name in FRONT), *own]


def imported() -> Iterator[str]:
    """Yields the first part of the name of every import in our packages."""
    for path in our_files():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            yield from {name.split(".")[0] for name in names} - {*OURS, "doctor", *sys.stdlib_module_names}


def test_what_is_imported_is_declared_and_what_is_declared_is_imported() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = (project["optional-dependencies"][name] for name in EXTRAS)
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
    assert (
        "manifests/ledger/tables_and_columns.sql" in names
        and "manifests/report/template.html.j2" in names
        and "likeness.py" in names
    )
    assert "doctor.py" in names
    web = REPOSITORY / "curate" / "review" / "web"
    pages = {
        str(file.relative_to(REPOSITORY)) for kind in ("*.j2", "*.js", "*.css", "*.svg") for file in web.rglob(kind)
    }
    assert len(pages) > 20 and pages <= set(names)
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.startswith("likeness")} == {
        "curate",
        "degrade",
        "doctor.py",
        "manifests",
        "train",
    }


def test_no_test_imports_another_test() -> None:
    """Tests that test files share code only through tests/doubles."""
    for path in sorted((REPOSITORY / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            assert not [name for name in names if name.split(".")[-1].startswith("test_")], f"{path} imports a test"


UNPICKLERS = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def unpickling(tree: ast.AST) -> Iterator[str]:
    """Yields the calls and imports in a module that could run code from a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            yield from (name for name in names if name.split(".")[0] in UNPICKLERS)
        if not isinstance(node, ast.Call):
            continue
        called, options = ast.unparse(node.func), {word.arg: word.value for word in node.keywords}
        allowed = options.get("allow_pickle")
        if allowed is not None and not (isinstance(allowed, ast.Constant) and allowed.value is False):
            yield f"{called}(allow_pickle=...)"
        safe = options.get("weights_only")
        if called == "torch.load" and not (isinstance(safe, ast.Constant) and safe.value is True):
            by = options.get("pickle_module")
            yield "torch.load" if by is None else f"torch.load by {ast.unparse(by)}"
        if called in {"eval", "exec"} or called.endswith(".read_pickle"):
            yield called


def test_no_file_is_unpickled_but_by_the_unpickler_that_makes_tensors_alone() -> None:
    found: dict[str, list[str]] = {}
    for path in our_files():
        if said := sorted(unpickling(ast.parse(path.read_text(encoding="utf-8")))):
            found[str(path.relative_to(REPOSITORY))] = said
    # The unpickler of train/models/released/osdface.py is allowed, because it replaces every object by an object that
    # does nothing (tests/train/models/released/test_osdface.py).
    # The two files of manifests/runtime/cluster send the tasks of a cluster, and read no file.
    assert found == {
        "manifests/runtime/cluster/cluster_pool.py": ["pickle"],
        "manifests/runtime/cluster/node_work.py": ["pickle"],
        "train/models/released/osdface.py": ["pickle", "torch.load by _ONLY_TENSORS"],
    }


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=asked)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "import joblib.numpy_pickle",
        "eval(text)",
    ],
)
def test_what_could_run_a_files_code_is_seen(line: str) -> None:
    assert list(unpickling(ast.parse(line)))
    assert not list(unpickling(ast.parse("np.load(path); torch.load(path, weights_only=True); model.eval()")))
