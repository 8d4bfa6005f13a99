"""Collects the labels of photos, and makes the rows of the table `labels`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from curate.photos.labelling.xmp_people import Box
from manifests.ledger.decisions.face_finder import MIN_OVERLAP, measure_overlap
from manifests.ledger.records import Label
from manifests.runtime.text import format_count


@dataclass
class PhotoLabels:
    """The labels that one source gives to photos.

    A label without a box belongs to the largest face that has no label with a box.
    """

    boxes: dict[str, list[tuple[str, Box]]] = field(default_factory=lambda: defaultdict(list))  # Photo -> (label, box).
    whole: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # Photo -> labels without a box.
    placed: set[str] = field(default_factory=set)  # Photos whose metadata has a region, even if the region is not used.
    unused: Counter[str] = field(default_factory=Counter)  # Why regions are not used -> number of regions.

    def make_rows(self, truth: bool, is_metadata: bool) -> tuple[list[Label], list[str]]:
        """Returns the rows, sorted by photo, and notices about labels that are not used.

        Of several overlapping boxes with one label, the first box is used. Overlapping boxes with different labels are
        not used. If a photo has several labels without a box, no label without a box is used. If `is_metadata` is true,
        a label without a box is used only in a photo without regions, because metadata may name people who cannot be
        seen in the photo.
        """
        rows: list[Label] = []
        ambiguous: list[tuple[str, list[str]]] = []
        for photo in sorted({*self.boxes, *self.whole}):
            boxes = self._merge(self.boxes.get(photo, ()))
            whole = sorted(self.whole.get(photo, set()) - {label for label, _ in self.boxes.get(photo, ())})
            labels: list[tuple[str, Box | None]] = [*boxes]
            if is_metadata and (len(whole) > 1 or photo in self.placed):
                self.unused["without a place"] += len(whole)
            elif len(whole) > 1:
                ambiguous.append((photo, whole))
            else:
                labels += [(label, None) for label in whole]
            rows += [Label(photo, label, truth, number, box) for number, (label, box) in enumerate(labels)]
        return rows, [*_describe_ambiguous(ambiguous), *_describe_unused(self.unused)]

    def _merge(self, boxes: Iterable[tuple[str, Box]]) -> list[tuple[str, Box]]:
        places: list[list[tuple[str, Box]]] = []
        for label, box in boxes:
            place = next((place for place in places if measure_overlap(place[0][1], box) >= MIN_OVERLAP), None)
            if place is None:
                places.append([(label, box)])
            else:
                place.append((label, box))
        clear = [place[0] for place in places if len({label for label, _ in place}) == 1]
        self.unused["with several names at one place"] += len(places) - len(clear)
        return clear


def _describe_ambiguous(ambiguous: list[tuple[str, list[str]]]) -> list[str]:
    if not ambiguous:
        return []
    photo, labels = ambiguous[0]
    photos = "photo has" if len(ambiguous) == 1 else "photos have"
    return [
        f"{len(ambiguous)} {photos} several labels without a box, so these labels are not used. "
        f"For example, photo {photo[:12]} has {' and '.join(labels[:2])}."
    ]


def _describe_unused(unused: Counter[str]) -> list[str]:
    counts = [f"{count} {why}" for why, count in sorted(unused.items()) if count]
    if not counts:
        return []
    total = sum(unused.values())
    return [
        f"{format_count(total, 'name or region', 'names or regions')} {'is' if total == 1 else 'are'} not used: "
        f"{', '.join(counts)}."
    ]
