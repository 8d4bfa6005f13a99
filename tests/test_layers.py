"""The layers of the house, held by import-linter, and a wheel that holds what it needs."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import REPOSITORY


def test_import_linter_keeps_every_contract() -> None:
    code = "from importlinter.cli import lint_imports; import sys; sys.exit(lint_imports(no_cache=True))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert found.returncode == 0, found.stdout


@pytest.mark.slow
def test_a_built_wheel_holds_the_schema_the_template_and_nothing_stray(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "-w", str(tmp_path), str(REPOSITORY)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("likeness-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "manifests/schema.sql" in names and "manifests/report/template.html.j2" in names and "likeness.py" in names
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.startswith("likeness")} == {"curate", "degrade", "manifests", "train"}
