"""Tests that a second evaluation computes nothing again, except values whose inputs changed."""

from __future__ import annotations

import importlib.util
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import train.evaluation.cache.cached_measure
import train.evaluation.cache.cached_overlap
import train.evaluation.cache.keys
import train.evaluation.evaluator
import train.evaluation.results.set_metrics
import train.metrics.networks.no_reference
from curate.faces.interface import FaceModels, ModelFile
from degrade.frozen.dataset_sets import make_set
from manifests.ledger.ledger import Ledger
from manifests.pictures.png_files import encode_png
from manifests.privacy.run_cleanup import EVALUATION_CACHE, remove_faces_from_runs
from tests.doubles import curation as doubles
from tests.doubles.faces.counted_judge import CountedJudge
from tests.doubles.models.restorers import SIZE, Copying
from tests.doubles.training_snapshots import write_snapshot
from train.benchmark.training_overlap import TrainingOverlap, find_training_overlap
from train.evaluation.cache.cache_file import EvaluationCache
from train.evaluation.cache.cached_measure import CachedMeasure
from train.evaluation.cache.cached_restorations import make_cached_restorer
from train.evaluation.cache.keys import hash_environment, hash_faces, hash_restorer
from train.evaluation.cache.stored_restorer import check_restorer, hold_restorer, open_restorer
from train.evaluation.counterfactuals import counterfactuals
from train.evaluation.evaluate import compare, evaluate
from train.evaluation.evaluator import Evaluator
from train.evaluation.options import EvaluationOptions
from train.evaluation.results.result_images import PageImages
from train.evaluation.sets.cases import Case, read_frozen_set
from train.evaluation.systems.restore_case import RestoreCases
from train.evaluation.systems.system import System
from train.metrics.fid import inception
from train.metrics.fid.statistics import Statistics
from train.metrics.measure import build_measure, find_weights, reads_judge, reads_lq, reads_references, reads_target
from train.metrics.registry import METRICS
from train.models.checkpoint_files import BASE_SHA256, write_model_files
from train.models.io import EncodedReferences, Restoration
from train.models.restorer import Restorer
from train.restore.batches.face_batches import FaceBatches
from train.restore.restorers.load_restorer import prepare_restorer

SET = f"codeformer-train-{SIZE}-s0"
OPTIONS = EvaluationOptions(references=2, metrics=("psnr", "id_target", "id_references", "copy_ratio"))


class Brightening(Copying):
    """Adds a trained number to the result of `Copying`, and counts its calls."""

    def __init__(self) -> None:
        super().__init__("maps")
        self.level = torch.nn.Parameter(torch.tensor(0.02))

    def forward(self, *inputs: torch.Tensor, **more: EncodedReferences) -> Restoration:
        image = super().forward(*inputs, **more).image + self.level
        return Restoration(image.clamp(0, 1), image, None)


class Work:
    """Counts the restored, the embedded and the measured images of an evaluation."""

    def __init__(self, model: Brightening, patch: pytest.MonkeyPatch) -> None:
        self.model, self.embedded, self.measured = model, 0, 0

        def load(spec: str, device: str = "cpu") -> FaceModels:
            models = doubles.models(spec)

            def embed(crops: np.ndarray) -> np.ndarray:
                self.embedded += 1
                return models.embed(crops)

            return replace(models, embed=embed)

        def build(*inputs: object) -> tuple[Callable, dict[str, str]]:
            measure, reasons = build_measure(*inputs)  # type: ignore[arg-type]

            def count(*images: object) -> dict[str, float]:
                self.measured += 1
                return measure(*images)  # type: ignore[arg-type]

            return count, reasons

        patch.setattr("train.restore.restorers.face_restorer.load_faces", load)
        patch.setattr(train.evaluation.evaluator, "load_faces", load)
        patch.setattr(train.evaluation.cache.cached_measure, "build_measure", build)

    def take(self) -> tuple[int, int, int]:
        """Returns the numbers of restored, embedded and measured images since the last call."""
        numbers = (len(self.model.seen), self.embedded, self.measured)
        self.model.seen.clear()
        self.embedded = self.measured = 0
        return numbers


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Makes a dataset of four people with a frozen set of the split train, which has several people."""
    _, dataset = doubles.curated_album(tmp_path_factory.mktemp("cache"))
    make_set(dataset, "codeformer", "train", 0, SIZE, workers=1)
    return dataset


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(train.evaluation.evaluator, "find_newest_checkpoint", lambda run: run / "checkpoint-00000016")
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


@pytest.fixture
def work(run: Path, monkeypatch: pytest.MonkeyPatch) -> Work:
    model = Brightening()
    monkeypatch.setattr(Restorer, "from_pretrained", classmethod(lambda cls, folder, base_model=None: model))
    return Work(model, monkeypatch)


def _read_results(run: Path) -> list[bytes]:
    files = [next(run.glob(f"evaluation-*{suffix}")) for suffix in (".json", ".parquet")]
    return [file.read_bytes() for file in files]


def test_a_second_evaluation_computes_nothing_and_writes_the_same_bytes(made: Path, run: Path, work: Work) -> None:
    evaluate(run, made, SET, options=OPTIONS)
    first = work.take()
    written = _read_results(run)
    assert min(first) > 0
    page = PageImages()
    evaluate(run, made, SET, options=OPTIONS, page_images=page)
    assert work.take() == (0, 0, 0)
    assert _read_results(run) == written
    # Without the cache, the restored images are the same as those from the cache.
    (run / EVALUATION_CACHE).unlink()
    again = PageImages()
    evaluate(run, made, SET, options=OPTIONS, page_images=again)
    assert work.take() == first and again.restored.keys() == page.restored.keys()
    assert all((again.restored[key] == image).all() for key, image in page.restored.items())
    assert _read_results(run) == written


def test_what_is_new_is_computed_and_the_rest_is_read(made: Path, run: Path, work: Work) -> None:
    counterfactuals(run, made, SET, options=replace(OPTIONS, metrics=("psnr",)))
    assert work.take()[0] > 0
    evaluate(run, made, SET, options=OPTIONS)
    restored, _, measured = work.take()
    assert restored == 0 < measured
    evaluate(run, made, SET, options=replace(OPTIONS, judge="other"))
    restored, embedded, _ = work.take()
    assert restored == 0 < embedded


def test_a_comparison_reads_the_cache_of_the_run_and_keeps_the_values_of_folders(
    made: Path, run: Path, work: Work, tmp_path: Path
) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    cases = read_frozen_set(made, SIZE, SET, 2, seed=0).cases
    for case in cases:
        (folder / f"{case.face_id}.png").write_bytes(encode_png(case.target))
    evaluate(run, made, SET, options=OPTIONS)
    work.take()
    first = compare([run], [folder], made, tmp_path / "out", SET, OPTIONS)
    assert work.take()[::2] == (0, len(cases))
    (folder / f"{cases[0].face_id}.png").write_bytes(encode_png(cases[0].lq))
    changed = compare([run], [folder], made, tmp_path / "out", SET, OPTIONS)
    assert work.take()[::2] == (0, 1) and changed["rows"][-1]["psnr"] != first["rows"][-1]["psnr"]


def test_an_evaluation_uses_the_device_of_the_restorer_and_gives_the_same_figures(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = EvaluationOptions(references=2, metrics=("id_target", "id_references", "face_restored", "l2_ld"))
    cases = read_frozen_set(made, SIZE, SET, 2, seed=0).cases
    (tmp_path / "theirs").mkdir()
    for case in cases:
        image = cv2.GaussianBlur(case.target, (0, 0), 1)
        (tmp_path / "theirs" / f"{case.face_id}.png").write_bytes(encode_png(image))
    counted, devices, notices = CountedJudge(doubles.models("double")), list[str](), list[str]()

    def load(spec: str, device: str) -> FaceModels:
        devices.append(device)
        return counted.models if device == "auto" else doubles.models(spec)

    monkeypatch.setattr(train.evaluation.evaluator, "load_faces", load)
    monkeypatch.setattr(train.evaluation.evaluator, "hash_environment", lambda: "")
    results = []
    for has_gpu in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda has=has_gpu: has)
        out = tmp_path / f"out{has_gpu}"
        counted.networks[1].notices[:] = ["The device cuda has too little memory."]
        results.append(compare([], [tmp_path / "theirs"], made, out, SET, options, say=notices.append))
    assert devices == ["cpu", "auto"] and notices == ["The device cuda has too little memory."]
    assert [result["judge"]["device"] for result in results] == ["cpu", "cuda"]
    assert results[0]["rows"] == results[1]["rows"] and len(cases) > 3
    embedded, searched = counted.take()
    # All targets, blurred targets and LQ images are embedded in one run. The references add no images, because each
    # reference is the target of another case. The detector searches the same images, three images in each run.
    assert embedded == [3 * len(cases)] and sum(searched) == 3 * len(cases) and set(searched[:-1]) == {3}


def test_the_value_of_a_whole_set_is_kept(
    made: Path, run: Path, work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(inception, "explain_missing", lambda weights: None)
    monkeypatch.setattr(
        train.evaluation.results.set_metrics,
        "measure_statistics",
        lambda images, *_: Statistics(np.array([np.mean(images)]), np.eye(1), len(images)),
    )
    monkeypatch.setattr(
        train.evaluation.results.set_metrics,
        "compute_distance",
        lambda one, other: calls.append(1) or float(one.mean[0]),
    )
    monkeypatch.setattr(inception, "load_inception", lambda *_: None)
    options = replace(OPTIONS, metrics=("psnr", "fid"))
    first = evaluate(run, made, SET, options=options)
    assert len(calls) == len({row["fid"]["mean"] for row in first["rows"]}) > 2
    calls.clear()
    assert evaluate(run, made, SET, options=options) == first and calls == []


def test_what_set_and_training_have_in_common_is_kept_until_one_of_them_changes(
    made: Path, run: Path, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    searches: list[int] = []

    def count(*inputs: object) -> TrainingOverlap:
        searches.append(1)
        return find_training_overlap(*inputs)  # type: ignore[arg-type]

    monkeypatch.setattr(train.evaluation.cache.cached_overlap, "find_training_overlap", count)
    with Ledger.open(made) as ledger:
        splits = dict(ledger.query("SELECT face_id, split FROM splits WHERE status = 'ok'").iter_rows())
    strangers = {face: "train" for face, split in splits.items() if split == "val"}
    write_snapshot(run, made, strangers, SIZE)
    first = evaluate(run, made, SET, options=OPTIONS)
    written = _read_results(run)
    assert first["training_overlap"]["checked"] and len(searches) == 1
    assert evaluate(run, made, SET, options=OPTIONS) == first and len(searches) == 1
    assert _read_results(run) == written
    crops = np.load(run / "snapshot" / "crops.npy")
    np.save(run / "snapshot" / "crops.npy", np.concatenate([crops, crops[:1]]))
    evaluate(run, made, SET, options=OPTIONS)
    assert len(searches) == 2
    write_snapshot(run, made, dict(list(strangers.items())[1:]), SIZE)
    assert evaluate(run, made, SET, options=OPTIONS) != first and len(searches) == 3


def test_a_network_is_loaded_only_for_a_checkpoint_that_the_cache_does_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[Path] = []
    model, cache = Brightening(), EvaluationCache(tmp_path, "scope", pytest.fail)
    monkeypatch.setattr(
        Restorer, "from_pretrained", classmethod(lambda cls, folder, base_model=None: loads.append(folder) or model)
    )
    write_model_files(tmp_path, model.config, model.facts | {BASE_SHA256: ""}, {"level": model.level})
    restorer = open_restorer(tmp_path, None, 1)
    assert restorer.config == model.config and restorer.facts == model.facts and not loads
    for _ in range(2):
        check_restorer(restorer, cache)
    assert restorer.load() is model and len(loads) == 1
    check_restorer(open_restorer(tmp_path, None, 1), cache)  # the cache knows that the checkpoint can be loaded
    assert len(loads) == 1
    before = restorer.find_hash()
    write_model_files(tmp_path, model.config, model.facts, {"level": model.level + 1})
    assert open_restorer(tmp_path, None, 1).find_hash() != before
    # If a checkpoint lacks weights, or if its config cannot be read, `open_restorer` itself loads the checkpoint.
    write_model_files(tmp_path, replace(model.config, base="diffusion"), model.facts, {})
    assert open_restorer(tmp_path, None, 1).load() is model and len(loads) == 2
    (tmp_path / "config.json").write_bytes(b"{")
    assert open_restorer(tmp_path, None, 1).load() is model and len(loads) == 3


def test_an_evaluation_imports_large_libraries_only_when_it_computes() -> None:
    """The imports take seconds, and are not needed if all values are in the cache."""
    late = ["diffusers", "transformers", "torchmetrics", "torchvision", "pyiqa", "scipy.stats", "onnxruntime"]
    code = f"import sys, train.evaluation.evaluate; print([name for name in {late} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- a changed input ---


def change_weight(model: Brightening, patch: pytest.MonkeyPatch) -> None:
    model.level.data += 0.01


def change_type(model: Brightening, patch: pytest.MonkeyPatch) -> None:
    model.double()


def change_facts(model: Brightening, patch: pytest.MonkeyPatch) -> None:
    model.facts["images"] = 1


def change_base(model: Brightening, patch: pytest.MonkeyPatch) -> None:
    model.base_sha256 = "0" * 64


def change_code(model: Brightening, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(train.evaluation.cache.keys, "_hash_code", lambda: "0" * 64)


def change_package(model: Brightening, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(train.evaluation.cache.keys, "find_version", lambda name: "0")


def change_threads(model: Brightening, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch, "get_num_threads", lambda: 99)


@pytest.mark.parametrize(
    "change", [change_weight, change_type, change_facts, change_base, change_code, change_package, change_threads]
)
def test_a_changed_restorer_or_machine_is_another_scope(monkeypatch: pytest.MonkeyPatch, change: Callable) -> None:
    model = Brightening()
    before = hash_restorer(model), hash_environment()
    assert (hash_restorer(Brightening()), hash_environment()) == before
    change(model, monkeypatch)
    assert (hash_restorer(model), hash_environment()) != before


def test_another_checkpoint_restores_everything_again(made: Path, run: Path, work: Work) -> None:
    evaluate(run, made, SET, options=OPTIONS)
    restored, *_ = work.take()
    for step in (0.01, -0.01):  # the cache keeps only the images of the last checkpoint
        work.model.level.data += step
        evaluate(run, made, SET, options=OPTIONS)
        assert work.take()[0] == restored


def test_a_restorer_that_changes_between_two_measurements_restores_again(made: Path, run: Path, work: Work) -> None:
    evaluator = Evaluator(made, SET, replace(OPTIONS, metrics=("psnr",)))
    first = evaluator.measure_run(run, [RIGHT], lambda *_: None)
    work.model.level.data += 0.01
    assert [row["psnr"] for row in evaluator.measure_run(run, [RIGHT], lambda *_: None)] != [
        row["psnr"] for row in first
    ]


def make_case() -> Case:
    rng = np.random.default_rng(0)
    images = list(rng.integers(0, 256, (6, SIZE, SIZE, 3), np.uint8))
    vectors = np.eye(3, dtype=np.float32)[:2]
    valid = np.ones((SIZE, SIZE), bool)
    return Case("f", "p", *images[:2], tuple(images[2:4]), vectors, tuple(images[4:]), vectors, "q", valid=valid)


def flip(image: np.ndarray) -> np.ndarray:
    """Returns a copy of an array with another last value."""
    changed = image.copy()
    changed.flat[-1] = 1 - changed.flat[-1] if image.dtype != np.uint8 else changed.flat[-1] ^ 1
    return changed


def make_batches(model: Brightening, size: int = 2) -> FaceBatches:
    return FaceBatches(prepare_restorer(model, "fp32"), size)


def restore_in(model: Brightening, cache: EvaluationCache, batches: FaceBatches) -> RestoreCases:
    return make_cached_restorer(hold_restorer(model), doubles.models("double"), cache, lambda: batches)


RIGHT = System("2", "", 2)


def test_cases_are_restored_in_batches_and_each_image_once(tmp_path: Path) -> None:
    model, cache = Brightening(), EvaluationCache(tmp_path, "scope", pytest.fail)
    cases = [replace(make_case(), face_id=f"{i}", lq=np.full((SIZE, SIZE, 3), 9 * i, np.uint8)) for i in range(5)]
    systems = [System("lq", "", restores=False), System("0", ""), RIGHT, replace(RIGHT, key="again")]
    done = restore_in(model, cache, make_batches(model, 4))(cases, systems)
    assert set(done) == {(case.face_id, system.key) for case in cases for system in systems[1:]}
    assert len(model.seen) == sum(model.batches) == 10 and max(model.batches) == 4 and model.encoded == 2
    one_by_one = make_batches(other := Brightening(), 1)
    alone = restore_in(other, EvaluationCache(None, "", pytest.fail), one_by_one)
    for place, restored in alone(cases, systems).items():
        assert np.array_equal(restored.image, done[place].image) and restored.left_out == done[place].left_out
    assert set(other.batches) == {1}


@pytest.mark.parametrize(
    ("change", "system"),
    [
        (lambda case: replace(case, lq=flip(case.lq)), RIGHT),
        (lambda case: replace(case, references=(case.references[0], flip(case.references[1]))), RIGHT),
        (lambda case: replace(case, references=case.references[::-1]), RIGHT),
        (lambda case: replace(case, reference_embeddings=flip(case.reference_embeddings)), RIGHT),
        (lambda case: case, replace(RIGHT, references=1)),
        (lambda case: case, replace(RIGHT, source="wrong")),
        (lambda case: case, replace(RIGHT, change="shuffled")),
        (lambda case: case, replace(RIGHT, change="blurred")),
        (lambda case: case, replace(RIGHT, trust=True)),
    ],
)
def test_a_changed_case_or_system_is_restored_again(tmp_path: Path, change: Callable, system: System) -> None:
    model, cache = Brightening(), EvaluationCache(tmp_path, "scope", pytest.fail)
    restore = restore_in(model, cache, make_batches(model))
    (first,) = restore([make_case()], [RIGHT]).values()
    model.seen.clear()
    other_target = replace(make_case(), target=np.zeros((SIZE, SIZE, 3), np.uint8))
    (same,) = restore([other_target], [replace(RIGHT, key="another")]).values()
    assert model.seen == [] and (same.image == first.image).all()
    restore([change(make_case())], [system])
    assert model.seen


def test_other_steps_or_noise_restore_again(tmp_path: Path) -> None:
    model, cache = Brightening(), EvaluationCache(tmp_path, "scope", pytest.fail)
    for steps, seed, calls in ((1, 0, 1), (4, 0, 2), (4, 1, 3), (1, 0, 3)):
        model.steps, model.seed = steps, seed
        restore = restore_in(model, cache, make_batches(model))
        restore([make_case()], [System("0", "")])
        assert len(model.seen) == calls


@pytest.mark.parametrize("changed", ["restored", "target", "references", "wrong", "valid", "lq", "judge", "convention"])
def test_a_metric_is_computed_again_if_something_that_it_reads_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    """Tests that a metric is computed again if an input that it reads has changed, and only then."""
    case, names = make_case(), ("psnr", "id_target", "id_references", "takeover", "face_restored", "input_agreement")
    computed: list[str] = []

    def build(*_: object) -> tuple[Callable, dict[str, str]]:
        def measure(restored, target, references, wrong, valid, only, lq):
            computed.extend(only)
            return dict.fromkeys(only, 0.5)

        return measure, {}

    monkeypatch.setattr(train.evaluation.cache.cached_measure, "build_measure", build)
    cache, judge = EvaluationCache(tmp_path, "scope", pytest.fail), doubles.models("double")
    inputs = {
        "restored": case.lq,
        "target": case.target,
        "references": case.references,
        "wrong": case.wrong,
        "valid": case.valid,
        "only": None,
        "lq": case.lq,
    }

    def measure(judge: FaceModels) -> None:
        CachedMeasure(names, judge, None, 2, cache).read_from(cache)(*inputs.values())

    measure(judge)
    assert computed == list(names)
    computed.clear()
    inputs["references"] = (*case.references, case.lq)  # only the first two references are read
    measure(judge)
    assert computed == []
    expected = {"references": {"id_references"}, "wrong": {"takeover"}, "lq": {"input_agreement"}}
    expected["judge"] = set(names) - {"psnr", "input_agreement"}
    if changed == "judge":
        judge = replace(judge, same_person=judge.same_person + 0.01)
    elif changed == "convention":
        monkeypatch.setitem(METRICS, "psnr", replace(METRICS["psnr"], convention="another"))
        expected["convention"] = {"psnr"}
    elif changed in ("references", "wrong"):
        inputs[changed] = (flip(inputs[changed][0]), inputs[changed][1])
    else:
        inputs[changed] = flip(inputs[changed])
    measure(judge)
    assert set(computed) == expected.get(changed, set(names))


def test_quality_is_measured_in_batches_that_are_halved_if_the_memory_is_too_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []

    def load(name: str, weights: Path | None, device: str) -> Callable:
        def score(images: torch.Tensor) -> list[float]:
            if len(images) > 3:
                raise RuntimeError("CUDA out of memory")
            batches.append(len(images))
            return (images.mean((1, 2, 3)) + len(name)).tolist()

        return score

    monkeypatch.setattr(train.evaluation.cache.cached_measure, "load_no_reference", load)
    monkeypatch.setattr(train.metrics.networks.no_reference, "explain_missing", lambda name, weights: None)
    rng, names, notices = np.random.default_rng(0), ["musiq", "maniqa"], list[str]()
    images = [rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8) for _ in range(7)]
    case, cache = make_case(), EvaluationCache(tmp_path, "scope", pytest.fail)
    measure = CachedMeasure(names, doubles.models("double"), None, 2, cache)
    valid = np.zeros((SIZE, SIZE), bool)
    every = [(image, case.target, valid) for image in images[:2]] + [(image, None, None) for image in images[2:]]
    measure.measure_quality(every, cache, notices.append)
    # The first two images have no valid pixel, so the target replaces them. Both metrics measure each image once.
    assert batches == [3, 3, 3, 3, 1, 1] and notices == [
        "The memory was too small to measure 7 images at once. Now 3 images are measured at once."
    ]
    batches.clear()
    values = [measure.read_from(cache)(image, target, (), valid=valid) for image, target, valid in every]
    assert batches == []
    measure.measure_quality(every, cache, pytest.fail)
    assert batches == [] and all(list(one) == names for one in values)
    alone = CachedMeasure(names, doubles.models("double"), None, 2, other := EvaluationCache(None, "", pytest.fail))
    for (image, target, mask), one in zip(every, values, strict=True):
        again = alone.read_from(other)(image, target, (), valid=mask)
        assert [again[name] for name in names] == pytest.approx([one[name] for name in names], abs=1e-6)
    assert values[0] == values[1] and values[2] != values[3]


@pytest.mark.parametrize(
    ("name", "file"),
    [("lpips", "vgg16-397923af.pth"), ("deg_published", "resnet18_110.pth"), ("niqe", "niqe_modelparameters.mat")],
)
def test_a_changed_file_of_weights_is_loaded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, file: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    loaded: list[bytes] = []
    monkeypatch.setattr(
        train.evaluation.cache.cached_measure,
        "build_measure",
        lambda *_: (pytest.fail, loaded.append((tmp_path / file).read_bytes()) or {}),
    )
    cache, contents = EvaluationCache(tmp_path, "scope", pytest.fail), [b"", b"weights", b"Weights"]
    for content in contents:
        (tmp_path / file).write_bytes(content)
        assert find_weights(name, tmp_path) == (tmp_path / file,)
        for _ in range(2):
            assert CachedMeasure([name], doubles.models("double"), tmp_path, 2, cache).missing == {}
    assert loaded == contents


def test_a_metric_that_could_not_be_loaded_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The metric could have failed because of a package. The packages are not a part of the cache's key."""
    (tmp_path / "vgg16-397923af.pth").write_bytes(b"weights")
    cache = EvaluationCache(tmp_path, "scope", pytest.fail)
    for reasons in ({"lpips": "a package is missing"}, {}):
        monkeypatch.setattr(
            train.evaluation.cache.cached_measure, "build_measure", lambda *_, found=reasons: (pytest.fail, found)
        )
        measure = CachedMeasure(["psnr", "lpips"], doubles.models("double"), tmp_path, 2, cache)
        assert measure.missing == reasons


def test_the_cache_knows_which_images_and_which_judge_a_metric_reads(
    tmp_path: Path,
) -> None:
    """Tests that the keys of all metrics without weights contain all their inputs."""
    case, judge = make_case(), doubles.models("double")
    names = [name for name, metric in METRICS.items() if metric.scope != "set" and not metric.requirement]
    other_judge = replace(
        judge,
        detect=lambda image: [],
        embed=lambda crops: judge.embed(crops)[:, ::-1] * np.array([3, 1, 1], np.float32),
        same_person=-2.0,
    )

    def measure(
        judge: FaceModels, references: tuple[np.ndarray, ...], target: np.ndarray | None = case.target, seen: int = 0
    ) -> dict[str, float]:
        return build_measure(names, judge, None)[0](case.lq, target, references, case.wrong, lq=case.references[seen])

    before = measure(judge, case.references)
    assert measure(judge, case.references, None).keys() == {name for name in names if not reads_target(name)}
    for changed, is_read in (
        (measure(judge, case.wrong), reads_references),
        (measure(judge, case.references, seen=1), reads_lq),
        (measure(other_judge, case.references), reads_judge),
    ):
        differing = {name for name in names if repr(changed[name]) != repr(before[name])}
        assert differing and all(is_read(name) for name in differing)


def test_the_hash_of_face_models_has_no_paths(tmp_path: Path) -> None:
    models = doubles.models("double")
    moved = [ModelFile(file.role, Path(shutil.copy(file.path, tmp_path)), file.licence) for file in models.files]
    assert hash_faces(replace(models, spec="moved", files=tuple(moved))) == hash_faces(models)
    moved[1].path.write_bytes(b"another recognizer")
    assert hash_faces(replace(models, spec="moved", files=tuple(moved))) != hash_faces(models)


# --- the file ---


def damage_whole_file(path: Path) -> None:
    path.write_bytes(b"no database" * 999)


def damage_one_value(path: Path) -> None:
    with sqlite3.connect(path) as file:
        file.execute("UPDATE entries SET value = zeroblob(24) WHERE length(value) = 24")
    file.close()


def cut_the_file(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [damage_whole_file, damage_one_value, cut_the_file])
def test_a_damaged_file_is_one_sentence_and_a_new_file(tmp_path: Path, damage: Callable) -> None:
    notices: list[str] = []
    cache = EvaluationCache(tmp_path, "scope", pytest.fail)
    for number in range(100):
        cache.put(str(number), b"%08d" % number)
    cache.close()
    damage(tmp_path / EVALUATION_CACHE)
    cache = EvaluationCache(tmp_path, "scope", notices.append)
    assert {cache.get(str(number)) for number in range(100)} <= {None, *(b"%08d" % number for number in range(100))}
    (notice,) = notices
    assert "is damaged" in notice and EVALUATION_CACHE in notice
    cache.put("1", b"new")
    cache.close()
    assert EvaluationCache(tmp_path, "scope", pytest.fail).get("1") == b"new"


def test_an_evaluation_with_a_damaged_cache_gives_the_same_figures(made: Path, run: Path, work: Work) -> None:
    first = evaluate(run, made, SET, options=OPTIONS)
    damage_one_value(run / EVALUATION_CACHE)
    work.take()
    notices: list[str] = []
    assert evaluate(run, made, SET, options=OPTIONS, say=notices.append) == first
    assert len(notices) == 1 and work.take() != (0, 0, 0)


def test_a_cache_that_cannot_be_written_is_one_sentence(made: Path, run: Path, work: Work) -> None:
    (run / EVALUATION_CACHE).mkdir()
    notices: list[str] = []
    result = evaluate(run, made, SET, options=OPTIONS, say=notices.append)
    (notice,) = notices
    assert "cannot be used" in notice and notice.endswith(".") and result["rows"]


def test_two_evaluations_share_a_file_and_another_checkpoint_removes_the_entries(tmp_path: Path) -> None:
    one, two = (EvaluationCache(tmp_path, "a", pytest.fail) for _ in range(2))
    one.put("x", b"1")
    two.put("y", b"2")
    one.write()
    two.write()
    assert one.get("y") == b"2" and two.get("x") == b"1"
    other = EvaluationCache(tmp_path, "b", pytest.fail)
    assert other.get("x") is None and one.get("x") is None
    one.put("x", b"3")  # the file belongs to "b" now, so nothing is written
    one.close()
    assert other.get("x") is None
    with closing(sqlite3.connect(tmp_path / EVALUATION_CACHE)) as file:
        assert file.execute("SELECT count(*) FROM entries").fetchone() == (1,)  # the scope
    kept_nowhere = EvaluationCache(None, "a", pytest.fail)
    kept_nowhere.put("x", b"1")
    kept_nowhere.write()
    assert kept_nowhere.get("x") == b"1" and EvaluationCache(None, "a", pytest.fail).get("x") is None


def test_the_file_keeps_no_bytes_of_removed_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = sqlite3.connect

    def connect_without_deletion(*inputs: object, **options: object) -> sqlite3.Connection:
        """Opens a file like an SQLite that leaves the bytes of deleted rows in the file."""
        connection = connect(*inputs, **options)  # type: ignore[call-overload]
        connection.execute("PRAGMA secure_delete = OFF")
        return connection

    monkeypatch.setattr(sqlite3, "connect", connect_without_deletion)
    cache = EvaluationCache(tmp_path, "a", pytest.fail)
    cache.put("x", b"pixels" * 9999)
    cache.close()
    assert b"pixels" in (tmp_path / EVALUATION_CACHE).read_bytes()
    EvaluationCache(tmp_path, "b", pytest.fail).close()
    assert b"pixels" not in (tmp_path / EVALUATION_CACHE).read_bytes()


def test_an_erasure_removes_the_cache_and_its_journal(made: Path, run: Path, work: Work, tmp_path: Path) -> None:
    evaluate(run, made, SET, options=OPTIONS)
    (run / f"{EVALUATION_CACHE}-journal").write_bytes(b"pages")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / EVALUATION_CACHE).write_bytes(b"x")
    assert remove_faces_from_runs([tmp_path], ["0" * 32])["evaluation caches"] == 2
    assert list(tmp_path.rglob(f"{EVALUATION_CACHE}*")) == []
