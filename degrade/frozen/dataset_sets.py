"""Makes, resumes and repairs the frozen sets of a dataset, DATASET/lq/<set>/<face_id>.png.

The ledger contains θ and the SHA-256 of every image. After the last image, theta.jsonl, card.json and README.md are
written beside the images.

The list of faces of a set is fixed when the set is begun. In the ledger, a unit is a part of a stage that is recorded
in one transaction. The unit `<set>` of the stage `degrade` records the list of faces. The same transaction locks the
split of a val or test set. The images of a set are made in batches of fixed size. Each batch is a unit (`<set>/00000`
and so on), which is recorded together with the rows of the batch. The unit `<set>/records` records the SHA-256 of the
files beside the images. If the command is killed, the same command continues with the first batch that is not recorded.
Interruptions do not change the final bytes and rows.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from itertools import islice, tee
from pathlib import Path

from degrade.frozen.jobs import Advance, Job, Result, check_engine, open_job_pool, run_job
from degrade.frozen.set_files import (
    SET_FILES,
    THETAS,
    Row,
    describe_path,
    encode_rows,
    finish_set,
    make_card,
    read_card,
)
from degrade.operations.apply import check_sizes
from degrade.presets import find_preset
from degrade.sampling import Preset, check_seed, sample_theta
from degrade.theta import VERSION
from manifests.card import write_card
from manifests.errors import BadInput, LedgerBroken
from manifests.ledger.decisions.applied_decisions import check_decisions_applied
from manifests.ledger.ledger import Ledger, utc_now
from manifests.ledger.paths import crop_path
from manifests.ledger.queries import count_poor_targets, read_set_hashes, read_units
from manifests.ledger.records import SPLITS, Degradation, Split
from manifests.ledger.store_copy import copy_to_store
from manifests.runtime.files import hash_config, remove_temporary_files, sha256_file, write_atomically
from manifests.runtime.workers import check_workers

STAGE = "degrade"
BATCH = 64  # The number of faces in one batch.
FROZEN = ("val", "test")  # A frozen set of one of these splits locks the split.
CROP = 512  # The side of a crop in the FFHQ template, in pixels.

_SPLIT_FACES = """
    SELECT face_id FROM splits JOIN faces USING (face_id)
    WHERE split = ? AND splits.status = 'ok' AND faces.status = 'ok' AND duplicate_of IS NULL AND no_target IS NULL
    ORDER BY face_id
"""
_REFERENCES_ONLY = """
    SELECT no_target, count(*) AS n FROM splits WHERE split = ? AND no_target IS NOT NULL GROUP BY 1 ORDER BY n DESC, 1
"""
_SET_NAMES = "SELECT DISTINCT split_part(unit, '/', 1) AS name FROM stages WHERE stage = ? ORDER BY name"


@dataclass(frozen=True)
class SetSummary:
    """Summarizes a frozen set after `make_set`."""

    lq_set: str
    folder: str
    preset: str
    split: str
    seed: int
    size: int
    images: int
    images_written: int  # The number of images that this call wrote, repaired images included.
    images_repaired: int  # The number of written images that replaced a changed file.
    later_faces: int  # The number of faces that joined the split after the set was begun.
    enlarged: int = 0  # The number of targets that are smaller in their photo than `size`.
    padded: int = 0  # The number of targets with more than 2% of the crop outside the photo.
    notices: tuple[str, ...] = ()  # Sentences about the copy of the dataset in an object store.


def format_set_name(preset: str, split: str, size: int, seed: int, engine: str = "exact") -> str:
    """Returns the folder name of a frozen set below DATASET/lq.

    If the engine is not `exact`, the name ends with the engine.
    """
    return f"{preset}-{split}-{size}-s{seed}" + ("" if engine == "exact" else f"-{engine}")


def lq_path(dataset: Path, lq_set: str, face_id: str) -> Path:
    """Returns the path of a frozen low-quality image, which is a square RGB PNG."""
    return dataset / "lq" / lq_set / f"{face_id}.png"


def list_sets(dataset: Path) -> list[str]:
    """Returns the names of all frozen sets in the ledger, finished or not."""
    with Ledger.open(Path(dataset)) as ledger:
        return list(ledger.query(_SET_NAMES, STAGE)["name"])


def count_images(dataset: Path, lq_set: str) -> int:
    """Returns the number of recorded images of a set."""
    with Ledger.open(Path(dataset)) as ledger:
        return len(read_set_hashes(ledger, lq_set))


def plan_set(
    dataset: Path,
    preset: str = "gfpgan",
    split: str = "test",
    seed: int = 0,
    size: int = CROP,
    engine: str = "exact",
) -> SetSummary:
    """Returns the summary of the set that `make_set` would make. Nothing is written, so `images_written` is 0."""
    checked_preset = _check_options(preset, split, seed, size, engine)
    with Ledger.open(dataset) as ledger:
        plan = _Plan(ledger, checked_preset, split, seed, size, engine)
        return plan.summarize(images_written=0, images_repaired=0)


def make_set(
    dataset: Path,
    preset: str = "gfpgan",
    split: str = "test",
    seed: int = 0,
    size: int = CROP,
    workers: int = 1,
    progress: Advance | None = None,
    engine: str = "exact",
    cluster: str | None = None,
) -> SetSummary:
    """Makes, finishes or repairs the frozen set of one split.

    The set contains one image for each face of the split with the status ok, except for near-duplicates. A face gets no
    image if a test filter allows the face only as a reference. The 512 px crop is area-resized to `size` and degraded
    with a θ that depends on (seed, preset, face_id). A set of val or test locks its split. If an image of a finished
    set is missing, or if its bytes have changed, the image is made again with the recorded bytes. `progress` is called
    with the number of images finished since the last call. `engine` is `exact`, or `basicsr` for BasicSR's code.
    `cluster` is the address of a Ray cluster that degrades the images, or `local` to start Ray on this machine.

    Raises BadInput if an option is not valid, if the split has no face, if `size` is too small for the preset, or if
    another set has the same name. Raises LedgerBroken if a crop is missing or has changed since the set was begun.
    """
    checked_preset = _check_options(preset, split, seed, size, engine)
    check_workers(workers)
    # Opening a ledger for reading raises an error if the ledger is missing. Opening a missing ledger for writing would
    # create the ledger.
    with Ledger.open(Path(dataset), write=False):
        pass
    with Ledger.open(Path(dataset), write=True) as ledger:
        plan = _Plan(ledger, checked_preset, split, seed, size, engine)
        changed = plan.find_changed_faces()
        todo = [(n, batch) for n in range(len(plan.batches)) if (batch := plan.list_faces_to_make(n, changed))]
        crops = [crop_path(ledger.dataset, face) for _, batch in todo for face in batch]
        if missing := [path for path in crops if not path.is_file()]:
            raise LedgerBroken(
                f"{len(missing)} crops are missing, for example {missing[0]}: run `likeness curate` again."
            )
        remove_temporary_files(ledger.dataset / "lq" / plan.name)
        # `plan.begin` locks the split. A cluster can refuse the command, so the pool is opened before `plan.begin`.
        with open_job_pool(workers, len(crops), cluster, crops) as map_in_order:
            if todo:
                plan.begin()
            if progress:
                progress(len(plan.faces) - len(crops))
            # The jobs of all batches are one sequence, so that no worker waits at the end of a batch. A job is made
            # shortly before a worker takes the job, and is kept until the result is recorded.
            jobs, kept_jobs = tee(plan.make_job(face) for _, batch in todo for face in batch)
            results = zip(kept_jobs, map_in_order(run_job, jobs), strict=True)
            for number, batch in todo:
                started = utc_now()
                rows = []
                for face, (job, result) in zip(batch, islice(results, len(batch)), strict=True):
                    rows.append(plan.freeze(face, job, result))
                    if progress:
                        progress(1)
                if plan.name_unit(number) not in plan.recorded_units:
                    ledger.record(STAGE, plan.name_unit(number), plan.config, rows, started=started)
        plan.write_set_files()
        summary = plan.summarize(images_written=len(crops), images_repaired=len(changed))
    write_card(Path(dataset))
    return dataclasses.replace(summary, notices=tuple(copy_to_store(Path(dataset))))


class _Plan:
    """Holds the faces, the batches and the existing records of one frozen set in an open ledger."""

    def __init__(self, ledger: Ledger, preset: Preset, split: str, seed: int, size: int, engine: str) -> None:
        check_decisions_applied(ledger)
        self.ledger, self.preset, self.split, self.seed, self.size = ledger, preset, split, seed, size
        self.engine = engine
        self.name = format_set_name(preset.name, split, size, seed, engine)
        self.records_unit = f"{self.name}/records"
        self.config = {
            "set": self.name,
            "preset": dataclasses.asdict(preset),
            "split": split,
            "seed": seed,
            "size": size,
            "theta_version": VERSION,
            "batch": BATCH,
        } | ({} if engine == "exact" else {"engine": engine})
        # All recorded units of a set must come from the same configuration.
        units = {
            unit: (config, detail)
            for _, unit, config, detail in read_units(ledger, STAGE)
            if unit == self.name or unit.startswith(f"{self.name}/")
        }
        if any(config != hash_config(self.config) for config, _ in units.values()):
            raise BadInput(
                f"A set {self.name} already exists, but its preset had other numbers. "
                "A frozen set is never replaced: choose another --seed."
            )
        self.recorded_units = set(units)
        details = {unit: detail for unit, (_, detail) in units.items()}
        # `file_hashes` maps the name of each file beside the images to the SHA-256 of the file.
        self.file_hashes: dict[str, str] = details.get(self.records_unit, {})
        self.split_faces = list(ledger.query(_SPLIT_FACES, split)["face_id"])
        self.faces: list[str] = details[self.name]["faces"] if self.name in details else self.split_faces
        if not self.faces:
            references_only = ledger.query(_REFERENCES_ONLY, split)
            if len(references_only):
                raise BadInput(
                    f"The split {split} of {ledger.dataset} has no target, because the test filters remove every face "
                    f"(most often for the reason {references_only['no_target'][0]}): run `likeness curate` again with "
                    "--filters keep-outside."
                )
            raise BadInput(f"The split {split} of {ledger.dataset} has no face: choose another --split.")
        for face in self.faces if size < CROP else ():
            self._check_size(face)
        self.batches = [self.faces[start : start + BATCH] for start in range(0, len(self.faces), BATCH)]
        self.image_hashes = read_set_hashes(ledger, self.name)

    def _check_size(self, face: str) -> None:
        try:
            check_sizes(self.size, self.size, sample_theta(self.preset, self.seed, face))
        except BadInput as error:
            raise BadInput(f"--size {self.size} is too small for {self.preset.name} (face {face}). {error}") from None

    def name_unit(self, number: int) -> str:
        return f"{self.name}/{number:05d}"

    def image_path(self, face: str) -> Path:
        return lq_path(self.ledger.dataset, self.name, face)

    def find_changed_faces(self) -> set[str]:
        """Returns the faces of recorded batches whose images on disk differ from the recorded bytes."""
        changed = set()
        for number, faces in enumerate(self.batches):
            if self.name_unit(number) in self.recorded_units:
                for face in faces:
                    path = self.image_path(face)
                    if path.is_file() and sha256_file(path) != self.image_hashes.get(face):
                        changed.add(face)
        return changed

    def list_faces_to_make(self, number: int, changed: set[str]) -> list[str]:
        """Returns the faces of a batch whose images must be made.

        If the batch is not recorded, the images of all its faces must be made. If the batch is recorded, only missing
        and changed images must be made again.
        """
        faces = self.batches[number]
        if self.name_unit(number) not in self.recorded_units:
            return faces
        return [face for face in faces if face in changed or not self.image_path(face).is_file()]

    def begin(self) -> None:
        """Records the faces of the set and locks its split, in one transaction, before the first image is written."""
        if self.name in self.recorded_units:
            return
        rows: list[Split] = []
        if self.split in FROZEN:
            splits = self.ledger.read_rows(Split, "split = ?", self.split)
            rows = [dataclasses.replace(row, locked=True) for row in splits]
        detail = {"faces": self.faces} | ({} if self.engine == "exact" else {"engine": self.engine})
        self.ledger.record(STAGE, self.name, self.config, rows, detail=detail)

    def make_job(self, face: str) -> Job:
        theta = sample_theta(self.preset, self.seed, face)
        return Job(crop_path(self.ledger.dataset, face), self.size, theta, engine=self.engine)

    def freeze(self, face: str, job: Job, result: Result) -> Degradation:
        """Writes one image and returns its row for the ledger."""
        if result.problem:
            raise LedgerBroken(
                f"The crop {job.source} {result.problem}: remove this crop and run `likeness curate` again."
            )
        if self.image_hashes.get(face, result.sha256) != result.sha256:
            raise LedgerBroken(
                f"The image of {job.source} in {self.name} was made again and differs from the recorded bytes; "
                f"nothing was overwritten. `likeness verify {self.ledger.dataset / 'lq' / self.name}` shows the "
                "difference."
            )
        write_atomically(self.image_path(face), result.png)
        theta = json.dumps(job.theta, sort_keys=True)
        return Degradation(self.name, face, self.preset.name, self.seed, self.size, theta, result.sha256)

    def write_set_files(self) -> None:
        """Writes theta.jsonl, card.json and README.md and records their SHA-256.

        If the files match the records, nothing is written.
        """
        folder, started = self.ledger.dataset / "lq" / self.name, utc_now()
        if self.file_hashes and _hash_set_files(folder) == self.file_hashes:
            return
        # If an earlier command was killed, the files can be complete but not recorded.
        if not self.file_hashes and _is_complete(folder):
            self.ledger.record(STAGE, self.records_unit, self.config, detail=_hash_set_files(folder), started=started)
            return
        rows: list[Row] = []
        for row in self.ledger.read_rows(Degradation, "lq_set = ?", self.name):
            crop = crop_path(self.ledger.dataset, row.face_id)
            source = crop.relative_to(self.ledger.dataset)
            names = describe_path("file", Path(f"{row.face_id}.png")) | describe_path("source", source)
            origin = {"size": self.size, "engine": self.engine, "theta": json.loads(row.theta)}
            rows.append({**names, **origin, "source_sha256": sha256_file(crop), "sha256": row.sha256})
        # The card names the dataset by a path relative to the set, because users can move the dataset.
        card = make_card(self.preset, self.seed, self.size, Path("../.."), self.engine) | {"split": self.split}
        finish_set(folder, card, encode_rows(rows), len(rows), [])
        self.ledger.record(STAGE, self.records_unit, self.config, detail=_hash_set_files(folder), started=started)

    def summarize(self, images_written: int, images_repaired: int) -> SetSummary:
        later_faces = len(set(self.split_faces) - set(self.faces))
        folder = str(self.ledger.dataset / "lq" / self.name)
        names = (self.preset.name, self.split, self.seed, self.size)
        counts = (len(self.faces), images_written, images_repaired, later_faces)
        return SetSummary(self.name, folder, *names, *counts, *count_poor_targets(self.ledger, self.faces, self.size))


def _check_options(preset: str, split: str, seed: int, size: int, engine: str) -> Preset:
    checked_preset = find_preset(preset)
    check_seed(seed)
    check_engine(engine)
    if split not in SPLITS:
        raise BadInput(f"There is no split {split}; the splits are {', '.join(SPLITS)}.")
    if not 16 <= size <= CROP:
        raise BadInput(f"--size is {size}; for crops of {CROP} px it must be from 16 to {CROP} pixels.")
    return checked_preset


def _is_complete(folder: Path) -> bool:
    """Returns whether card.json is complete and names the theta.jsonl beside it."""
    try:
        card = read_card(folder)
        return bool(card.get("complete")) and sha256_file(folder / THETAS) == card.get("theta_sha256")
    except (BadInput, OSError):
        return False


def _hash_set_files(folder: Path) -> dict[str, str]:
    """Returns the SHA-256 of each existing file beside the images, by the name of the file."""
    return {name: sha256_file(folder / name) for name in sorted(SET_FILES) if (folder / name).is_file()}
