"""Copies the crops, the frozen sets and the ledger of a dataset into a folder of an object store.

The dataset stays complete on the local disk, and all commands use the local files. The user names the folder in the
store with `curate --store`, and the ledger records it. At their end, `curate` and `degrade` copy the files that have
changed. Each file is written with one request, so a reader never sees a part of a file. Crops and images are written
first, then the other files of the frozen sets, then the cards of the sets, then SHA256SUMS, and last the ledger. When
faces are erased, their files in the store are deleted too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from manifests.errors import BadInput
from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import LEDGER_NAME, crop_path
from manifests.ledger.queries import read_set_sizes, read_units
from manifests.runtime.files import sha256_bytes, sha256_file
from manifests.runtime.progress import Progress
from manifests.runtime.text import format_count
from manifests.stores.requests import check_writable, send_file
from manifests.stores.store_path import STORE_MARKER, StorePath, parse_path

STAGE = "store"
# This file in the store has the sha256 and the name of each copied file, in the form that sha256sum reads.
SUMS = "SHA256SUMS"
_CARD = "card.json"  # The file degrade/frozen/set_files.py defines the files of a set.
_REQUESTS_AT_ONCE = 16  # Number of files that are copied at the same time (ours).


def choose_store(ledger: Ledger, store: Path, key: bytes) -> None:
    """Records the folder `store`, into which the dataset is copied. `key` is the secret key of the dataset.

    Raises BadInput if the folder cannot be written, if it contains other files, or if the dataset already has another
    folder in a store.
    """
    if not isinstance(store, StorePath):
        raise BadInput(
            f"--store {store} is not an address. Give the address of a new folder, such as s3://bucket/dataset."
        )
    check_writable(str(store))
    earlier = ledger.read_detail(STAGE)
    if earlier and earlier["address"] != str(store):
        raise BadInput(
            f"{ledger.dataset} is copied into {earlier['address']}. Leave --store out, or curate a new dataset."
        )
    detail = {"address": str(store), "dataset": hashlib.sha256(key + str(store).encode()).hexdigest()[:32]}
    if not _is_ours(store, detail["dataset"]):
        if store.exists():
            raise BadInput(f"{store} contains other files. Give --store the address of a new folder.")
        (store / STORE_MARKER).write_bytes(json.dumps({"dataset": detail["dataset"]}).encode())
    ledger.record(STAGE, "all", {}, detail=detail)


def copy_to_store(dataset: Path, progress: Progress = lambda *_: None) -> list[str]:
    """Copies the files that have changed since the last copy. Returns notices for the user.

    Does nothing if the dataset has no folder in a store. Files that the ledger does not have are deleted in the folders
    `faces` and `lq` of the store. A local file that is missing, or whose sha256 is not the recorded one, is not copied.
    Raises StoreError if the store fails.
    """
    with Ledger.open(dataset) as ledger:
        store = _find_store(ledger)
        wanted = _list_files(ledger)
    if store is None:
        return []
    there = {path.relative_to(store).as_posix() for path in store.list_files()}
    sums = _read_sums(store)
    unknown = [name for name in there if name.startswith(("faces/", "lq/")) and name not in wanted]
    todo = [name for name, sha256 in wanted.items() if name not in there or sums.get(name) != sha256]
    if unknown or not sums.keys().isdisjoint(todo):
        # SHA256SUMS must not name these files during the copy, because the copy may be interrupted.
        sums = {name: sha256 for name, sha256 in sums.items() if name in wanted and name not in todo}
        _write_sums(store, sums)
    _run(lambda name: (store / name).unlink(), unknown)
    is_set_file = {name: name.startswith("lq/") and not name.endswith(".png") for name in todo}
    done: dict[str, str] = {}
    for names in (
        [name for name in todo if not is_set_file[name]],
        [name for name in todo if is_set_file[name] and not name.endswith(_CARD)],
        [name for name in todo if is_set_file[name] and name.endswith(_CARD)],
    ):
        for name, is_copied in zip(
            names, _run(lambda name: _copy(dataset, store, name, wanted[name]), names), strict=True
        ):
            done |= {name: wanted[name]} if is_copied else {}
            progress("store", len(done), len(todo))
    if todo or unknown:
        _write_sums(store, sums | done)
    send_file(str(store / LEDGER_NAME), dataset / LEDGER_NAME)
    if not (left := len(todo) - len(done)):
        return []
    return [
        f"{format_count(left, 'file')} of {dataset} {'is' if left == 1 else 'are'} missing or changed, and not copied "
        f"into {store}. `likeness manifest check {dataset}` lists the problems."
    ]


def erase_from_store(ledger: Ledger, faces: Iterable[str]) -> None:
    """Deletes the files of these faces in the store, and the copy of the ledger, which names the faces.

    Call this function after the local files were erased. The files beside the images of frozen sets are copied again,
    because they have changed. The next `curate` or `degrade` copies the ledger again. Raises StoreError if the store
    fails.
    """
    store, erased = _find_store(ledger), set(faces)
    if store is None or not erased:
        return
    (store / LEDGER_NAME).unlink()
    sums = _read_sums(store)
    in_sets = [path.relative_to(store).as_posix() for path in (store / "lq").list_files()]
    set_files = [name for name in in_sets if not name.endswith(".png")]
    names = [_name_crop(face) for face in sorted(erased)]
    names += [name for name in in_sets if name.endswith(".png") and Path(name).stem in erased]
    _write_sums(store, {name: sha256 for name, sha256 in sums.items() if name not in {*names, *set_files}})
    _run(lambda name: (store / name).unlink(), names)
    for name in set_files:
        local = ledger.dataset / name
        if local.is_file():
            (store / name).write_bytes(local.read_bytes())
        else:
            (store / name).unlink()


def _find_store(ledger: Ledger) -> StorePath | None:
    """Returns the folder of the dataset in a store, or None.

    Raises BadInput if the folder belongs to another dataset.
    """
    detail = ledger.read_detail(STAGE)
    if not detail:
        return None
    store = parse_path(detail["address"])
    assert isinstance(store, StorePath)
    if not _is_ours(store, detail["dataset"]):
        raise BadInput(
            f"{store / STORE_MARKER} is missing or belongs to another dataset, so nothing was copied or deleted there. "
            "Restore this file."
        )
    return store


def _is_ours(store: StorePath, dataset: str) -> bool:
    marker = store / STORE_MARKER
    try:
        return marker.exists() and bool(json.loads(marker.read_bytes()).get("dataset") == dataset)
    except (ValueError, AttributeError):
        return False


def _list_files(ledger: Ledger) -> dict[str, str]:
    """Returns the sha256 of every crop and of every file of the frozen sets, by its name in the dataset.

    If a set is unfinished or has lost images, the ledger has no hashes of the files beside its images. These files are
    then hashed.
    """
    crops = ledger.query("SELECT face_id, crop_sha256 FROM faces WHERE crop_sha256 IS NOT NULL ORDER BY face_id")
    images = ledger.query("SELECT 'lq/' || lq_set || '/' || face_id || '.png', sha256 FROM degradations ORDER BY 1")
    files = {_name_crop(face): sha256 for face, sha256 in crops.iter_rows()} | dict(images.iter_rows())
    beside = {f"lq/{lq_set}": dict[str, str]() for lq_set in read_set_sizes(ledger)}
    for _, unit, _, detail in read_units(ledger, "degrade"):
        if unit.endswith("/records"):
            beside[f"lq/{unit.removesuffix('/records')}"] = detail
    for folder, hashes in beside.items():
        paths = [ledger.dataset / folder / name for name in (_CARD, "theta.jsonl", "README.md")]
        hashes = hashes or {path.name: sha256_file(path) for path in paths if path.is_file()}
        files |= {f"{folder}/{name}": sha256 for name, sha256 in hashes.items()}
    return files


def _name_crop(face: str) -> str:
    return crop_path(Path(), face).as_posix()


def _copy(dataset: Path, store: StorePath, name: str, sha256: str) -> bool:
    """Copies a file. Returns False if the local file is missing or has other bytes than the ledger records."""
    try:
        data = (dataset / name).read_bytes()
    except FileNotFoundError:
        return False
    if sha256_bytes(data) != sha256:
        return False
    (store / name).write_bytes(data)
    return True


def _run(work: Callable[[str], Any], names: Sequence[str]) -> list[Any]:
    with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as threads:
        return list(threads.map(work, names))


def _read_sums(store: StorePath) -> dict[str, str]:
    sums = store / SUMS
    lines = sums.read_bytes().decode().splitlines() if sums.exists() else []
    return {name: sha256 for sha256, _, name in (line.partition("  ") for line in lines)}


def _write_sums(store: StorePath, sums: Mapping[str, str]) -> None:
    (store / SUMS).write_bytes("".join(f"{sha256}  {name}\n" for name, sha256 in sorted(sums.items())).encode())
