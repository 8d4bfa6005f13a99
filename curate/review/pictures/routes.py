"""Sends the thumbnails of faces, and small pictures of photos."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from curate.review.pictures.own_size import encode_photo
from curate.review.pictures.thumbnails import read_thumbnail
from curate.review.unused.unused_items import may_show_photos
from curate.review.web.pages import get_session
from curate.review.web.reading import find_face, open_ledger

NAVIGATION: list[tuple[str, str]] = []
# Selects a file of a photo. The boxes of the faces of the photo were measured in the pixels of this file.
_FILE = """
SELECT arg_min(coalesce(u.sha256, u.photo_id), u.uri) AS sha256, min(u.uri) AS uri
FROM photos p JOIN files u USING (photo_id)
WHERE p.photo_id = ? AND u.samples IS NOT DISTINCT FROM p.samples AND u.orientation IS NOT DISTINCT FROM p.orientation
    AND NOT starts_with(u.uri, 'hmac:')"""


def send_face(request: Request) -> Response:
    """Sends the thumbnail of a face of the ledger. A face without a crop is cut out of its photo."""
    session = get_session(request)
    face = find_face(request, request.path_params["face"])
    data = read_thumbnail(session.dataset, face, not session.read_only)
    return _answer(data or _read_photo(request, face.photo_id, face.box))


def send_photo(request: Request) -> Response:
    """Sends a small picture of a photo of the ledger."""
    return _answer(_read_photo(request, request.path_params["photo"], None))


def _read_photo(request: Request, photo_id: str, box: tuple[float, ...] | None) -> bytes | None:
    with open_ledger(request) as ledger:
        if not may_show_photos(ledger, [photo_id]):
            return None
        sha256, uri = ledger.query(_FILE, photo_id).row(0)
    return None if uri is None else encode_photo(uri, sha256, box)


def _answer(data: bytes | None) -> Response:
    if data is None:
        raise HTTPException(404)
    return Response(data, media_type="image/webp")


ROUTES = [Route("/picture/face/{face}.webp", send_face), Route("/picture/photo/{photo}.webp", send_photo)]
