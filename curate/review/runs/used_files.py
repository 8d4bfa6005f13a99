"""Finds the photos of the dataset that a restoration read: the restored photo and its references.

A file is recognized by its sha256, even if it was moved, copied or overwritten later. Logs of earlier versions have no
sha256. For these logs, a file is recognized by its path. The name of a crop and of an image of a frozen set is a face
id. A photo of the dataset can have a name of this form by chance.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from manifests.ledger.ledger import Ledger
from manifests.privacy.erase import SECRET_PHOTOS
from manifests.privacy.kept_out import find_kept_out_files
from manifests.runtime.uris import uri_of

_FILES = """
SELECT uri, sha256, photo_id FROM files
WHERE photo_id IS NOT NULL AND (uri IN (SELECT unnest($1::VARCHAR[])) OR sha256 IN (SELECT unnest($2::VARCHAR[])))
ORDER BY status <> 'ok', uri"""
_PHOTOS = "SELECT photo_id FROM photos WHERE photo_id IN (SELECT unnest($1::VARCHAR[]))"
_FACES = "SELECT face_id, photo_id FROM faces WHERE face_id IN (SELECT unnest($1::VARCHAR[]))"


@dataclass(frozen=True)
class UsedFile:
    """A file that a restoration read."""

    path: str
    sha256: str | None  # None if the log has no sha256 of the file

    @property
    def face_id(self) -> str | None:
        """The name of the file without its suffix, or None if this name has not the form of a face id."""
        stem = Path(self.path).stem
        return stem if re.fullmatch("[0-9a-f]{32}", stem) else None

    @property
    def frozen_image(self) -> tuple[str, str] | None:
        """The name of the frozen set and the face id, or None if the path has not the form lq/SET/FACE.png."""
        folder = Path(self.path).parent
        return (folder.name, self.face_id) if self.face_id is not None and folder.parent.name == "lq" else None


class KnownFiles:
    """What the ledger says about some files. The log of a folder of restored photos names these files."""

    def __init__(self, ledger: Ledger, files: Collection[UsedFile]) -> None:
        uris, hashes = [uri_of(one.path) for one in files], [one.sha256 for one in files if one.sha256 is not None]
        faces = [one.face_id for one in files if one.face_id is not None]
        # maps a uri or a sha256 to rows of the ledger (uri, sha256, photo id); the row of a file in use comes first
        self._files: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
        for row in ledger.query(_FILES, uris, hashes).iter_rows():
            for key in {row[0], row[1]} - {None}:
                self._files[key].append(row)
        self._photos = set(ledger.query(_PHOTOS, hashes)["photo_id"])
        self._photo_of: dict[str, str] = dict(ledger.query(_FACES, faces).iter_rows())
        self._images = set(ledger.query("SELECT lq_set, face_id FROM degradations").iter_rows())
        self._secret = set(ledger.query(SECRET_PHOTOS)["photo_id"])
        self._kept_out = find_kept_out_files(ledger, uris, hashes)

    def is_gone(self, file: UsedFile) -> bool:
        """Returns True if the pages must show neither the file nor its name.

        There are three such cases. A purge or an opt-out removed the photo. The frozen set does not have the image any
        more. The name has the form of a face id, but the ledger has neither the face nor the file.
        """
        if {uri_of(file.path), file.sha256} & self._kept_out:
            return True
        if file.frozen_image is not None and file.frozen_image not in self._images:
            return True
        return file.face_id is not None and not self._find_photos(file)

    def is_secret(self, file: UsedFile) -> bool:
        """Returns True if no picture that was made from the file may be shown."""
        return not self._secret.isdisjoint(self._find_photos(file))

    def find_before(self, file: UsedFile) -> tuple[str, str] | None:
        """Returns the uri and the sha256 of the file in the dataset, or None.

        The file in the dataset may have another path if it has the same sha256. If the log has no sha256, the path must
        be the same.
        """
        for uri, sha256, _ in self._find_rows(file):
            if file.sha256 in (None, sha256):
                return uri, sha256
        return None

    def _find_rows(self, file: UsedFile) -> list[tuple[str, str, str]]:
        return self._files.get(file.sha256 or "") or self._files.get(uri_of(file.path), [])

    def _find_photos(self, file: UsedFile) -> set[str]:
        named = {self._photo_of[file.face_id]} if file.face_id is not None and file.face_id in self._photo_of else set()
        if file.sha256 is not None and file.sha256 in self._photos:
            return {*named, file.sha256, *(photo for *_, photo in self._files.get(file.sha256, ()))}
        return named | {photo for *_, photo in self._find_rows(file)}
