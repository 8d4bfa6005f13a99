"""The page of the photos that `likeness restore` wrote, each under a slider with the photo before the restoration."""

from __future__ import annotations

from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from curate.review.pictures.own_size import answer_png, encode_bytes, encode_file
from curate.review.runs.restored_photos import UNKNOWN, find_restored_folders, read_restored_photos
from curate.review.runs.run_results import list_run_folders
from curate.review.web.pages import render
from curate.review.web.paging import make_paging
from curate.review.web.reading import open_ledger
from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import crop_path
from manifests.ledger.queries import read_set_sizes
from manifests.runtime.archives import ArchiveError, read_bytes
from manifests.runtime.files import hash_config, sha256_bytes

NAVIGATION: list[tuple[str, str]] = []
_PHOTOS = 10  # number of photos on a page (ours)


def name_folder(folder: Path) -> str:
    """Returns a name that stands for a folder in links. The server accepts no path from the browser."""
    return hash_config(str(folder.resolve()))[:16]


def show_restored(request: Request) -> Response:
    """The restored photos of one folder."""
    with open_ledger(request) as ledger:
        folder = _find_folder(request, ledger)
        photos = read_restored_photos(ledger, folder)
        paging = make_paging(request, len(photos), _PHOTOS)
        sizes = read_set_sizes(ledger)
    return render(
        request, "restored.html.j2", folder=folder.name, name=name_folder(folder), paging=paging, sizes=sizes,
        photos=list(enumerate(photos[paging.start : paging.end], paging.start)), unknown=UNKNOWN,
    )  # fmt: skip


def send_photo(request: Request) -> Response:
    """Sends a photo before its restoration, the restored photo, or the target of the photo.

    The path has the number of the photo on the page.
    """
    path = request.path_params
    with open_ledger(request) as ledger:
        photos = read_restored_photos(ledger, _find_folder(request, ledger))
        if path["number"] >= len(photos):
            raise HTTPException(404)
        photo, dataset = photos[path["number"]], ledger.dataset
        side = read_set_sizes(ledger)[photo.lq[0]] if photo.lq else None
    data = None
    if path["when"] in photo.pictures:
        match path["when"], photo.lq, photo.before:
            case "restored", _, _:
                data = encode_file(photo.file)
            case "lq", (lq_set, face), _:
                data = encode_file(dataset / "lq" / lq_set / f"{face}.png")
            case "truth", (_, face), _:
                data = encode_file(crop_path(dataset, face), side)
            case "lq", _, (uri, sha256):
                data = _read_known(uri, sha256)
    return answer_png(data)


def _read_known(uri: str, sha256: str) -> bytes | None:
    """Returns a file of the dataset as PNG, or None if the file is gone or does not have its recorded hash."""
    try:
        data = read_bytes(uri)
    except (OSError, ValueError, ArchiveError):
        return None
    return encode_bytes(data) if sha256_bytes(data) == sha256 else None


def list_restored_folders(request: Request, ledger: Ledger) -> list[Path]:
    """Returns the folders of `likeness restore` in the dataset, and in the folders that the command line names."""
    return find_restored_folders([ledger.dataset, *list_run_folders(ledger, request.app.state.runs)])


def _find_folder(request: Request, ledger: Ledger) -> Path:
    """Returns the folder that the request names. Raises HTTPException 404 if there is no such folder."""
    name = request.path_params.get("folder") or request.query_params.get("folder")
    for folder in list_restored_folders(request, ledger):
        if name_folder(folder) == name:
            return folder
    raise HTTPException(404)


ROUTES = [
    Route("/restored", show_restored),
    Route("/picture/photo/{folder}/{number:int}/{when}.png", send_photo),
]
