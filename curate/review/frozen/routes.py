"""The pages of the frozen sets: each low-quality image beside its target and its references."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from curate.review.frozen.set_images import find_lq_file, list_sets, read_images
from curate.review.pictures.own_size import answer_png, encode_file
from curate.review.web.pages import get_session, render
from curate.review.web.paging import make_paging
from curate.review.web.reading import find_face, open_ledger
from manifests.ledger.paths import crop_path

NAVIGATION = [("/sets", "Frozen sets")]
_IMAGES = 20  # Number of images on a page (ours).
_CROP = 512  # Side of a crop in pixels.


def show_sets(request: Request) -> Response:
    """The list of the frozen sets, and the images of the chosen set. Without a choice, the first set is shown."""
    session = get_session(request)
    session.read()
    name = request.query_params.get("set")
    with open_ledger(request) as ledger:
        sets = list_sets(ledger)
        chosen = next((one for one in sets if one.lq_set == name), sets[0] if sets else None)
        if name is not None and (chosen is None or chosen.lq_set != name):
            raise HTTPException(404)
        paging = make_paging(request, chosen.images if chosen else 0, _IMAGES)
        images = read_images(ledger, chosen.lq_set, paging.start, _IMAGES) if chosen else []
    return render(request, "sets.html.j2", sets=sets, chosen=chosen, images=images, paging=paging)


def send_lq(request: Request) -> Response:
    """Sends an image of a frozen set at its own size."""
    face = find_face(request, request.path_params["face"])
    with open_ledger(request) as ledger:
        found = find_lq_file(ledger, request.path_params["lq_set"], face.face_id)
    return answer_png(None if found is None else encode_file(found[0]))


def send_crop(request: Request) -> Response:
    """Sends the crop of a face. The crop is resized by area averages to the side that the path names."""
    session = get_session(request)
    face, side = request.path_params["face"], request.path_params["side"]
    if not 16 <= side <= _CROP:
        raise HTTPException(404)
    return answer_png(encode_file(crop_path(session.dataset, find_face(request, face).face_id), side))


ROUTES = [
    Route("/sets", show_sets),
    Route("/picture/lq/{lq_set}/{face}.png", send_lq),
    Route("/picture/crop/{side:int}/{face}.png", send_crop),
]
