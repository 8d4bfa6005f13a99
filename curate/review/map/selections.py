"""Keeps the faces that were selected on a page, so that another page can show them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

_KEPT = 50  # number of newest selections that are kept (ours)


class Selections:
    """The newest selections of faces, each with a name."""

    def __init__(self) -> None:
        self._faces: OrderedDict[str, tuple[str, ...]] = OrderedDict()
        self._lock, self._number = threading.Lock(), 0

    def add(self, faces: Sequence[str]) -> str:
        """Stores face ids, and returns the name of the selection."""
        with self._lock:
            self._number += 1
            self._faces[str(self._number)] = tuple(faces)
            while len(self._faces) > _KEPT:
                self._faces.popitem(last=False)
            return str(self._number)

    def find(self, name: str) -> tuple[str, ...] | None:
        """Returns the faces of a selection, or None if the selection is not kept any more."""
        with self._lock:
            return self._faces.get(name)
