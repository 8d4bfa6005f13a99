"""Tests that batches give the same results as single faces, in the order of the photos, and need little memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from curate.faces.interface import Detection, FaceModels
from manifests.errors import BadInput
from tests.doubles import curation as doubles
from tests.doubles.models.restorers import SIZE, Marking
from tests.doubles.training import DIM, small
from train.models.bases.tiny import TinyBase
from train.models.io import Restoration
from train.models.restorer import Restorer
from train.recipes.model_configs import build_model_config
from train.recipes.recipes import TINY
from train.restore.batches import photo_pipeline
from train.restore.batches.face_batches import FaceBatches, FaceInput
from train.restore.batches.photo_pipeline import Step, Steps, restore_in_batches
from train.restore.decisions.outcomes import PhotoOutcome
from train.restore.outputs.log import LOG
from train.restore.references.reference_photos import References
from train.restore.restore_photos import restore
from train.restore.restorers import batch_size
from train.restore.restorers.face_restorer import FaceRestorer
from train.restore.restorers.load_restorer import prepare_restorer
from train.restore.restorers.run_restorer import choose_precision, keep_vae_in_float32

Save = Callable[..., Path]


def files_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.name != LOG}


def lines_of(out: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (out / LOG).read_text().splitlines()]
    return [{**line, "output": None} for line in lines]  # without the path of the output, because the folders differ


def run_of(parts: tuple[str, ...] | None = None) -> Restorer:
    """Returns a restorer of recipe tiny with random weights instead of zeros, which would hide the layers before
    them."""
    torch.manual_seed(0)
    recipe = small("tiny", "tiny")
    model = Restorer(build_model_config(recipe if parts is None else replace(recipe, parts=parts), DIM))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    return model.eval()


def faces_of(size: int) -> list[FaceInput]:
    """Returns faces with 0 to 3 references. Some faces have the same references."""
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (3, size, size, 3), np.uint8)
    rows = rng.normal(size=(3, DIM)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return [
        FaceInput(rng.integers(0, 256, (size, size, 3), np.uint8), References(crops[:count], rows[:count]))
        for count in (2, 0, 3, 1, 1, 0, 3)
    ]


def test_faces_of_many_photos_fill_the_batches_and_the_results_do_not_change(
    marking: Marking, save: Save, tmp_path: Path
) -> None:
    people = ([0, 5], [], [0], [5], [0, 5], [0])
    photos = [save(f"in/{i}.png", own, i) for i, own in enumerate(people)]
    (tmp_path / "in" / "letter.txt").write_text("hello")
    photos.append(tmp_path / "in" / "letter.txt")
    reference, shown = save("r.png", [0], 9), list[str]()
    rows: list[PhotoOutcome] = []
    for batch in (4, 1):
        marking.batches.clear()
        out, names = tmp_path / f"o{batch}", list[str]()
        again = restore(
            photos,
            [reference],
            tmp_path,
            out,
            batch=batch,
            on_face=lambda path, *_, names=names: names.append(path.name),
        )
        assert marking.batches == [4, 3] if batch == 4 else marking.batches == [1] * 7
        plain = [replace(row, output=None) for row in again]
        assert not rows or (plain, names) == (rows, shown)
        rows, shown = plain, names
    assert [row.status for row in rows] == ["ok", "dropped", "ok", "ok", "ok", "ok", "failed"] and shown == sorted(
        shown
    )
    assert files_of(tmp_path / "o4") == files_of(tmp_path / "o1") and len(files_of(tmp_path / "o4")) == 5
    assert lines_of(tmp_path / "o4") == lines_of(tmp_path / "o1")
    assert {line["precision"] for line in lines_of(tmp_path / "o4")} == {"fp32"}


def test_a_batch_differs_from_single_faces_by_at_most_a_level_and_is_repeatable() -> None:
    model = run_of()
    faces = faces_of(model.config.size)
    alone, together, again = (
        np.stack(FaceBatches(prepare_restorer(model), size).restore(faces))  # type: ignore[arg-type]
        for size in (1, 4, 4)
    )
    assert np.array_equal(together, again)
    apart = np.abs(np.rint(alone).clip(0, 255) - np.rint(together).clip(0, 255))
    assert apart.max() <= 1 and (apart > 0).mean() <= 1e-4
    others = np.stack(FaceBatches(prepare_restorer(model), 4).restore(faces[::-1]))[::-1]  # type: ignore[arg-type]
    assert np.abs(others - together).max() < 0.5


def test_a_reference_is_encoded_once_for_all_faces(monkeypatch: pytest.MonkeyPatch) -> None:
    model, encoded = run_of(), list[int]()
    honest = model.encode_references

    def count(pictures: torch.Tensor) -> object:
        encoded.append(len(pictures))
        return honest(pictures)

    monkeypatch.setattr(model, "encode_references", count)
    FaceBatches(prepare_restorer(model), 2).restore(faces_of(model.config.size))
    assert encoded == [1, 1, 1]


def failing(fails: Callable[[list[int]], str | None]) -> tuple[FaceRestorer, list[int]]:
    """Returns a restorer that adds one level to each crop, and a list of the sizes of the batches that it tried.

    `fails` gets the first value of each crop of a batch. If `fails` returns a text, the restorer raises an error with
    this text.
    """
    tried = list[int]()

    def restore_crops(crops: list[np.ndarray], references: object) -> np.ndarray:
        tried.append(len(crops))
        if (text := fails([int(crop.flat[0]) for crop in crops])) is not None:
            raise RuntimeError(text)
        return np.stack(crops).astype(np.float32) + 1

    model = Marking()
    return FaceRestorer(model.config, {}, 0, restore_crops, lambda own: own), tried  # type: ignore[arg-type]


def numbered(count: int) -> list[FaceInput]:
    nothing = References(np.zeros((0, SIZE, SIZE, 3), np.uint8), np.zeros((0, 3), np.float32))
    return [FaceInput(np.full((SIZE, SIZE, 3), i, np.uint8), nothing) for i in range(count)]


def test_a_batch_is_halved_when_the_memory_is_too_small_and_that_is_said_once() -> None:
    said = list[str]()
    restorer, tried = failing(lambda crops: "CUDA out of memory. Tried" if len(crops) > 2 else None)
    batches = FaceBatches(restorer, 8)
    restored = batches.restore(numbered(9))
    assert [float(face.flat[0]) for face in restored] == list(range(1, 10))  # type: ignore[union-attr]
    assert tried == [8, 4, 2, 2, 2, 2, 1]
    batches.describe_halving(said.append)
    assert len(said) == 1 and said[0].endswith("the command restored 2 at once: give --batch 2.")
    restorer, tried = failing(lambda crops: "can't allocate memory")
    (error,) = FaceBatches(restorer, 1).restore(numbered(1))
    assert str(error) == "the memory is too small to restore one face"


def test_one_face_that_raises_an_error_costs_no_other_face() -> None:
    restorer, _ = failing(lambda crops: "the network fell over" if 3 in crops else None)
    restored = FaceBatches(restorer, 8).restore(numbered(6))
    assert [isinstance(face, Exception) for face in restored] == [i == 3 for i in range(6)]


def test_a_photo_whose_face_cannot_be_restored_fails_alone(
    marking: Marking, save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, photos = marking.forward, [save(f"{i}.png", [person]) for i, person in enumerate((0, 5, 0))]

    def forward(lq: torch.Tensor, *inputs: torch.Tensor) -> Restoration:
        image = honest(lq, *inputs).image
        image[1] = torch.nan
        return Restoration(image, lq, None)

    monkeypatch.setattr(marking, "forward", forward)
    rows = restore(photos, [], tmp_path, tmp_path / "o", batch=3)
    assert [row.status for row in rows] == ["ok", "failed", "ok"] and "NaN or infinity" in str(rows[1].reason)


def test_the_number_of_photos_in_memory_does_not_grow_with_the_number_of_photos(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def most_open(count: int, held: int = 0) -> int:
        restorer, _ = failing(lambda crops: None)
        open_photos, most = set[int](), 0

        def steps(index: int) -> Steps[int]:
            nonlocal most
            open_photos.add(index)
            most = max(most, len(open_photos))
            yield Step(numbered(1), held)
            open_photos.remove(index)
            return index

        def start(index: int) -> Callable[[], Steps[int]]:
            return lambda: steps(index)

        finished: dict[int, int] = {}
        for _ in restore_in_batches([start(i) for i in range(count)], FaceBatches(restorer, 4), finished):
            pass
        assert finished == {i: i for i in range(count)}
        return most

    monkeypatch.setattr(photo_pipeline, "count_cores", lambda: 2)
    assert most_open(60) <= 8
    # With large photos, a batch is not full: no other photo is read while the open photos need too much memory.
    monkeypatch.setattr(photo_pipeline, "MOST_HELD", 100)
    assert most_open(20, held=1000) <= 4


def test_the_free_memory_decides_how_many_faces_are_in_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model = run_of()
    face = batch_size.BYTES_PER_PIXEL[TINY] * model.config.size**2
    for free, size in ((0, 1), (6 * face, 3), (1000 * face, batch_size.MOST_ON_CPU)):
        monkeypatch.setattr(batch_size, "read_free_memory", lambda free=free: free)
        assert prepare_restorer(model).find_batch_size() == size


def test_detection_runs_while_the_network_computes(
    marking: Marking, save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network waits until a photo of the next batch is searched. With only one thread, it would wait forever."""
    import threading

    searched, honest = threading.Event(), marking.forward
    photos = [save(f"{i}.png", [5], i) for i in range(6)]
    marks = {decode_first(path): i for i, path in enumerate(photos)}

    def detect(image: np.ndarray) -> list[Detection]:
        if marks.get(image.tobytes()) == 3:
            searched.set()
        return doubles.detect(image)

    def forward(*inputs: torch.Tensor) -> Restoration:
        assert searched.wait(20)
        return honest(*inputs)

    loading: Callable[..., FaceModels] = lambda spec, device: replace(doubles.models(spec), detect=detect)  # noqa: E731
    monkeypatch.setattr("train.restore.restorers.face_restorer.load_faces", loading)
    monkeypatch.setattr(marking, "forward", forward)
    rows = restore(photos, [], tmp_path, tmp_path / "o", batch=2)
    assert {row.status for row in rows} == {"ok"}


def decode_first(path: Path) -> bytes:
    from manifests.pictures.images import decode

    return decode(path).tobytes()


def test_the_precision_is_chosen_logged_and_compared(marking: Marking, save: Save, tmp_path: Path) -> None:
    one = save("one.png", [5])
    restore([one], [], tmp_path, tmp_path / "o", precision="bf16")
    assert [line["precision"] for line in lines_of(tmp_path / "o")] == ["bf16"]
    with pytest.raises(BadInput, match="different options"):
        restore([one], [], tmp_path, tmp_path / "o")
    with pytest.raises(BadInput, match="--precision fp16 is unknown: give fp32 or bf16"):
        restore([one], [], tmp_path, tmp_path / "p", precision="fp16")
    with pytest.raises(BadInput, match="--batch 0 is out of range"):
        restore([one], [], tmp_path, tmp_path / "p", batch=0)
    model = run_of()
    assert choose_precision(model, None) == "fp32"  # on a CPU
    faces = faces_of(model.config.size)
    single, half = (FaceBatches(prepare_restorer(model, one), 4).restore(faces) for one in ("fp32", "bf16"))
    apart = np.abs(np.stack(single) - np.stack(half))  # type: ignore[arg-type]
    assert 0 < apart.mean() < 2


def test_a_vae_stays_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    class Vae(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(2, 2)

        def encode(self, image: torch.Tensor) -> torch.Tensor:
            return self.layer(image)

        decode = encode

    model = run_of()
    monkeypatch.setattr(TinyBase, "vae", Vae(), raising=False)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.base.vae.decode(torch.ones(1, 2)).dtype == torch.bfloat16
    keep_vae_in_float32(model)
    with torch.autocast("cpu", torch.bfloat16):
        assert {part(torch.ones(1, 2)).dtype for part in (model.base.vae.encode, model.base.vae.decode)} == {
            torch.float32
        }


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield
