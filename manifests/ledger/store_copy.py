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
from manifests.stores.failures import StoreError, StoreFileMissing
from manifests.stores.requests import check_writable, send_file
from manifests.stores.store_path import STORE_MARKER, StorePath, parse_path

STAGE = "store"
# This file in the store has the sha256 and the name of each copied file, in the form that sha256sum reads.
SUMS = "SHA256SUMS"
_CARD = "card.json"  # The file degrade/frozen/set_files.py defines the files of a set.
_SET_FILES = (_CARD, "theta.jsonl", "README.md")
TEXT_FILES = (SUMS, STORE_MARKER, *_SET_FILES)  # The names of the text files in the store.
_PERMISSIONS = "Likeness must be allowed to list, read, write and delete the files of this folder."
_REQUESTS_AT_ONCE = 16  # Number (ours) of files that are copied at the same time.


def check_store(dataset: Path, store: Path, key: bytes | None) -> None:
    """Checks whether `dataset` can be copied into the folder `store`. Writes nothing.

    `key` is the secret key of the dataset, or None if the dataset has no key yet. Raises BadInput if the folder cannot
    be written, if it contains other files, or if the dataset already has another folder in a store.
    """
    if not isinstance(store, StorePath):
        raise BadInput(
            f"--store {store} is not an address. Give the address of a new folder, such as s3://bucket/dataset."
        )
    check_writable(str(store))
    if (dataset / LEDGER_NAME).exists():
        with Ledger.open(dataset) as ledger:
            earlier = ledger.read_detail(STAGE)
        if earlier and earlier["address"] != str(store):
            raise BadInput(
                f"{dataset} is copied into {earlier['address']}. Leave --store out, or curate a new dataset."
            )
    try:
        is_usable = (key is not None and _is_ours(store, _compute_name(store, key))) or _is_new(store)
    except StoreError as error:
        raise BadInput(f"{store} cannot be used with --store: {error.strerror}. {_PERMISSIONS}") from None
    if not is_usable:
        raise BadInput(f"{store} contains other files. Give --store the address of a new folder.")


def try_permissions(store: StorePath, key: bytes | None) -> None:
    """Writes a file into a new folder in a store, and deletes it. Does nothing if the folder belongs to the dataset.

    `key` is the same as in `check_store`. Raises BadInput if the store refuses.
    """
    try:
        if key is not None and _is_ours(store, _compute_name(store, key)):
            return
        _write_marker(store, "")
        (store / STORE_MARKER).unlink()
    except StoreError as error:
        reason = "the bucket does not exist" if isinstance(error, StoreFileMissing) else error.strerror
        raise BadInput(f"{store} cannot be used with --store: {reason}. {_PERMISSIONS}") from None


def choose_store(ledger: Ledger, store: StorePath, key: bytes) -> None:
    """Records the folder `store`, into which the dataset is copied. `key` is the secret key of the dataset.

    Call `check_store` first.
    """
    name = _compute_name(store, key)
    if not _is_ours(store, name):
        _write_marker(store, name)
    ledger.record(STAGE, "all", {}, detail={"address": str(store), "dataset": name})


def copy_to_store(dataset: Path, progress: Progress = lambda *_: None, during_purge: bool = False) -> list[str]:
    """Copies the files that have changed since the last copy. Returns notices for the user: one names the store.

    Does nothing if the dataset has no folder in a store. Files that the ledger does not have are deleted in the folders
    `faces` and `lq` of the store. A local file that is missing, or whose sha256 is not the recorded one, is not copied.
    A file that somebody changed in the store is copied again. `Ledger.open` explains `during_purge`. Raises StoreError
    if the store fails.
    """
    with Ledger.open(dataset, during_purge=during_purge) as ledger:
        store = find_store(ledger)
        wanted = _list_files(ledger)
    if store is None:
        return []
    listed = {path.relative_to(store).as_posix(): path for path in store.list_files()}
    there = listed.keys() - _find_changed(dataset, listed)
    sums = old_sums = _read_sums(store)
    unknown = [name for name in listed if name.startswith(("faces/", "lq/")) and name not in wanted]
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
        # If a local file could not be copied, its earlier copy keeps its line, with which `sha256sum -c` checks it.
        kept = {name: wanted[name] for name in todo if name in listed and old_sums.get(name) == wanted[name]}
        _write_sums(store, sums | kept | done)
    send_file(str(store / LEDGER_NAME), dataset / LEDGER_NAME)
    copied = format_count(len(done), "new or changed file")
    deleted = f" {format_count(len(unknown), 'file')} deleted there." if unknown else ""
    notices = [f"The dataset is copied into {store}: {copied}, and the ledger.{deleted}"]
    if not (left := len(todo) - len(done)):
        return notices
    return [
        *notices,
        f"{format_count(left, 'file')} of {dataset} {'is' if left == 1 else 'are'} missing or changed, and not copied "
        f"into {store}. `likeness manifest check {dataset}` lists the problems.",
    ]


def erase_from_store(ledger: Ledger, faces: Iterable[str]) -> None:
    """Deletes the files of these faces in the store, and the copy of the ledger, which names the faces.

    Call this function after the local files were erased. The files beside the images of frozen sets are copied again,
    because they have changed. The next `curate` or `degrade` copies the ledger again. Raises StoreError if the store
    fails.
    """
    store, erased = find_store(ledger), set(faces)
    if store is None or not erased:
        return
    (store / LEDGER_NAME).unlink()
    listed = {path.relative_to(store).as_posix(): path for path in store.list_files()}
    # SHA256SUMS is written again below, and then no longer shows that these files were changed before.
    changed = _find_changed(ledger.dataset, listed)
    sums = {name: sha256 for name, sha256 in _read_sums(store).items() if name not in changed}
    in_sets = [name for name in listed if name.startswith("lq/")]
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


def find_store(ledger: Ledger) -> StorePath | None:
    """Returns the folder of the dataset in a store, or None.

    If somebody deleted all files of the folder, the file STORE_MARKER is written again. Raises BadInput if the folder
    belongs to another dataset.
    """
    detail = ledger.read_detail(STAGE)
    if not detail:
        return None
    store = parse_path(detail["address"])
    assert isinstance(store, StorePath)
    if _is_ours(store, detail["dataset"]):
        return store
    if not _is_new(store):
        raise BadInput(
            f"{store / STORE_MARKER} is missing or belongs to another dataset, so nothing was copied or deleted there. "
            "Restore this file."
        )
    _write_marker(store, detail["dataset"])
    return store


def _compute_name(store: Path, key: bytes) -> str:
    """Returns the name of the dataset in the file STORE_MARKER. Nobody can compute the name without the key."""
    return hashlib.sha256(key + str(store).encode()).hexdigest()[:32]


def _write_marker(store: StorePath, dataset: str) -> None:
    (store / STORE_MARKER).write_bytes(json.dumps({"dataset": dataset}).encode())


def _is_new(store: StorePath) -> bool:
    """Returns whether a folder in a store is empty, or has only the file that `try_permissions` could not delete."""
    return _is_ours(store, "") or not store.exists()


def _find_changed(dataset: Path, listed: Mapping[str, StorePath]) -> set[str]:
    """Returns the names of the files that somebody changed in the store after they were copied.

    `listed` maps the names of all files in the store to their paths. A copied file is older than SHA256SUMS, which is
    written at the end of each copy, and has the size of the local file. The times are those of the store, in whole
    seconds. A change in the second in which SHA256SUMS was written, which keeps the size, is not seen.
    """
    if SUMS not in listed:
        return set()
    end = listed[SUMS].stat().st_mtime_ns
    names = [name for name in listed if name.startswith(("faces/", "lq/"))]
    return {
        name
        for name in names
        if (status := listed[name].stat()).st_mtime_ns > end or _find_size(dataset / name) not in (None, status.st_size)
    }


def _find_size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


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
        paths = [ledger.dataset / folder / name for name in _SET_FILES]
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
