"""Tests that exported restorers restore like torch, without torch, and that a wrong folder gives an error of one
sentence."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import typer
from onnx import helper, numpy_helper
from typer.testing import CliRunner

import train.export.cli
import train.export.export_onnx
import train.models.released.osdface
import train.restore.restore_photos
import train.restore.restorers.face_restorer
from manifests.errors import BadInput
from manifests.runtime.files import sha256_file
from tests.doubles import curation as doubles
from tests.doubles.models.osdface import write_osdface
from tests.doubles.models.saved import DIM, save_restorer
from tests.doubles.models.stable_diffusion import PROMPT, WIDTHS, write_mini_sd
from tests.places import REPOSITORY
from train.data.tensors import to_tensors
from train.export.export_onnx import LIMIT, export_onnx
from train.export.precision import store_weights
from train.models.restorer import Restorer
from train.recipes.recipes import find_recipe
from train.restore.outputs.log import LOG
from train.restore.references.reference_photos import References
from train.restore.restore_photos import restore
from train.restore.restorers.exported.manifest import MANIFEST, read_manifest
from train.restore.restorers.exported.onnx_restorer import OnnxParts
from train.restore.restorers.load_restorer import load_restorer, run_model

SIZE = 32  # The size of the restorers on base tiny.
# These entries replace entries of the small UNet's config. With two levels instead of four, the export is faster.
TWO_LEVELS = {
    "block_out_channels": WIDTHS[:2],
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "attention_head_dim": (2, 3),
}
ADAPTED = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_restorer(tmp_path_factory.mktemp("run") / "checkpoint-00000008", "tiny")


@pytest.fixture(scope="module")
def exported(run: Path) -> Path:
    export_onnx(run, run.parent / "onnx")
    return run.parent / "onnx"


@pytest.fixture
def traced_before(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes an export of `run` copy the graphs of `exported`. Without the copy, tracing would take two thirds of the
    time of an export."""

    def copy_graph(module: object, arguments: object, traced: Path, *, output_names: list[str], **_: object) -> None:
        shutil.copy(exported / ("network.onnx" if output_names == ["image"] else "references.onnx"), traced)

    monkeypatch.setattr(torch.onnx, "export", copy_graph)


@pytest.fixture(autouse=True)
def double_faces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train.restore.restorers.face_restorer, "load_faces", doubles.models)


def draw(*counts: int, size: int = SIZE) -> tuple[np.ndarray, list[References]]:
    """Returns random crops, one for each of `counts`. Each crop gets as many references as its count."""
    random = np.random.default_rng(sum(counts))
    pictures = lambda count: random.integers(0, 256, (count, size, size, 3), np.uint8)  # noqa: E731
    rows = [random.normal(size=(count, DIM)).astype(np.float32) for count in counts]
    vectors = [row / np.linalg.norm(row, axis=1, keepdims=True) for row in rows]
    return pictures(len(counts)), [References(pictures(len(row)), row) for row in vectors]


def measure_difference(model: Restorer, folder: Path, crops: np.ndarray, references: Sequence[References]) -> float:
    """Returns the largest difference between the images of torch and of the ONNX files, which are in 0..1."""
    manifest = read_manifest(folder)
    restored = OnnxParts(folder, manifest.parts, manifest.model).restore(crops, references)
    expected = [run_model(model, to_tensors(crop[None]), one)[0] for crop, one in zip(crops, references, strict=True)]
    return float(np.abs(restored - torch.stack(expected).permute(0, 2, 3, 1).numpy()).max())


def test_tiny_restores_like_torch_with_any_number_of_references(run: Path, exported: Path) -> None:
    model = load_restorer(run)
    for counts in ((0,), (1,), (2,), (3,), (4,), (0, 4, 1, 0, 2)):
        assert measure_difference(model, exported, *draw(*counts)) < 1e-5, counts
    # The references change the images, so the comparison above would find wrong references.
    crops, references = draw(0, 4)
    assert measure_difference(model, exported, crops, references) < 1e-5
    image = lambda one: run_model(model, to_tensors(crops[:1]), one)  # noqa: E731
    assert float((image(references[0]) - image(references[1])).abs().max()) > 10 * LIMIT


def test_the_released_layout_of_osdface_restores_like_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = write_mini_sd(tmp_path / "sd", TWO_LEVELS)
    release = f"osdface:{write_osdface(tmp_path / 'release', PROMPT, ADAPTED, WIDTHS[0])}"
    smaller = lambda name, base: replace(find_recipe(name, base), size=64)  # noqa: E731
    monkeypatch.setattr(train.models.released.osdface, "find_recipe", smaller)
    exported = export_onnx(release, tmp_path / "onnx", str(base))
    assert exported.difference < LIMIT and exported.files == (
        "prompt.onnx",
        "encoder.onnx",
        "unet.onnx",
        "decoder.onnx",
        MANIFEST,
    )
    assert measure_difference(load_restorer(release, str(base)), tmp_path / "onnx", *draw(0, 0, 0, size=64)) < LIMIT


@pytest.mark.usefixtures("traced_before")
def test_fewer_bits_give_smaller_files_and_say_what_they_cost(run: Path, exported: Path, tmp_path: Path) -> None:
    told = export_onnx(run, tmp_path / "onnx", precision="int8")
    assert told.bytes < 0.6 * sum(path.stat().st_size for path in exported.iterdir())
    assert 1e-4 < told.difference < 0.2 and read_manifest(tmp_path / "onnx").difference == told.difference
    assert 1e-4 < measure_difference(load_restorer(run), tmp_path / "onnx", *draw(2, 0)) < 0.2


@pytest.mark.parametrize(("precision", "kind", "error"), [("fp16", np.float16, 0.005), ("int8", np.int8, 0.2)])
def test_weights_are_stored_with_fewer_bits(precision: str, kind: type, error: float) -> None:
    random = np.random.default_rng(0)
    shapes = {"kernel": (8, 4, 6, 6), "matrix": (32, 64), "turned": (16, 64), "small": (16,)}
    weights = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    # The channels have very different scales. With one scale for all channels, the small values would be lost.
    weights["kernel"] *= np.geomspace(1e-3, 1, 8, dtype=np.float32)[:, None, None, None]
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["a"]),
        helper.make_node("Reshape", ["a", "shape"], ["b"]),
        helper.make_node("MatMul", ["b", "matrix"], ["c"]),
        helper.make_node("Gemm", ["c", "turned", "small"], ["out"], transB=1),
    ]
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    tensors.append(numpy_helper.from_array(np.array([-1, 32]), "shape"))
    values = [helper.make_tensor_value_info(name, 1, None) for name in ("a", "c", "out")]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("image", 1, (2, 4, 7, 7))], values, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    image = {"image": random.normal(size=(2, 4, 7, 7)).astype(np.float32)}
    run = lambda: onnxruntime.InferenceSession(model.SerializeToString()).run(["a", "c", "out"], image)  # noqa: E731
    expected = run()
    store_weights(model.graph, precision)
    stored = {tensor.name: numpy_helper.to_array(tensor).dtype for tensor in model.graph.initializer}
    assert sum(one == kind for one in stored.values()) == 3 and stored["small"] == np.float32
    for before, after in zip(expected, run(), strict=True):
        channels = tuple(number for number in range(before.ndim) if number != 1)
        assert (np.abs(after - before).max(channels) <= error * np.abs(before).max(channels)).all()


@pytest.mark.usefixtures("traced_before")
def test_large_weights_get_a_file_of_their_own(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train.export.export_onnx, "MOST_BYTES", 0)
    _, text, _ = call_export("--run", run, "--out", tmp_path / "onnx")
    assert "wrote references.onnx, references.onnx.data, network.onnx, network.onnx.data, restorer.json into" in text
    graph, data = (tmp_path / "onnx" / name for name in ("network.onnx", "network.onnx.data"))
    assert data.stat().st_size > graph.stat().st_size
    assert measure_difference(load_restorer(run), tmp_path / "onnx", *draw(2)) < 1e-5
    data.unlink()
    with pytest.raises(BadInput, match=r"lacks the part network\.onnx\.data: copy the whole folder again"):
        read_manifest(tmp_path / "onnx")


@pytest.mark.usefixtures("traced_before")
def test_files_that_differ_from_torch_are_not_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = OnnxParts.restore
    monkeypatch.setattr(OnnxParts, "restore", lambda *arguments: right(*arguments) + np.float32(0.002))
    with pytest.raises(BadInput, match=r"differs from the image of torch by 2\.0e-03 \(at most 1e-03 allowed\)"):
        export_onnx(run, tmp_path / "onnx")
    monkeypatch.setattr(OnnxParts, "restore", lambda *arguments: right(*arguments) * np.float32(np.nan))
    with pytest.raises(BadInput, match=r"differs from the image of torch by nan \(at most 1e\+00 allowed\)"):
        export_onnx(run, tmp_path / "onnx", precision="int8")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("recipe", "reason"), [("idm", "is a denoiser"), ("honestface", "has HonestFace's identity embedder")]
)
def test_a_restorer_that_cannot_be_exported_is_one_sentence(recipe: str, reason: str, tmp_path: Path) -> None:
    run = save_restorer(tmp_path / "run", recipe)
    with pytest.raises(BadInput, match=f"cannot be exported, because .*{reason}.*: export a restorer of the recipe"):
        export_onnx(run, tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    return lambda name, people, seed=0: doubles.save(tmp_path / name, doubles.photo(people, seed))


def read_log(out: Path) -> list[dict]:
    lines = [json.loads(line) for line in (out / LOG).read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in ("output", "settings")} for line in lines]


def test_restore_decides_the_same_as_with_torch(
    run: Path, exported: Path, save: Callable[..., Path], tmp_path: Path
) -> None:
    photos, shown = (
        [save("in/one.png", [0]), save("in/two.png", [1, 5])],
        [save("r.png", [0], 1), save("s.png", [0], 2)],
    )
    folders = {run: tmp_path / "torch", Path(f"onnx:{exported}"): tmp_path / "onnx"}
    for always in (False, True):
        for checkpoint, out in folders.items():
            restore(photos, shown, checkpoint, out / str(always), always=always)
        logs = [read_log(out / str(always)) for out in folders.values()]
        assert logs[0] == logs[1] and [line["status"] for line in logs[0]] == ["ok" if always else "kept"] * 2
    assert [len(face["references"]) for line in logs[0] for face in line["faces"]] == [2, 0, 0]
    # The results of torch and of the ONNX files cannot be mixed in one folder.
    with pytest.raises(BadInput, match="restored with a different checkpoint"):
        restore(photos, shown, Path(f"onnx:{exported}"), tmp_path / "torch" / "True", always=True)


def test_the_command_restores_without_torch(exported: Path, save: Callable[..., Path], tmp_path: Path) -> None:
    code = (
        "import sys, train.restore.restorers.face_restorer, likeness\n"
        "from tests.doubles import curation\n"
        "train.restore.restorers.face_restorer.load_faces = curation.models\n"
        "if __name__ == '__main__':\n"
        "    try:\n"
        "        likeness.main()\n"
        "    finally:\n"
        "        print([name for name in ('torch', 'diffusers', 'torchvision') if name in sys.modules])\n"
    )
    (tmp_path / "main.py").write_text(code)
    words = [str(save("one.png", [0])), "--reference", str(save("r.png", [0], 1)), "--always"]
    words = ["restore", *words, "--run", f"onnx:{exported}", "--out", str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path])}
    found = subprocess.run(
        [sys.executable, str(tmp_path / "main.py"), *words],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert found.returncode == 0 and "was restored with 1 reference" in found.stdout, found.stderr
    assert found.stdout.splitlines()[-1] == "[]" and (tmp_path / "out" / "one.png").is_file()


def test_a_folder_that_is_not_whole_is_one_sentence(exported: Path, tmp_path: Path) -> None:
    folder = tmp_path / "onnx"

    def refuse(reason: str, change: Callable[[], object]) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(exported, folder)
        change()
        with pytest.raises(BadInput, match=reason) as caught:
            restore([tmp_path], [], Path(f"onnx:{folder}"), tmp_path / "out")
        assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()

    refuse(r"lacks the part references\.onnx: copy the whole folder again", (folder / "references.onnx").unlink)
    refuse(
        r"network\.onnx in .* is not the part that was exported with the other parts.* belongs to another run",
        lambda: shutil.copy(folder / "references.onnx", folder / "network.onnx"),
    )
    refuse(r"contains no restorer\.json: give a folder that `likeness export` wrote", (folder / MANIFEST).unlink)
    refuse(r"restorer\.json is broken .*: export the run again", lambda: (folder / MANIFEST).write_text("{}"))
    text = (exported / MANIFEST).read_text()
    refuse(
        "was exported by another version of Likeness",
        lambda: (folder / MANIFEST).write_text(text.replace('"version": 1', '"version": 2')),
    )
    (folder / MANIFEST).write_text(text)
    (folder / "network.onnx").write_bytes(b"")
    broken = text.replace(sha256_file(exported / "network.onnx"), sha256_file(folder / "network.onnx"))
    (folder / MANIFEST).write_text(broken)
    with pytest.raises(BadInput, match=r"ONNX Runtime cannot open .*network\.onnx .*: export the run again"):
        restore([tmp_path], [], Path(f"onnx:{folder}"), tmp_path / "out")


def test_options_that_an_exported_restorer_cannot_use_are_refused(exported: Path, tmp_path: Path) -> None:
    run = Path(f"onnx:{exported}")
    for options, reason in (
        ({"base_model": "sd"}, "needs no diffusion model: leave --base-model out"),
        ({"steps": 2}, "--steps 2 needs a denoiser"),
        ({"seed": 1}, "--seed 1 has no effect"),
        ({"precision": "bf16"}, "computes in fp32: leave --precision out"),
    ):
        with pytest.raises(BadInput, match=reason):
            restore([tmp_path], [], run, tmp_path / "out", **options)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="has ONNX files, which only `likeness restore` runs"):
        load_restorer(run)


def test_the_kept_out_photos_are_those_of_the_dataset_around_the_folder(
    exported: Path, save: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(train.restore.restore_photos, "find_kept_out_list", asked.append)
    restore([save("one.png", [0])], [], Path(f"onnx:{exported}"), tmp_path / "out")
    assert asked == [exported]


def call_export(*words: object) -> tuple[int, str, BaseException | None]:
    app = typer.Typer()
    app.command()(train.export.cli.export)
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, result.stdout, result.exception


def test_the_command_writes_the_same_bytes_again_and_says_how_near_they_are(
    run: Path, exported: Path, tmp_path: Path
) -> None:
    words = ("--run", run, "--format", "onnx", "--out", tmp_path / "onnx")
    code, text, _ = call_export(*words, "--dry-run")
    files = "references.onnx, network.onnx, restorer.json"
    assert code == 0 and text == f"The command would write {files} into {tmp_path / 'onnx'}.\n"
    assert not (tmp_path / "onnx").exists()
    code, text, _ = call_export(*words)
    assert code == 0 and "wrote references.onnx, network.onnx, restorer.json into" in text and "fp32, opset 18" in text
    hashes = [{path.name: sha256_file(path) for path in folder.iterdir()} for folder in (exported, tmp_path / "onnx")]
    assert hashes[0] == hashes[1] and set(hashes[0]) == {MANIFEST, "references.onnx", "network.onnx"}
    assert "largest difference to torch is" in text and "1 or 2 faces with 0 to 4 references" in text
    for more, reason in (
        (words, "is not empty: give a new or an empty folder"),
        (("--run", run, "--out", tmp_path / "b", "--format", "gguf"), "There is no format gguf"),
        (("--run", run, "--out", tmp_path / "b", "--precision", "int4"), "--precision int4 is not possible"),
        (("--run", f"onnx:{tmp_path / 'onnx'}", "--out", tmp_path / "b"), "is exported already"),
        (("--run", tmp_path / "nothing", "--out", tmp_path / "b"), "contains no checkpoint"),
    ):
        code, _, error = call_export(*more)
        assert code == 1 and isinstance(error, BadInput) and reason in str(error)
