"""Frozen sets over a dataset: DATASET/lq/<set>/<face_id>.png, with θ and the sha256 of every file in the ledger, and in
theta.jsonl and card.json beside the images, which appear when the last of them is there.

A set names its faces once, when it is begun, in the unit `<set>` of stage `degrade`; the same record locks the split.
It is then made in fixed batches, units `<set>/00000` and so on, each recorded with its rows; unit `<set>/records` notes
the sha256 of the files beside the images. A killed run resumes with the first batch that has no mark, and ends with the
same bytes and the same rows as one that was never killed.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from degrade.frozen.jobs import Job, Result, check_engine, open_job_pool, run_job
from degrade.frozen.set_files import SET_FILES, THETAS, Row, encode_name, encode_rows, finish_set, make_card, read_card
from degrade.operations.apply import check_sizes
from degrade.presets import find_preset
from degrade.sampling import Preset, check_seed, sample_theta
from degrade.theta import VERSION
from manifests.card import write_card
from manifests.errors import BadInput, LedgerBroken
from manifests.ledger.ledger import Ledger, utc_now
from manifests.ledger.paths import crop_path
from manifests.ledger.queries import read_set_hashes, read_units
from manifests.ledger.records import Degradation, Split
from manifests.runtime.files import hash_config, remove_temporary_files, sha256_file, write_atomically
from manifests.runtime.workers import check_workers

STAGE = "degrade"
BATCH = 64  # faces a completion mark covers
SPLITS = ("train", "val", "test")
FROZEN = ("val", "test")  # a frozen set of these locks the split
CROP = 512  # pixels, the side of a crop in the FFHQ template

Progress = Callable[[int], None]


@dataclass(frozen=True)
class SetSummary:
    """A frozen set after `make_set`."""

    lq_set: str
    folder: str
    preset: str
    split: str
    seed: int
    size: int
    images: int
    images_written: int  # by this call, repaired ones included
    images_repaired: int  # files that were there with other bytes than the frozen ones
    later_faces: int  # faces that joined the split after the set was begun; they are not in it


def format_set_name(preset: str, split: str, size: int, seed: int, engine: str = "exact") -> str:
    """The folder name of a frozen set under DATASET/lq; it names an engine that is not ours."""
    return f"{preset}-{split}-{size}-s{seed}" + ("" if engine == "exact" else f"-{engine}")


def lq_path(dataset: Path, lq_set: str, face_id: str) -> Path:
    """Where a frozen low-quality image lies: PNG, RGB, `size` x `size`."""
    return dataset / "lq" / lq_set / f"{face_id}.png"


def plan_set(
    dataset: Path,
    preset: str = "gfpgan",
    split: str = "test",
    seed: int = 0,
    size: int = CROP,
    engine: str = "exact",
) -> SetSummary:
    """What `make_set` would do, without writing anything: `images_written` is 0."""
    chosen = _check(preset, split, seed, size, engine)
    with Ledger.open(dataset) as ledger:
        plan = _Plan(ledger, chosen, split, seed, size, engine)
        return plan.summarize(images_written=0, images_repaired=0)


def make_set(
    dataset: Path,
    preset: str = "gfpgan",
    split: str = "test",
    seed: int = 0,
    size: int = CROP,
    workers: int = 1,
    progress: Progress | None = None,
    engine: str = "exact",
) -> SetSummary:
    """Make the frozen set of one split, or finish it, or find it finished.

    Every face of the split that is ok and no near-duplicate gets one image: its 512 px crop, area-resized to `size`,
    degraded by a θ keyed by (seed, preset, face_id). A val or test set locks its split. A file of a finished set that
    is gone, or no longer what was frozen, is made again, to the recorded bytes. `progress` is told how many more images
    are there. `engine` is exact, or basicsr for the literature's own code. Raises BadInput for options that make no
    sense or a name another set holds, LedgerBroken for a crop that is missing or not the one the set was begun with.
    """
    chosen = _check(preset, split, seed, size, engine)
    check_workers(workers)
    with Ledger.open(Path(dataset), write=False):
        pass  # a missing ledger is a sentence, not a new one
    with Ledger.open(Path(dataset), write=True) as ledger:
        plan = _Plan(ledger, chosen, split, seed, size, engine)
        changed = plan.changed()
        todo = [(number, batch) for number in range(len(plan.batches)) if (batch := plan.todo(number, changed))]
        crops = [crop_path(ledger.dataset, face) for _, batch in todo for face in batch]
        if gone := [path for path in crops if not path.is_file()]:
            raise LedgerBroken(f"{len(gone)} crops are missing, {gone[0]} for one: run `likeness curate` again.")
        remove_temporary_files(ledger.dataset / "lq" / plan.name)
        if todo:
            plan.begin()
        if progress:
            progress(len(plan.faces) - len(crops))
        with open_job_pool(workers, len(crops)) as map_in_order:
            for number, batch in todo:
                started = utc_now()
                jobs = [plan.job(face) for face in batch]
                rows = []
                for face, job, result in zip(batch, jobs, map_in_order(run_job, jobs), strict=True):
                    rows.append(plan.freeze(face, job, result))
                    if progress:
                        progress(1)
                if plan.unit(number) not in plan.marks:
                    ledger.record(STAGE, plan.unit(number), plan.config, rows, started=started)
        plan.finish()
        done = plan.summarize(images_written=len(crops), images_repaired=len(changed))
    write_card(Path(dataset))
    return done


class _Plan:
    """One frozen set against one open ledger: which faces it has, and which batches of them are finished."""

    def __init__(self, ledger: Ledger, preset: Preset, split: str, seed: int, size: int, engine: str) -> None:
        self.ledger, self.preset, self.split, self.seed, self.size = ledger, preset, split, seed, size
        self.engine = engine
        self.name = format_set_name(preset.name, split, size, seed, engine)
        self.records = f"{self.name}/records"
        self.config = {
            "set": self.name,
            "preset": dataclasses.asdict(preset),
            "split": split,
            "seed": seed,
            "size": size,
            "theta_version": VERSION,
            "batch": BATCH,
        } | ({} if engine == "exact" else {"engine": engine})
        ours = [
            (unit, hashed, detail)
            for _, unit, hashed, detail in read_units(ledger, STAGE)
            if unit == self.name or unit.startswith(f"{self.name}/")
        ]
        if any(row[1] != hash_config(self.config) for row in ours):
            raise BadInput(
                f"The set {self.name} was made with other numbers behind the same names (an older Likeness, probably), "
                "and a frozen set is not made anew: choose another --seed."
            )
        self.marks = {unit for unit, _, _ in ours}
        self.beside: dict[str, str] = next((detail for unit, _, detail in ours if unit == self.records), {})
        self.split_faces = _faces_of(ledger, split)
        begun = [detail for unit, _, detail in ours if unit == self.name]
        self.faces: list[str] = begun[0]["faces"] if begun else self.split_faces
        if not self.faces:
            raise BadInput(f"The split {split} of {ledger.dataset} has no face: choose another --split.")
        for face in self.faces if size < CROP else ():
            self._check_size(face)
        self.batches = [self.faces[start : start + BATCH] for start in range(0, len(self.faces), BATCH)]
        self.recorded = read_set_hashes(ledger, self.name)

    def _check_size(self, face: str) -> None:
        try:
            check_sizes(self.size, self.size, sample_theta(self.preset, self.seed, face))
        except BadInput as error:
            raise BadInput(f"--size {self.size} is too small for {self.preset.name}, at {face}: {error}") from None

    def unit(self, number: int) -> str:
        return f"{self.name}/{number:05d}"

    def file(self, face: str) -> Path:
        return lq_path(self.ledger.dataset, self.name, face)

    def changed(self) -> set[str]:
        """Faces of finished batches whose file is there and is not what was frozen."""
        done = [face for number, faces in enumerate(self.batches) if self.unit(number) in self.marks for face in faces]
        return {f for f in done if self.file(f).is_file() and sha256_file(self.file(f)) != self.recorded.get(f)}

    def todo(self, number: int, changed: set[str]) -> list[str]:
        """All faces of a batch without a mark; of one with a mark those whose file is gone or changed."""
        faces = self.batches[number]
        if self.unit(number) not in self.marks:
            return faces
        return [face for face in faces if face in changed or not self.file(face).is_file()]

    def begin(self) -> None:
        """Name the set's faces and lock its split, in one transaction, before the first file appears."""
        if self.name in self.marks:
            return
        rows: list[Split] = []
        if self.split in FROZEN:
            rows = [
                dataclasses.replace(row, locked=True) for row in self.ledger.read_rows(Split, "split = ?", self.split)
            ]
        detail = {"faces": self.faces} | ({} if self.engine == "exact" else {"engine": self.engine})
        self.ledger.record(STAGE, self.name, self.config, rows, detail=detail)

    def job(self, face: str) -> Job:
        theta = sample_theta(self.preset, self.seed, face)
        return Job(crop_path(self.ledger.dataset, face), self.size, theta, engine=self.engine)

    def finish(self) -> None:
        """Write theta.jsonl, card and README beside the images and note their sha256, unless they are as noted."""
        folder, started = self.ledger.dataset / "lq" / self.name, utc_now()
        if self.beside and _hashes(folder) == self.beside:
            return
        if not self.beside and _records_stand(folder):  # of an older Likeness, or killed before they were noted
            self.ledger.record(STAGE, self.records, self.config, detail=_hashes(folder), started=started)
            return
        rows: list[Row] = []
        for row in self.ledger.read_rows(Degradation, "lq_set = ?", self.name):
            crop = crop_path(self.ledger.dataset, row.face_id)
            names = {"file": f"{row.face_id}.png", "source": encode_name(crop.relative_to(self.ledger.dataset))}
            made_by = {"size": self.size, "engine": self.engine, "theta": json.loads(row.theta)}
            rows.append({**names, **made_by, "source_sha256": sha256_file(crop), "sha256": row.sha256})
        # the dataset is named from where the set lies: it may be moved
        card = make_card(self.preset, self.seed, self.size, "../..", self.engine) | {"split": self.split}
        finish_set(folder, card, encode_rows(rows), len(rows), [])
        self.ledger.record(STAGE, self.records, self.config, detail=_hashes(folder), started=started)

    def freeze(self, face: str, job: Job, result: Result) -> Degradation:
        """Write one image and answer its row."""
        if result.problem:
            raise LedgerBroken(f"The crop {job.source} {result.problem}: remove it and run `likeness curate` again.")
        if self.recorded.get(face, result.sha256) != result.sha256:
            raise LedgerBroken(
                f"{job.source} comes out with other bytes in {self.name} than recorded, so nothing was overwritten: "
                f"`likeness verify {self.ledger.dataset / 'lq' / self.name}` says by how much."
            )
        write_atomically(self.file(face), result.png)
        theta = json.dumps(job.theta, sort_keys=True)
        return Degradation(self.name, face, self.preset.name, self.seed, self.size, theta, result.sha256)

    def summarize(self, images_written: int, images_repaired: int) -> SetSummary:
        later_faces = len(set(self.split_faces) - set(self.faces))
        folder = str(self.ledger.dataset / "lq" / self.name)
        names = (self.preset.name, self.split, self.seed, self.size)
        return SetSummary(
            self.name, folder, *names, len(self.faces), images_written, images_repaired, later_faces=later_faces
        )


def _records_stand(folder: Path) -> bool:
    try:
        card = read_card(folder)
        return bool(card.get("complete")) and sha256_file(folder / THETAS) == card.get("theta_sha256")
    except (BadInput, OSError):
        return False


def _hashes(folder: Path) -> dict[str, str]:
    """The sha256 of each file beside the images that is there."""
    return {name: sha256_file(folder / name) for name in sorted(SET_FILES) if (folder / name).is_file()}


def _check(preset: str, split: str, seed: int, size: int, engine: str) -> Preset:
    chosen = find_preset(preset)
    check_seed(seed)
    check_engine(engine)
    if split not in SPLITS:
        raise BadInput(f"There is no split {split}; the splits are {', '.join(SPLITS)}.")
    if not 16 <= size <= CROP:
        raise BadInput(f"--size is {size}; a set of {CROP} px crops has a size from 16 to {CROP}.")
    return chosen


def _faces_of(ledger: Ledger, split: str) -> list[str]:
    sql = """SELECT face_id FROM splits JOIN faces USING (face_id)
             WHERE split = ? AND splits.status = 'ok' AND faces.status = 'ok' AND duplicate_of IS NULL
             ORDER BY face_id"""
    return list(ledger.query(sql, split)["face_id"])


def list_sets(dataset: Path) -> list[str]:
    """The frozen sets that the ledger knows, finished or begun."""
    sql = "SELECT DISTINCT split_part(unit, '/', 1) AS name FROM stages WHERE stage = ? ORDER BY name"
    with Ledger.open(Path(dataset)) as ledger:
        return list(ledger.query(sql, STAGE)["name"])


def count_images(dataset: Path, lq_set: str) -> int:
    """How many images of a set are recorded."""
    with Ledger.open(Path(dataset)) as ledger:
        return len(read_set_hashes(ledger, lq_set))
