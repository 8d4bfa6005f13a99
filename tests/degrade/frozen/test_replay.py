"""Tests that a replay from theta.jsonl makes the same set again.

Also tests the card of a set, replays with other engines, and the reports of `verify` on another machine.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

import likeness
from degrade.frozen.dataset_sets import make_set
from degrade.frozen.folders import degrade_folder
from degrade.frozen.replay import replay
from degrade.frozen.set_files import describe_path, read_set_rows, read_theta_file
from degrade.frozen.verify import verify_folder, verify_set
from degrade.presets import PRESETS
from degrade.sampling import sample_theta
from manifests.errors import BadInput
from manifests.ledger.paths import crop_path
from manifests.pictures.png_files import encode_png
from manifests.runtime.files import sha256_file
from tests.doubles.frozen.lq_sets import OPTIONS, SET, contents, files, toy_dataset, toy_face, toy_picture
from tests.places import REPOSITORY


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for number, name in enumerate(["a.png", "deep/b é.jpg", "c\nd.png", "e.png", "f.png"]):
        (folder / name).write_bytes(cv2.imencode(Path(name).suffix, toy_picture(number, 40 + number))[1].tobytes())
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


def test_a_replay_is_the_same_set_byte_for_byte(photos: Path, tmp_path: Path) -> None:
    degrade_folder(photos, tmp_path / "lq", "codeformer", seed=2, size=32)
    for workers, again in ((1, tmp_path / "one"), (3, tmp_path / "three")):
        report = replay(photos, tmp_path / "lq" / "theta.jsonl", again, workers)
        assert (report.preset, report.seed, report.images, report.images_written, len(report.skipped)) == (
            "codeformer",
            2,
            5,
            5,
            1,
        )
        assert files(again) == files(tmp_path / "lq")
        assert verify_folder(again).ok
    assert replay(photos, tmp_path / "lq" / "theta.jsonl", again).images_written == 0


def test_a_replay_finds_its_sources_where_they_are_now(photos: Path, tmp_path: Path) -> None:
    degrade_folder(photos, tmp_path / "lq", "codeformer", size=32)
    moved = photos.rename(tmp_path / "elsewhere")
    assert not verify_folder(tmp_path / "lq").ok and verify_folder(tmp_path / "lq", source=moved).ok
    replay(moved, tmp_path / "lq" / "theta.jsonl", tmp_path / "again")
    ours, theirs = files(tmp_path / "again"), files(tmp_path / "lq")
    assert {name for name in theirs if ours[name] != theirs[name]} == {b"card.json"}
    assert verify_folder(tmp_path / "again").ok
    # A replay needs only theta.jsonl, and no card.
    shutil.copy(tmp_path / "lq" / "theta.jsonl", tmp_path / "alone.jsonl")
    report = replay(moved, tmp_path / "alone.jsonl", tmp_path / "third")
    assert (report.preset, report.seed) == (None, None) and verify_folder(tmp_path / "third").ok
    thirds = files(tmp_path / "third")
    assert all(thirds[name] == theirs[name] for name in theirs if name.endswith((b".png", b".jsonl")))


def test_missing_and_changed_sources_are_named_and_nothing_is_written(photos: Path, tmp_path: Path) -> None:
    degrade_folder(photos, tmp_path / "lq")
    (photos / "a.png").unlink()
    (photos / "e.png").write_bytes(encode_png(toy_picture(70)))
    with pytest.raises(BadInput, match=r"1 \(a\.png\) missing, 1 \(e\.png\) changed") as caught:
        replay(photos, tmp_path / "lq" / "theta.jsonl", tmp_path / "again")
    assert "\n" not in str(caught.value) and not (tmp_path / "again").exists()


def test_what_lies_in_out_is_never_overwritten(photos: Path, tmp_path: Path) -> None:
    for preset in ("gfpgan", "codeformer"):
        degrade_folder(photos, tmp_path / preset, preset)
    before = files(tmp_path / "gfpgan")
    thetas = tmp_path / "codeformer" / "theta.jsonl"
    with pytest.raises(BadInput, match="another set"):
        replay(photos, thetas, tmp_path / "gfpgan")
    with pytest.raises(BadInput, match="contains no frozen set"):
        replay(photos, thetas, photos)
    with pytest.raises(BadInput, match="is a file"):
        replay(photos, thetas, photos / "a.png")
    assert files(tmp_path / "gfpgan") == before
    (tmp_path / "codeformer" / "a.png").unlink()
    (tmp_path / "codeformer" / "e.png").write_bytes(b"")
    mended = replay(photos, thetas, tmp_path / "codeformer")
    assert (mended.images_written, mended.images_repaired) == (2, 1) and verify_folder(tmp_path / "codeformer").ok


@pytest.mark.parametrize("change", ["degrade_folder", "replay"])
def test_killed_and_repeated_is_the_same_as_never_killed(photos: Path, tmp_path: Path, change: str) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    degrade_folder(photos, whole, "codeformer")
    call = f"replay(Path({str(photos)!r}), Path({str(whole / 'theta.jsonl')!r}), Path({str(killed)!r})"
    if change == "degrade_folder":
        call = f"degrade_folder(Path({str(photos)!r}), Path({str(killed)!r}), 'codeformer'"
    code = (
        "import os, signal\nfrom pathlib import Path\n"
        "from degrade.frozen.folders import degrade_folder\nfrom degrade.frozen.replay import replay\n"
        f"def stop(images):\n    if len(list(Path({str(killed)!r}).rglob('*.png'))) == 3:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        f"{call}, progress=stop)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False)
    assert run.returncode == -signal.SIGKILL and len(list(killed.rglob("*.png"))) == 3
    if change == "replay":
        assert replay(photos, whole / "theta.jsonl", killed, workers=4).images_written == 2
    else:
        degrade_folder(photos, killed, "codeformer", workers=4)
    assert files(killed) == files(whole)


def test_a_set_of_a_dataset_has_theta_and_card_and_replays(tmp_path: Path) -> None:
    dataset = toy_dataset(tmp_path / "d")
    make_set(dataset, **OPTIONS)
    lq = dataset / "lq" / SET
    rows = read_set_rows(lq)
    assert [row["file"] for row in rows] == sorted(path.name for path in lq.glob("*.png"))
    for row in rows:
        face = row["file"].removesuffix(".png")
        assert row["theta"] == sample_theta(PRESETS["codeformer"], 0, face) and row["size"] == 32
        assert row["sha256"] == sha256_file(lq / row["file"])
        assert row["source_sha256"] == sha256_file(crop_path(dataset, face)) == sha256_file(dataset / row["source"])
    card = json.loads((lq / "card.json").read_text())
    assert (card["preset"]["name"], card["seed"], card["size"], card["split"]) == ("codeformer", 0, 32, "test")
    assert card["complete"] and card["theta_sha256"] == sha256_file(lq / "theta.jsonl") and card["likeness"]
    assert card["theta_sha256"] in (lq / "README.md").read_text()
    replay(dataset, lq / "theta.jsonl", tmp_path / "again", workers=2)
    ours, theirs = files(tmp_path / "again"), files(lq)
    assert ours.keys() == theirs.keys()
    assert all(ours[name] == theirs[name] for name in theirs if name.endswith((b".png", b".jsonl")))
    assert verify_folder(tmp_path / "again").ok
    shutil.copytree(lq, tmp_path / "copy")
    assert verify_folder(tmp_path / "copy", source=dataset).ok
    moved = crop_path(dataset, toy_face(0).face_id).rename(dataset / "faces" / "elsewhere.png")
    replay(dataset, lq / "theta.jsonl", tmp_path / "by content")  # the source has moved, and is found by its content
    assert files(tmp_path / "by content")[b"theta.jsonl"] == theirs[b"theta.jsonl"]
    moved.unlink()
    with pytest.raises(BadInput, match=rf"{toy_face(0).face_id}\.png\) missing"):
        replay(dataset, lq / "theta.jsonl", tmp_path / "more")


def test_records_beside_a_set_are_verified_and_mended(tmp_path: Path) -> None:
    dataset = toy_dataset(tmp_path / "d")
    make_set(dataset, **OPTIONS)
    before = contents(dataset)
    thetas = dataset / "lq" / SET / "theta.jsonl"
    thetas.write_bytes(thetas.read_bytes()[:-5])
    assert verify_set(dataset, SET).changed_files == ("theta.jsonl",)
    thetas.unlink()
    assert verify_set(dataset, SET).missing_files == ("theta.jsonl",)
    (dataset / "lq" / SET / "card.json").unlink()
    assert make_set(dataset, **OPTIONS).images_written == 0
    assert contents(dataset) == before and verify_set(dataset, SET).ok


def test_verify_says_whose_versions_differ_and_by_how_much(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    degrade_folder(photos, tmp_path / "lq", "codeformer")
    other = encode_png(np.zeros((40, 40, 3), np.uint8))

    import degrade.frozen.jobs

    honest = degrade.frozen.jobs.encode_png
    monkeypatch.setattr(
        degrade.frozen.jobs,
        "encode_png",
        lambda pixels, settings: other if len(pixels) == 40 else honest(pixels, settings),
    )
    monkeypatch.setattr(cv2, "__version__", "3.2.1")
    found = verify_folder(tmp_path / "lq")
    assert found.unreproduced_files == ("a.png",) and found.changed_files == () and found.largest_difference > 0
    assert len(found.version_differences) == 1 and "3.2.1 here" in found.version_differences[0]
    # `verify` must run in this process, because another process would have the true version of the library.
    here = degrade.frozen.jobs.open_untrusted_job_pool
    monkeypatch.setattr("degrade.frozen.verify.open_untrusted_job_pool", lambda _, jobs: here(None, jobs))
    result = CliRunner().invoke(likeness.app, ["verify", str(tmp_path / "lq"), "--workers", "1"])
    assert (
        result.exit_code == 1
        and "3.2.1 here" in result.output
        and "has its recorded bytes" in " ".join(result.output.replace("have", "has").split())
    )
    with pytest.raises(BadInput, match=r"1 \(a\.png\) of 5 images differ from the bytes .* 3\.2\.1 here") as caught:
        replay(photos, tmp_path / "lq" / "theta.jsonl", tmp_path / "again")
    assert "\n" not in str(caught.value)
    assert not json.loads((tmp_path / "again" / "card.json").read_text())["complete"]
    assert not (tmp_path / "again" / "a.png").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"file_encoded": "../out.png"}, "nothing outside"),
        ({"file_encoded": "/tmp/out.png"}, "nothing outside"),
        ({"source_encoded": "..%2Fout.png"}, "nothing outside"),
        (describe_path("file", Path("card.json")), "must have a name that ends in .png"),
        (describe_path("file", Path(".hidden.png")), "must have a name that ends in .png"),
        ({"file": "other.png"}, "but file_encoded is the path"),
        ({"sha256": "x"}, "is broken"),
        ({"size": -3}, "is broken"),
        ({"engine": "photoshop"}, "the engines are"),
        ({"theta": {"version": 99, "steps": []}}, "update Likeness"),
        ({"theta": {"version": 1}}, "no steps"),
        (
            {"theta": {"version": 1, "steps": [{"op": "noise", "sigma": 1, "gray": False, "seed": 2**60}]}},
            "9007199254740992",
        ),
        ({"theta": {"version": 1, "steps": [{"op": "noise", "sigma": -1, "gray": False, "seed": 1}]}}, "sigma is -1"),
        ({"theta": {"version": 1, "steps": [{"op": "jpeg", "quality": float("nan")}]}}, "quality is nan"),
    ],
)
def test_a_line_that_cannot_be_trusted_is_one_sentence(
    photos: Path, tmp_path: Path, change: dict[str, object], says: str
) -> None:
    degrade_folder(photos, tmp_path / "lq", "codeformer")
    rows = read_theta_file(tmp_path / "lq" / "theta.jsonl")
    bad = tmp_path / "bad.jsonl"
    bad.write_text("".join(json.dumps({**row, **(change if n == 2 else {})}) + "\n" for n, row in enumerate(rows)))
    with pytest.raises(BadInput, match=says) as caught:
        replay(photos, bad, tmp_path / "again")
    assert "Line 3" in str(caught.value) and "\n" not in str(caught.value) and not (tmp_path / "again").exists()


def test_lines_that_do_not_go_together_and_theta_that_cannot_run_are_named(photos: Path, tmp_path: Path) -> None:
    degrade_folder(photos, tmp_path / "lq", "codeformer")
    rows = read_theta_file(tmp_path / "lq" / "theta.jsonl")
    huge = {
        **rows[0]["theta"],
        "steps": [
            {"op": "downsample", "factor": 999, "interpolation": "area"},
            {"op": "upsample", "interpolation": "area"},
        ],
    }
    for says, changed in (
        ("as a file and as a folder", [rows[0], {**rows[1], **describe_path("file", Path(rows[0]["file"], "x.png"))}]),
        ("names a file twice", [rows[0], {**rows[1], "file": "a.png", "file_encoded": "%61.png"}]),
        (r"1 \(a\.png cannot be degraded: .* leaves less than one pixel", [{**rows[0], "theta": huge}]),
        ("or an edited θ", [{**rows[0], "theta": rows[1]["theta"]}]),
    ):
        (tmp_path / "bad.jsonl").write_text("".join(json.dumps(row) + "\n" for row in changed))
        with pytest.raises(BadInput, match=says):
            replay(photos, tmp_path / "bad.jsonl", tmp_path / f"again {len(says)}")
    (tmp_path / "bad.jsonl").write_text("[" * 100_000)
    with pytest.raises(BadInput, match=r"Line 1 .* is broken"):
        replay(photos, tmp_path / "bad.jsonl", tmp_path / "again")


def test_a_preset_too_severe_for_a_size_stops_before_anything_is_written(tmp_path: Path) -> None:
    import dataclasses

    dataset = toy_dataset(tmp_path / "d")
    severe = dataclasses.replace(PRESETS["codeformer"], down=(20, 30))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "codeformer", severe)
        with pytest.raises(BadInput, match="--size 16 is too small for codeformer"):
            make_set(dataset, **{**OPTIONS, "size": 16})
    assert not (dataset / "lq").exists()


def test_the_command_replays_and_says_what_makes_no_sense(photos: Path, tmp_path: Path) -> None:
    def call(*words: object) -> str:
        result = CliRunner().invoke(likeness.app, [str(word) for word in words])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.output

    call("degrade", photos, "--out", tmp_path / "lq", "--workers", 1)
    thetas = tmp_path / "lq" / "theta.jsonl"
    words = ("degrade", photos, "--replay", thetas, "--out", tmp_path / "again", "--workers", 1)
    assert "Would make 5" in call(*words, "--dry-run") and not (tmp_path / "again").exists()
    assert "has 5 images with the recorded bytes" in call(*words) and files(tmp_path / "again") == files(
        tmp_path / "lq"
    )
    assert json.loads(call(*words, "--json"))["images"] == 5
    assert "5 images verified." in call("verify", tmp_path / "again", "--originals", photos, "--workers", 1)
    (tmp_path / "empty.jsonl").write_text("")
    for says, bad in [
        ("Leave --seed out", (*words, "--seed", 0)),
        ("Leave --preset out", (*words, "--preset", "gfpgan")),
        ("A replay needs --out", ("degrade", photos, "--replay", thetas)),
        ("cannot be read", ("degrade", photos, "--replay", tmp_path / "no.jsonl", "--out", tmp_path / "x")),
        ("lists no images", ("degrade", photos, "--replay", tmp_path / "empty.jsonl", "--out", tmp_path / "x")),
        ("not a folder", ("degrade", tmp_path / "no", "--replay", thetas, "--out", tmp_path / "x")),
        ("the engines are", ("degrade", photos, "--engine", "best", "--out", tmp_path / "x")),
        ("not a folder", ("verify", tmp_path / "lq", "--originals", tmp_path / "no")),
    ]:
        with pytest.raises(BadInput, match=says):
            call(*bad)
    assert not (tmp_path / "x").exists()


@pytest.mark.skipif(importlib.util.find_spec("basicsr") is not None, reason="basicsr is installed")
def test_without_basicsr_its_engine_is_a_sentence_and_writes_nothing(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="pip install --no-deps basicsr"):
        degrade_folder(photos, tmp_path / "lq", engine="basicsr")
    dataset = toy_dataset(tmp_path / "d")
    with pytest.raises(BadInput, match="pip install --no-deps basicsr"):
        make_set(dataset, **OPTIONS, engine="basicsr")
    assert not (tmp_path / "lq").exists() and not (dataset / "lq").exists()


@pytest.mark.skipif(importlib.util.find_spec("basicsr") is None, reason="needs basicsr")
def test_a_set_of_basicsr_says_so_and_replays(photos: Path, tmp_path: Path) -> None:
    degrade_folder(photos, tmp_path / "lq", "codeformer", engine="basicsr", workers=1)
    degrade_folder(photos, tmp_path / "ours", "codeformer", workers=1)
    assert json.loads((tmp_path / "lq" / "card.json").read_text())["engine"] == "basicsr"
    assert [row["theta"] for row in read_set_rows(tmp_path / "lq")] == [
        r["theta"] for r in read_set_rows(tmp_path / "ours")
    ]
    with pytest.raises(BadInput, match="another set"):
        degrade_folder(photos, tmp_path / "lq", "codeformer")
    replay(photos, tmp_path / "lq" / "theta.jsonl", tmp_path / "again", workers=1)
    assert files(tmp_path / "again") == files(tmp_path / "lq")


@pytest.mark.exhaustive
@pytest.mark.skipif(importlib.util.find_spec("basicsr") is None, reason="needs basicsr")
def test_sets_of_basicsr_verify_and_have_names_of_their_own(photos: Path, tmp_path: Path) -> None:
    degrade_folder(photos, tmp_path / "lq", "codeformer", engine="basicsr")
    assert verify_folder(tmp_path / "lq", workers=2).ok
    dataset = toy_dataset(tmp_path / "d")
    assert make_set(dataset, **OPTIONS, engine="basicsr").lq_set == f"{SET}-basicsr"
    assert make_set(dataset, **OPTIONS).lq_set == SET
    assert verify_set(dataset, f"{SET}-basicsr").ok and verify_set(dataset, SET).ok


def test_the_bytes_of_a_set_do_not_depend_on_where_it_is_run(photos: Path, tmp_path: Path) -> None:
    """Tests replays in new processes: with other BLAS kernels, and with OpenCV without AVX-512."""
    degrade_folder(photos, tmp_path / "lq", "gfpgan")
    for environment in ({"OPENBLAS_CORETYPE": "Nehalem"}, {"OPENCV_CPU_DISABLE": "AVX512F"}):
        code = "import sys\nfrom pathlib import Path\nfrom degrade.frozen.replay import replay\n"
        code += "replay(*map(Path, sys.argv[1:4]))"
        name = next(iter(environment))
        words = [str(photos), str(tmp_path / "lq" / "theta.jsonl"), str(tmp_path / name)]
        subprocess.run(
            [sys.executable, "-c", code, *words],
            check=True,
            cwd=REPOSITORY,
            env={**os.environ, **environment},
        )
        assert files(tmp_path / name) == files(tmp_path / "lq")
