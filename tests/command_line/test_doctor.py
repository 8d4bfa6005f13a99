"""Tests that `likeness doctor` names the problems of a machine and says what to do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import doctor
from doctor import NOTE, OK, WRONG, Finding
from tests.places import Run


def only(findings: Iterator[Finding], name: str) -> Finding:
    (found,) = [finding for finding in findings if finding.name == name]
    return found


@pytest.mark.slow
def test_this_machine_is_fit_and_json_says_the_same(likeness: Run, tmp_path: Path) -> None:
    found = likeness("doctor", "--faces", "dlib", "--at", tmp_path, "--json")
    findings = {line["name"]: line for line in json.loads(found.stdout)}
    assert found.returncode == 0, [line for line in findings.values() if line["state"] == WRONG]
    assert set(findings) >= {"python", "packages", "memory", "cores", "torch", "gpu", "opencv", "tables", "disk"}
    assert "sha256" in findings["recognizer"]["result"] and "CC0" in findings["recognizer"]["result"]
    assert list(tmp_path.iterdir()) == []


def versions(monkeypatch: pytest.MonkeyPatch, **there: str) -> None:
    named = {name.replace("_", "-"): version for name, version in there.items()}
    monkeypatch.setattr(doctor, "find_version", named.get)


def test_wheels_of_opencv_at_two_versions_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch, opencv_python="5.0.0.93", opencv_python_headless="5.0.0.93")
    assert only(doctor.check_opencv(), "opencv").state == OK
    versions(monkeypatch, opencv_python="5.0.0.93", opencv_python_headless="4.12.0.88")
    found = only(doctor.check_opencv(), "opencv")
    assert found.state == WRONG and "4.12.0.88" in found.result and "the same version" in found.advice


def test_a_torchvision_for_another_torch_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch, torch="2.10.0+cpu", torchvision="0.26.0")
    monkeypatch.setattr(doctor, "requires", lambda _: ["numpy", "torch==2.11.0"])
    found = only(doctor.check_torch(), "torch")
    assert found.state == WRONG and "2.11.0" in found.advice


def test_a_pair_that_cannot_be_imported_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch, torch="2.11.0+cu130", torchvision="0.26.0")
    monkeypatch.setattr(doctor, "requires", lambda _: ["torch==2.11.0"])
    failed = SimpleNamespace(returncode=1, stdout="", stderr="Traceback\nRuntimeError: operator torchvision::nms\n")
    monkeypatch.setattr(doctor.subprocess, "run", lambda *_, **__: failed)
    found = only(doctor.check_torch(), "torch")
    assert found.state == WRONG and "torchvision::nms" in found.result


def test_a_missing_and_an_old_dependency_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch, duckdb="1.0.0", dlib_bin="20.0.1")
    needs = ["duckdb>=2.0", "polars>=2.0", 'dlib-bin>=20; extra == "offline"', 'timm>=1; extra == "iqa"']
    monkeypatch.setattr(doctor, "requires", lambda _: needs)
    found = {finding.name: finding for finding in doctor.check_packages()}
    assert found["packages"].state == WRONG
    assert "duckdb is 1.0.0" in found["packages"].result and "polars is missing" in found["packages"].result
    assert found["extra offline"].state == OK and found["extra iqa"].state == NOTE
    assert "likeness[iqa]" in found["extra iqa"].advice


def test_a_package_for_another_device_replaces_a_dependency(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "requires", lambda _: ["onnxruntime>=1.20", "faiss-cpu>=1.9"])
    versions(monkeypatch, onnxruntime_gpu="1.27.0", faiss_gpu_cu12="1.12.0")
    assert only(doctor.check_packages(), "packages").state == OK
    versions(monkeypatch, onnxruntime_gpu="1.19.0")
    found = only(doctor.check_packages(), "packages")
    assert "onnxruntime is 1.19.0" in found.result and "faiss-cpu is missing" in found.result


def test_face_models_that_are_not_there_are_wrong_and_nothing_is_downloaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("curate.faces.models.insightface_models._download_pack", lambda _: pytest.fail("downloads"))
    assert only(doctor.check_face_models("insightface:no_such_pack"), "face models").state == WRONG
    (tmp_path / "a.onnx").write_bytes(b"no model")
    found = only(doctor.check_face_models(f"insightface:{tmp_path}"), "face models")
    assert found.state == WRONG and str(tmp_path) in found.advice


def test_a_folder_that_takes_no_file_is_wrong_and_a_full_disk_a_note(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert only(doctor.check_disk(Path("/proc")), "disk").state == WRONG
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=2**30))
    found = only(doctor.check_disk(tmp_path / "not" / "yet"), "disk")
    assert found.state == NOTE and str(tmp_path) in found.result and not (tmp_path / "not").exists()


def test_a_look_that_breaks_is_a_finding_and_stops_no_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken() -> Iterator[Finding]:
        raise ImportError("libcuda")
        yield

    monkeypatch.setattr(doctor, "CHECKS", {"torch": broken, "python": doctor.check_python})
    found = {finding.name: finding for finding in doctor.examine("dlib", tmp_path)}
    assert found["torch"].state == WRONG and "libcuda" in found["torch"].result and found["python"].state == OK
