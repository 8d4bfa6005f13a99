"""Runs the stages of curation in their order. Worker processes compute the rows of the ledger, and the main process
records the rows.

The order is: scan -> consent -> detect -> screen -> embed -> keep out -> label -> worth -> dedupe -> group -> split ->
pair -> leaks -> check
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from curate.config import CurateConfig
from curate.detection.detect import detect, start_worker
from curate.detection.embed import embed
from curate.detection.face_models import check_same_models, choose_face_models, insert_model_settings
from curate.detection.screen import screen
from curate.detection.worth import record_worth_scale
from curate.faces.interface import FaceModels
from curate.faces.load import load_faces_once
from curate.imports.lists import Lists, match_lists
from curate.people.copies.near_duplicates import mark_near_duplicates
from curate.people.group import group_faces
from curate.people.leaks.audit import audit_leaks
from curate.people.pairing.pairs import pair_faces
from curate.people.split.splits import check_policy, check_splits, split_faces
from curate.photos.consent import apply_consent
from curate.photos.history.store_failures import describe_lost_photos
from curate.photos.labelling.labels import label
from curate.photos.name_rules import NameRules
from curate.photos.optout_faces import keep_out
from curate.photos.refusals import check_refusals, check_refused_hashes
from curate.photos.scan import scan
from curate.run.check_options import check_options
from curate.run.summary import Summary, summarise
from manifests.card import write_card
from manifests.ledger.decisions.applied_decisions import mark_decisions_applied, read_last_decision
from manifests.ledger.filters import FilterSet, check_filters
from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import LEDGER_NAME
from manifests.ledger.records import Face, File, ListEntry, Split
from manifests.ledger.store_copy import choose_store, copy_to_store, try_permissions
from manifests.privacy.keys import KEY_NAME, ensure_key, read_key, read_key_file
from manifests.runtime.cluster.cluster_pool import list_first_files, open_cluster_pool
from manifests.runtime.cluster.connection import connect_to_cluster
from manifests.runtime.cluster.ray_process import RayProcess
from manifests.runtime.files import remove_temporary_files
from manifests.runtime.progress import Progress
from manifests.runtime.workers import BatchMap, open_pool
from manifests.stores.archive_copies import remove_copies
from manifests.stores.store_path import StorePath

RAY_GPUS = ("cuda", "tensorrt")  # the devices of --device that Ray counts as GPUs


def curate(
    photos: Sequence[Path],
    dataset: Path,
    config: CurateConfig,
    workers: int | None = None,
    progress: Progress = lambda *_: None,
    lists: Lists | None = None,
    device: str = "auto",
    store: Path | None = None,
    cluster: str | None = None,
) -> Summary:
    """Curates every file under `photos`, and writes the dataset. A repeated call resumes an interrupted run.

    `workers` is the number of worker processes that read the files. With worker processes, a file that hangs or crashes
    its process does not end the run. If `workers` is None, the calling process reads the files. `cluster` is the
    address of a Ray cluster whose nodes read the files, or `local` to start Ray on this machine with `workers` cores.
    `lists` are imported lists with the person, the split and the references of photos. New lists replace earlier lists,
    and later runs use the new lists too. `device` is the value of --device. `store` is a new folder in an object store,
    into which this and later runs copy the crops, the frozen sets and the ledger. Raises BadInput, StoreFailed,
    LedgerError or FaceModelError. The work that was recorded before an error stays recorded.
    """
    check_options(photos, dataset, config, workers, device, store)
    if not (dataset / LEDGER_NAME).exists():
        load_faces_once(config.faces, device)  # the models are loaded first: if this fails, no empty dataset is written
    if isinstance(store, StorePath):  # `check_options` refuses other paths
        try_permissions(store, read_key_file(dataset))
    rules = NameRules(config.exclude, config.include)
    with contextlib.ExitStack() as stack:
        stack.callback(remove_copies)
        map_batches = map_with_models = stack.enter_context(open_pool(workers, start_worker))
        nodes = stack.enter_context(contextlib.ExitStack())
        ray = None if cluster is None else nodes.enter_context(connect_to_cluster(cluster, workers))
        if config.sidecar is not None and not config.allow_unmatched:
            check_refusals(dataset, config.sidecar, photos, rules, map_batches)
        ledger = stack.enter_context(Ledger.open(dataset, write=True))
        ensure_key(ledger)
        if isinstance(store, StorePath):
            choose_store(ledger, store, read_key(ledger))
        check_policy(ledger.read_rows(Split), config.split)
        # an error here does not mark the dataset as unfinished
        models = choose_face_models(ledger, config.faces, device)
        if ray is not None:
            map_batches, map_with_models = _open_cluster_pools(
                nodes, ray, models, [*list_first_files(photos), [dataset / KEY_NAME]]
            )
        ledger.record("curate", "all", {}, detail={"finished": False})
        _remove_leftovers(ledger.dataset)

        notices = scan(ledger, photos, map_batches, progress, rules, config.reread)
        if config.sidecar is not None and not config.allow_unmatched:
            check_refused_hashes(ledger, config.sidecar)
        notices += apply_consent(ledger, config.sidecar, photos, config.require_consent)
        notices += _record_lists(ledger, lists)

        config = insert_model_settings(config, models)
        _record_filters(ledger, config.screen)
        failures = detect(ledger, config, models, map_with_models, progress)
        notices += describe_lost_photos(ledger)
        screen(ledger, config, map_batches, progress)
        failures += embed(ledger, config, models, map_with_models, progress)
        keep_out(ledger, models)
        label(ledger, config, map_batches)  # After `keep_out`, so that no face that opted out gets a name.
        nodes.close()  # The driver runs the later stages, and the cluster is free for other work.
        if cluster is not None:
            _remove_leftovers(ledger.dataset)  # a node that died can have left a half-written file

        _record_settings(ledger, config, models)
        record_worth_scale(ledger, models)
        mark_near_duplicates(ledger, config, models)
        group_faces(ledger, config, progress)
        notices += split_faces(ledger, config)
        notices += pair_faces(ledger, config)
        audit_leaks(ledger, progress)
        if last := read_last_decision(ledger):
            mark_decisions_applied(ledger, last)
        ledger.record("curate", "all", {}, detail={"finished": True})
        check_splits(ledger.read_rows(Face), ledger.read_rows(Split))
        notices += dict.fromkeys([*models.list_failures(), *failures])  # each sentence once
        summary = summarise(ledger, models, notices)
    write_card(dataset)
    return replace(summary, notices=(*summary.notices, *copy_to_store(dataset, progress)))


def _open_cluster_pools(
    nodes: contextlib.ExitStack, ray: RayProcess, models: FaceModels, files: Sequence[Sequence[Path]]
) -> tuple[BatchMap, BatchMap]:
    """Returns the map for batches that need no models, and the map for batches that need the models.

    Each node must see at least one file of each item of `files`.

    The maps differ only if the models run on GPUs: the first map then uses no GPU.
    """
    check = partial(
        check_same_models,
        spec=models.spec,
        device=models.device_to_load,
        sha256s=tuple(file.sha256 for file in models.files),
    )
    on_gpu = models.device_to_load in RAY_GPUS
    with_models = nodes.enter_context(open_cluster_pool(ray, start_worker, check, on_gpu, files))
    if not on_gpu:
        return with_models, with_models
    return nodes.enter_context(open_cluster_pool(ray, start_worker, files=files)), with_models


def _remove_leftovers(dataset: Path) -> None:
    """Removes the temporary files of a run that was killed."""
    for folder in ("faces", "embeddings"):
        remove_temporary_files(dataset / folder)
    for path in [
        path for path in dataset.glob(".*.tmp") if path.is_file()
    ]:  # temporary files of the key and of the card
        path.unlink()


def _record_lists(ledger: Ledger, lists: Lists | None) -> list[str]:
    """Records what imported lists contain about each photo. Returns notices about the lists."""
    if lists is None:
        return []
    rows, notices = match_lists(lists, ledger.read_rows(File))
    ledger.record("lists", "all", {}, rows, replace=(ListEntry,))
    return [*lists.notices, *notices]


def _record_filters(ledger: Ledger, filters: FilterSet) -> None:
    """Checks the filters, and records them before a filter drops a face.

    A later run with different filters replaces a recorded reason if the reason belongs to a recorded filter.
    """
    check_filters(filters)
    ledger.record("filters", filters.name, filters, detail=asdict(filters))


def _record_settings(ledger: Ledger, config: CurateConfig, models: FaceModels) -> None:
    """Records the settings of this run.

    `likeness decide` groups, splits and pairs the faces again with these settings.
    """
    # The limit of the memory holds for this run alone.
    settings = {"config": asdict(replace(config, memory=None)), "same_person": models.same_person}
    ledger.record("settings", "all", settings, detail=settings)
