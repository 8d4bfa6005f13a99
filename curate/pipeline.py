"""The stages of curation as a list. Each maps batches of rows to rows; this process alone writes the ledger.

scan -> consent -> label -> detect -> screen -> embed -> keep out -> dedupe -> group -> split -> pair -> check
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from curate.config import CurateConfig
from curate.detection.detect import resolved, start_worker
from curate.detection.stages import choose_faces, detect, embed, scan, screen, with_models
from curate.faces.interface import FaceModels
from curate.imports.lists import Lists, rows_of
from curate.options import check_options
from curate.people.group import group_faces
from curate.people.near_duplicates import mark_near_duplicates
from curate.people.pairs import pair_faces
from curate.people.splits import PHOTO_SPANS_SPLITS, check_policy, check_splits, split_faces
from curate.people.stages import label
from curate.photos.consent import consent
from curate.photos.optout_faces import keep_out
from manifests.card import write_card
from manifests.ledger.filters import check_filters
from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import LEDGER_NAME
from manifests.ledger.records import Face, File, ListEntry, Membership, Pair, Photo, Split
from manifests.privacy.keys import ensure_key
from manifests.runtime.files import remove_temporary_files
from manifests.runtime.images import NOTICE_MEANINGS
from manifests.runtime.progress import Progress
from manifests.runtime.text import format_count
from manifests.runtime.workers import open_pool


@dataclass(frozen=True)
class Summary:
    """What a curation run leaves behind."""

    faces_from: str
    files: dict[str, int]  # status or reason -> files
    photos: dict[str, int]
    faces: dict[str, int]
    identities: int  # people with two photos or more
    alone: int  # people with one photo
    largest: int
    pairs: dict[str, int]  # split -> targets with references
    set_aside: int  # faces in splits that were set aside
    threshold: float  # cosine from which two lone faces are one person, or the mean cosine that was asked for
    false_match_rate: float  # the estimated share of pairs of strangers above it
    notices: tuple[str, ...]
    unpaired: dict[str, int] = field(default_factory=dict)  # reason -> faces in splits that are no targets


def curate(
    photos: Sequence[Path],
    dataset: Path,
    config: CurateConfig,
    workers: int | None = None,
    progress: Progress = lambda *_: None,
    lists: Lists | None = None,
) -> Summary:
    """Curate every file under `photos` into the dataset folder; the same call again resumes where it ended.

    `workers` processes stand what the files do to them; None works in this one, where a photo that hangs hangs it.
    `lists` say who is in the photos, in which split they are and which references are of which; they are recorded, in
    place of lists that were imported before, and hold on every later run. Raises BadInput, LedgerError or
    FaceModelError; every unit that was finished before stays recorded.
    """
    check_options(photos, dataset, config, workers)
    if not (dataset / LEDGER_NAME).exists():
        resolved(config.faces)  # models that cannot be had leave no dataset behind
    with Ledger.open(dataset, write=True) as ledger, open_pool(workers, start_worker) as run:
        ensure_key(ledger)
        check_policy(ledger.read_rows(Split), config.split)
        for folder in ("faces", "embeddings"):
            remove_temporary_files(ledger.dataset / folder)
        for left in [path for path in ledger.dataset.glob(".*.tmp") if path.is_file()]:  # of the key, of the card
            left.unlink()
        notices = scan(ledger, photos, run, progress)
        notices += consent(ledger, config.sidecar, photos, config.require_consent)
        if lists is not None:
            rows, said = rows_of(lists, ledger.read_rows(File))
            ledger.record("lists", "all", {}, rows, replace=(ListEntry,))
            notices += [*lists.notices, *said]
        label(ledger, config)
        models = choose_faces(ledger, config.faces)
        config = with_models(config, models)
        check_filters(config.screen)
        # noted before a face is given one of its reasons, so that a later run knows whose reason that was
        ledger.record("filters", config.screen.name, config.screen, detail=asdict(config.screen))
        detect(ledger, config, models, run, progress)
        screen(ledger, config, run, progress)
        embed(ledger, config, models, run, progress)
        keep_out(ledger, models)
        # from here on `likeness decide` does as this run was told
        told = {"config": asdict(config), "same_person": models.same_person}
        ledger.record("settings", "all", told, detail=told)
        mark_near_duplicates(ledger, config, models)
        group_faces(ledger, config, progress)
        notices += split_faces(ledger, config)
        notices += pair_faces(ledger, config)
        check_splits(ledger.read_rows(Face), ledger.read_rows(Split))
        summary = summarise(ledger, models, notices)
    write_card(dataset)
    return summary


def summarise(ledger: Ledger, models: FaceModels, told: Sequence[str] = ()) -> Summary:
    """Count what the ledger now holds; `told` is what the stages of this run had to say."""
    faces = ledger.read_rows(Face)
    photo_of = {face.face_id: face.photo_id for face in faces}
    sizes = Counter(
        person
        for person, _ in {(member.identity_id, photo_of[member.face_id]) for member in ledger.read_rows(Membership)}
    )
    splits, pairs, paired = ledger.read_rows(Split), ledger.read_rows(Pair), ledger.read_detail("pair")
    people = sum(size > 1 for size in sizes.values())
    by_split = Counter(row.split for row in pairs)
    notices = [
        *models.notices,
        *(said for stage in ("label", "group") for said in ledger.read_detail(stage).get("notices", ())),
        *told,
    ]
    photo_notices = Counter(photo.notice for photo in ledger.read_rows(Photo))
    notices += [
        f"{format_count(photo_notices[notice], 'photo')} {meaning}."
        for notice, meaning in NOTICE_MEANINGS.items()
        if photo_notices[notice]
    ]
    files = _count(ledger.read_rows(File))
    if not files:
        notices.append("No file was found: name a folder that holds photos.")
    elif not faces:
        notices.append("No face was found in any photo: look at `likeness manifest show` for the reasons.")
    elif not pairs and people:
        notices.append(
            f"No face has the references that --pairs {paired['policy']} --min-photos {paired['min_photos']} "
            f"--min-references {paired['min_references']} asks for: ask for less, or look at what was set aside."
        )
    elif not pairs:
        notices.append("No person has two usable photos, so there are no reference pairs to train or test on.")
    elif splits and splits[0].policy == "identity" and people < 3:
        # `likeness manifest import` has no --split-by
        instead = (
            "name the lists of the splits with --split-lists"
            if ledger.read_rows(ListEntry)
            else "say --split-by photos for a personal restorer"
        )
        notices.append(
            f"Only {people} {'person has' if people == 1 else 'people have'} two photos or more, too few for train, "
            f"val and test by identity: {instead}."
        )
    if paired["policy"] == "window" and models.spec == "dlib":
        notices.append(
            "--pairs window is in distances of ArcFace, dlib's are far smaller: say window:LOW-HIGH instead."
        )
    return Summary(
        faces_from=models.spec,
        files=files,
        photos=_count(ledger.read_rows(Photo)),
        faces=_count(faces),
        identities=people,
        alone=sum(size == 1 for size in sizes.values()),
        largest=max(sizes.values(), default=0),
        pairs={name: by_split.get(name, 0) for name in ("train", "val", "test")},
        set_aside=sum(row.reason == PHOTO_SPANS_SPLITS for row in splits),
        threshold=float(ledger.read_detail("group")["threshold"]),
        false_match_rate=float(ledger.read_detail("group")["false_match_rate"]),
        notices=tuple(notices),
        unpaired=paired["left_out"],
    )


def _count(rows: Sequence[Any]) -> dict[str, int]:
    return dict(sorted(Counter(row.reason or row.status for row in rows).items()))
