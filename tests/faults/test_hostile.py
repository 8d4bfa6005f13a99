"""Tests more than 300 hostile files: each file gets a row with a reason, and the time and the memory stay limited.

Curation must not read or change any file outside the folder.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from curate.config import CurateConfig
from curate.detection.detect import detect
from curate.detection.face_models import choose_face_models, insert_model_settings
from curate.photos.scan import scan
from manifests.check import check_ledger
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import Face, File, Photo
from manifests.runtime.files import sha256_file
from manifests.runtime.uris import display_path, parse_member_uri, path_of
from manifests.runtime.workers import open_pool
from tests.doubles import curation as curate_doubles
from tests.doubles.pictures.hostile_corpus import build
from tests.places import REPOSITORY

pytestmark = pytest.mark.slow

GIB = 2**20  # one GiB, in KiB


def start() -> None:
    """Prepares a worker process: gives it face models that need no files.

    The time limit stays as long as for users. A shorter limit would stop the reading of good files on a machine where
    twenty other processes run.
    """
    curate_doubles.install(pytest.MonkeyPatch())


def with_peak(function, batch):
    """Calls the function. Returns its result, and the peak memory of this process so far in KiB."""
    result = function(batch)
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return result, int(line.split()[1])


def state(folder: Path) -> dict[str, tuple[int, int, int, str]]:
    """Returns the type, size, time and content of everything in a folder. Symlinks are not followed."""
    found = {}
    for root, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(root, name)
            info = path.lstat()
            data = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() and not path.is_symlink() else ""
            found[str(path)] = (info.st_mode, info.st_size, info.st_mtime_ns, data)
    return found


@pytest.fixture(
    scope="module", params=[False, pytest.param(True, marks=pytest.mark.exhaustive)], ids=["small", "with bombs"]
)
def curated(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[SimpleNamespace]:
    """Builds the corpus and curates it with two workers and the double of the detector."""
    folder, dataset = tmp_path_factory.mktemp("hostile"), tmp_path_factory.mktemp("dataset") / "dataset"
    may = build(folder, np.random.default_rng(0), request.param)
    empty = {name: folder / name for name in ("cwd", "home", "tmp")}
    for path in empty.values():
        path.mkdir()
    before, peaks = state(folder), []
    with pytest.MonkeyPatch.context() as patch:
        curate_doubles.install(patch)
        patch.chdir(empty["cwd"])
        patch.setenv("HOME", str(empty["home"]))
        patch.setenv("TMPDIR", str(empty["tmp"]))
        # The workers start in another folder, so PYTHONPATH must name the folders of our modules.
        root = REPOSITORY
        patch.setenv("PYTHONPATH", os.pathsep.join((str(root), str(root / "tests"), os.environ.get("PYTHONPATH", ""))))
        with Ledger.open(dataset, write=True) as ledger, open_pool(2, start) as run:

            def measured(function, batches):
                for result, peak in run(partial(with_peak, function), batches):
                    peaks.append(peak)
                    yield result

            scan(ledger, [folder / "offered"], measured, lambda *_: None)
            models = choose_face_models(ledger, "auto")
            detect(ledger, insert_model_settings(CurateConfig(), models), models, measured, lambda *_: None)
            files, photos, faces = ledger.read_rows(File), ledger.read_rows(Photo), ledger.read_rows(Face)
    yield SimpleNamespace(
        folder=folder, may=may, before=before, peaks=peaks, dataset=dataset, files=files, photos=photos, faces=faces
    )


def test_every_file_has_a_row_and_every_row_the_right_reason(curated):
    assert len(curated.may) > 300
    found = {path_of(row.uri): row.reason or row.status for row in curated.files if parse_member_uri(row.uri) is None}
    wrong = {path: reason for path, reason in found.items() if reason not in curated.may[path]}
    assert wrong == {} and found.keys() == curated.may.keys()
    assert all(row.reason for row in (*curated.files, *curated.photos) if row.status != "ok")
    reasons = Counter(found.values())
    assert reasons["ok"] > 50 and reasons["archive"] > 30 and not reasons["crashed"]


MEMBERS = {
    "tricks.zip/con.png": "unsafe_name",
    "tricks.zip/../up.png": "unsafe_name",
    "tricks.tar/absolute.png": "unsafe_name",
    "nul.zip/nul\0.png": "unsafe_name",
    "names.zip/new\nline.png": "ok",
    "names.tar/caf\udce9.png": "ok",
    "bytes.zip/caf\udce9.png": "ok",
    "encrypted.zip/locked.png": "encrypted_member",
    "encrypted.zip/open.png": "ok",
    "link.zip/link.png": "link_member",
    "kinds.tar/kind2": "link_member",
    "kinds.tar/kind3": "special_file",
    "sum.zip/wrong_sum.png": "broken_member",
    "method.zip/a.png": "unknown_compression",
    "large.zip/wrong_sum.png": "truncated",
    "bomb.zip/zeros.bmp": "file_too_large",
    "bomb.zip/a.png": "ok",
    "large.tar.gz/zeros.bmp": "file_too_large",
    "large.tar.gz/a.png": "ok",
    "overlapping.zip/b.png": "overlapping_members",
    "nested.zip/inner.tar": "nested_archive",
    "nested.tar/inner.gz": "nested_archive",
    "sparse.tar/holes.bmp": "sparse_member",
    "good.zip/letter.txt": "not_an_image",
}


def test_every_member_of_an_archive_has_a_row_with_its_reason(curated):
    archives = curated.folder / "offered" / "archives"
    members = [row for row in curated.files if parse_member_uri(row.uri) is not None]
    found: dict[str, set[str]] = {}
    for row in members:
        found.setdefault(str(display_path(row.uri).relative_to(archives)), set()).add(row.reason or row.status)
    assert {name: found[name] for name in MEMBERS} == {name: {reason} for name, reason in MEMBERS.items()}
    assert found["twice.zip/same.png"] == {"ok", "duplicate_name"}
    # the good archive and its three compressed forms have the same three members
    for kind in ("", ".gz", ".bz2", ".xz"):
        assert found[f"good.tar{kind}/a.png"] <= {"ok", "same_file"} and f"good.tar{kind}/b/c.png" in found
    assert sum(name.startswith("many.zip/") for name in found) == 500
    assert not any(name.startswith(("bombs.zip", "huge.zip")) for name in found)
    assert all(row.uri.isascii() and row.uri.isprintable() for row in members)


def test_a_worker_stays_under_two_gib(curated):
    assert 0 < max(curated.peaks) < 2 * GIB
    assert not {"timed_out", "crashed"} & {row.reason for row in (*curated.files, *curated.photos)}


def test_nothing_outside_the_dataset_is_touched_and_what_lies_outside_is_not_read(curated):
    assert state(curated.folder) == curated.before
    assert sha256_file(curated.folder / "outside" / "canary.png") not in {row.photo_id for row in curated.photos}
    inside = {path.relative_to(curated.dataset).parts[0] for path in curated.dataset.rglob("*")}
    assert inside <= {"manifest.duckdb", "manifest.duckdb.wal", "faces", "embeddings"}
    assert check_ledger(curated.dataset) == []


def test_the_same_again_reads_nothing_and_one_worker_finds_the_same(curated, tmp_path):
    quick = [curated.folder / "offered" / name for name in ("archives", "names", "special", "truncated", "exif")]
    with Ledger.open(tmp_path / "dataset", write=True) as ledger, open_pool(1, start) as run:
        scan(ledger, quick, run, lambda *_: None)
        once = ledger.read_rows(File)
    known = {row.uri: row for row in curated.files}
    # Of two files with the same content, one is kept. Which file is kept depends on the other offered files.
    apart = {"same_file", None}
    differ = [row for row in once if row.reason not in apart and row != known[row.uri]]
    leads = {"symlink_leaves_folder", "folder_already_walked"}  # these reasons depend on which folders are offered
    assert [row for row in differ if row.reason not in leads] == []
    assert {row.uri for row in once} <= known.keys()

    def no_batch(function, batches):
        assert not batches
        return iter(())

    with Ledger.open(tmp_path / "dataset", write=True) as ledger:
        scan(ledger, quick, no_batch, lambda *_: None)
        assert ledger.read_rows(File) == once
