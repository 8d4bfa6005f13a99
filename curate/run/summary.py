"""Makes the summary of a curation run. The summary contains counts of the ledger's rows, and notices for the user."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from curate.config import AGE_POLICIES, MAX_SAME_AGE_YEARS, MIN_ACROSS_AGES_YEARS, PairRules
from curate.face_filters import OUTSIDE_PHOTO
from curate.faces.interface import FaceModels
from curate.people.pairing.pairs import TOO_FEW_PHOTOS, TOO_FEW_REFERENCES
from curate.people.rungs import count_rungs
from curate.people.split.faces_set_aside import PHOTO_SPANS_SPLITS
from manifests.ledger.leak_audit import STAGE
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import (
    DOUBTFUL_PERSON,
    SPLITS,
    Face,
    File,
    Identity,
    ListEntry,
    Membership,
    Pair,
    Photo,
    Split,
)
from manifests.pictures.extra_formats import EXTRAS
from manifests.pictures.images import NOTICE_MEANINGS
from manifests.runtime.text import format_count


@dataclass(frozen=True)
class Summary:
    """The content of a dataset after a curation run."""

    faces_from: str  # The face models, as --faces names them, for example dlib.
    files: dict[str, int]  # Status or reason -> number of files; `photos` and `faces` have the same form.
    photos: dict[str, int]
    faces: dict[str, int]
    identities: int  # Number of people with two photos or more. Doubtful people do not count.
    alone: int  # Number of people with one photo.
    largest: int  # Number of photos of the person with the most photos.
    pairs: dict[str, int]  # Split -> number of targets with references.
    set_aside: int  # Number of faces that are in no split because their photo shows people of several splits.
    # Two single faces are one person if their cosine is `threshold` or more. The option --same-person replaces the
    # threshold.
    threshold: float
    false_match_rate: float  # estimated share of the pairs of strangers that reach the threshold
    notices: tuple[str, ...]
    # Split -> (number of its faces that leak to another split, number of all its faces). `likeness leaks` lists the
    # leaks.
    leaking: dict[str, tuple[int, int]] = field(default_factory=dict)
    # Device -> number of faces with an embedding that the device computed.
    devices: dict[str, int] = field(default_factory=dict)
    rungs: dict[str, int] = field(default_factory=dict)  # Name of a filter set -> number of targets that pass the set.
    # Reason -> number of faces that are in a split and are not targets.
    unpaired: dict[str, int] = field(default_factory=dict)


def summarise(ledger: Ledger, models: FaceModels, notices: Sequence[str] = ()) -> Summary:
    """Returns the counts of the ledger's rows, and all notices. `notices` come from the stages of this run."""
    faces, photos = ledger.read_rows(Face), ledger.read_rows(Photo)
    photo_of = {face.face_id: face.photo_id for face in faces}
    doubtful = {person.identity_id for person in ledger.read_rows(Identity) if person.doubtful}
    members = {(member.identity_id, photo_of[member.face_id]) for member in ledger.read_rows(Membership)}
    photos_of_people = Counter(person for person, _ in members if person not in doubtful)
    splits, pairs, pairing = ledger.read_rows(Split), ledger.read_rows(Pair), ledger.read_detail("pair")
    files, leaks = _count(ledger.read_rows(File)), ledger.read_detail(STAGE)
    people = sum(count > 1 for count in photos_of_people.values())
    targets = Counter(row.split for row in pairs)
    all_notices = [
        *models.notices,
        *(notice for stage in ("label", "group") for notice in ledger.read_detail(stage).get("notices", ())),
        *notices,
        *_describe_accepted(ledger.read_detail("screen").get("kept_by_decision", 0)),
        *_describe_photos(photos),
        *_describe_kinds(files),
        *_describe_result(ledger, files, len(faces), people, splits, pairs),
    ]
    if pairing["policy"] == "window" and models.spec == "dlib":
        all_notices.append(
            "--pairs window uses distances of ArcFace, and dlib's distances are much smaller. Give window:LOW-HIGH."
        )
    return Summary(
        faces_from=models.spec,
        files=files,
        photos=_count(photos),
        faces=_count(faces),
        identities=people,
        alone=sum(count == 1 for count in photos_of_people.values()),
        largest=max(photos_of_people.values(), default=0),
        pairs={name: targets.get(name, 0) for name in SPLITS},
        set_aside=sum(row.reason == PHOTO_SPANS_SPLITS for row in splits),
        threshold=float(ledger.read_detail("group")["threshold"]),
        false_match_rate=float(ledger.read_detail("group")["false_match_rate"]),
        notices=tuple(merge_repeated(all_notices)),
        unpaired=pairing["left_out"],
        devices=dict(Counter(sorted(face.embedding_device for face in faces if face.embedding_device))),
        rungs=count_rungs(pairs, faces, {photo.photo_id: photo for photo in photos}, models.min_score),
        leaking={name: (count, leaks["faces_of"][name]) for name, count in leaks["leaking"].items()},
    )


def _describe_accepted(count: int) -> list[str]:
    """Returns a notice about the faces that decisions keep in use although a filter drops them.

    `count` is the number of these faces. Returns [] if `count` is 0.
    """
    return [f"Decisions overrule the filters and keep {format_count(count, 'face')} in use."] if count else []


def _describe_photos(photos: Sequence[Photo]) -> list[str]:
    """Returns a notice for each kind of decoding problem. The notice contains the number of photos."""
    counts = Counter(photo.notice for photo in photos)
    return [
        f"{format_count(counts[notice], 'photo')} {meaning}."
        for notice, meaning in NOTICE_MEANINGS.items()
        if counts[notice]
    ]


def _describe_kinds(files: dict[str, int]) -> list[str]:
    """Returns a notice for each kind of picture that needs a missing library.

    The notice contains the command that installs the library.
    """
    return [
        f"{format_count(files[reason], f'{name} picture')} {'was' if files[reason] == 1 else 'were'} not read, because "
        f"a library is missing. Install it with: pip install 'likeness[{extra}]', and run the same command again."
        for reason, (_, extra, name) in EXTRAS.items()
        if reason in files
    ]


def _describe_result(
    ledger: Ledger, files: dict[str, int], faces: int, people: int, splits: Sequence[Split], pairs: Sequence[Pair]
) -> list[str]:
    """Returns a notice if the dataset cannot be used for training and testing. `people` counts people with two photos
    or more.
    """
    if not files:
        return ["No file was found. Name a folder that contains photos."]
    if not faces:
        return ["No face was found in any photo. `likeness manifest show` lists the reasons."]
    if not pairs and people:
        return [describe_missing_targets(ledger.read_detail("pair"), splits)]
    if not pairs:
        return ["No person has two usable photos, so there are no reference pairs for training and testing."]
    if splits and splits[0].policy == "identity" and people < 3:
        # `likeness manifest import` has no option --split-by
        advice = (
            "Name the splits with --split-lists."
            if ledger.read_rows(ListEntry)
            else "For a personal restorer, give --split-by photos."
        )
        return [
            f"Only {people} {'person has' if people == 1 else 'people have'} two photos or more. Train, val and test "
            f"need at least three people. {advice}"
        ]
    return []


def describe_missing_targets(pairing: dict[str, Any], splits: Sequence[Split]) -> str:
    """Returns a notice about a dataset without targets. The notice advises only steps that can remove a cause.

    `pairing` is the detail that the stage `pair` recorded: the rules, and for each reason the number of faces that are
    not targets.
    """
    causes = Counter(pairing["left_out"])
    causes.update(row.reason for row in splits if row.reason in (PHOTO_SPANS_SPLITS, DOUBTFUL_PERSON))
    counts = ", ".join(f"{count} {reason}" for reason, count in causes.most_common() if count) or "no reason recorded"
    advice = []
    if causes[TOO_FEW_PHOTOS] and pairing["min_photos"] > PairRules.min_photos:
        advice.append(f"Give a number below {pairing['min_photos']} for --min-photos.")
    if causes[TOO_FEW_REFERENCES] and pairing["min_references"] > PairRules.min_references:
        advice.append(f"Give a number below {pairing['min_references']} for --min-references.")
    if causes[TOO_FEW_REFERENCES] and pairing["policy"].startswith("window"):
        advice.append(f"Give a wider window than --pairs {pairing['policy']}.")
    if causes[TOO_FEW_REFERENCES] and pairing["policy"] in AGE_POLICIES:
        apart = f"at most {MAX_SAME_AGE_YEARS:g}"
        if pairing["policy"] == "across-ages":
            apart = f"at least {MIN_ACROSS_AGES_YEARS:g}"
        advice.append(
            f"--pairs {pairing['policy']} needs two photos of a person, {apart} years apart, with dates that can be "
            "trusted. Give --pairs random."
        )
    if causes[OUTSIDE_PHOTO]:
        advice.append("Give --filters keep-outside.")
    return f"No face is a target: {counts}. {' '.join(advice) or 'Add photos that show one person each.'}"


def merge_repeated(notices: Sequence[str]) -> list[str]:
    """Returns each notice once, in the order of its first appearance. A notice that is repeated ends with a count."""
    return [notice if count == 1 else f"{notice} ({count} times)" for notice, count in Counter(notices).items()]


def _count(rows: Sequence[Any]) -> dict[str, int]:
    return dict(sorted(Counter(row.reason or row.status for row in rows).items()))
