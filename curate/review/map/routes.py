"""The page with the map of all faces. A lasso selects faces, and the page of the selection shows them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from curate.review.map.face_map import FaceMap, compute_map, read_key, read_map
from curate.review.web.background import answer_status
from curate.review.web.pages import answer_part, get_session, read_json, render
from curate.review.web.reading import find_face, find_owners, open_ledger

NAVIGATION = [("/map", "Map")]
_MOST_BYTES = 16 * 2**20  # The largest size of a request with a selection, in bytes (ours). Two million rows fit.
_HUES, _ALONE = 360, 360  # The number of hues, and the number that is sent as the hue of a person with one face.
_GOLDEN = (5**0.5 - 1) / 2  # The step from the hue of a person to the next hue, in turns of the colour circle.


def show_map(request: Request) -> Response:
    """Sends the page of the map. If there is no map yet, starts the computation of the map in the background."""
    key, face_map = _find_map(request)
    job = request.app.state.jobs.find(compute_map)
    if face_map is None:
        job.start(key, get_session(request).dataset)
    faces = 0 if face_map is None else len(face_map.face_ids)
    return render(request, "map.html.j2", key=key, ready=face_map is not None, faces=faces, progress=job.read(key)[0])


def read_progress(request: Request) -> Response:
    """Sends the progress of the computation of a map."""
    return answer_status(request.app.state.jobs.find(compute_map).read(request.query_params.get("key", ""))[0])


def send_points(request: Request) -> Response:
    """Sends the faces of the map as little-endian uint16 (n, 3): x, y, and the hue of the person.

    The hue is from 0 to 359. The value 360 means that the face belongs to nobody, or that its person has no other face.
    """
    face_map = _require_map(request)
    owners = find_owners(request, face_map.face_ids)
    several = sorted({owner.identity_id for owner in owners if owner is not None and owner.faces > 1})
    hue_of = {identity_id: round(number * _HUES * _GOLDEN) % _HUES for number, identity_id in enumerate(several)}
    hues = [_ALONE if owner is None else hue_of.get(owner.identity_id, _ALONE) for owner in owners]
    hue = np.array(hues, np.uint16).reshape(-1, 1)
    points = np.concatenate([face_map.places, hue], axis=1).astype("<u2")
    return Response(points.tobytes(), media_type="application/octet-stream")


def read_face(request: Request) -> Response:
    """Sends the id of the face in a row of the map, and the title of the face's person.

    Sends the status 404 if no picture of the face may be shown.
    """
    (face,) = _select_faces(_require_map(request), [int(request.path_params["row"])])
    find_face(request, face)
    (owner,) = find_owners(request, [face])
    return JSONResponse({"face": face, "person": owner.title if owner else "no person"})


async def select_faces(request: Request) -> Response:
    """Stores the rows that a lasso selected, and sends the link to the page of the selection."""
    body = await read_json(request, _MOST_BYTES)
    rows = body.get("rows") if isinstance(body, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, int) and not isinstance(row, bool) for row in rows):
        raise HTTPException(400, "The selection must be a list of rows of the map.")
    face_map = await run_in_threadpool(_require_map, request)
    faces = _select_faces(face_map, rows)
    return JSONResponse({"link": f"/selection?name={request.app.state.selections.add(faces)}", "faces": len(faces)})


def show_selection(request: Request) -> Response:
    """Sends the page with the faces that a lasso selected."""
    _find_selection(request)
    return render(request, "selection.html.j2", name=request.query_params["name"])


def list_selection(request: Request) -> Response:
    """Sends a part of the selected faces. Faces that are not used any more are left out.

    The person with the most selected faces comes first.
    """
    session = get_session(request)
    faces = _find_selection(request)
    with session.lock:
        view = session.read()
        owner = {face: view.people.identity_of[face] for face in faces if face in view.people.identity_of}
        sizes = Counter(owner.values())
        rows = sorted(owner, key=lambda face: (-sizes[owner[face]], owner[face], face))

        def describe(face: str) -> dict[str, Any]:
            person = owner[face]
            return {**view.describe_face(face), "person": person, "title": view.people.identities[person].name}

        return answer_part(request, rows, describe, people=len(sizes))


def _find_selection(request: Request) -> tuple[str, ...]:
    faces: tuple[str, ...] | None = request.app.state.selections.find(request.query_params.get("name", ""))
    if faces is None:
        raise HTTPException(404, "This selection is gone. Select the faces on the map again.")
    return faces


def _select_faces(face_map: FaceMap, rows: list[int]) -> list[str]:
    if not all(0 <= row < len(face_map.face_ids) for row in rows):
        raise HTTPException(400, "The selection has rows that the map does not have. Load the page again.")
    return [face_map.face_ids[row] for row in sorted(set(rows))]


def _find_map(request: Request) -> tuple[str, FaceMap | None]:
    """Returns the key of the present map, and the map if it was computed."""
    session = get_session(request)
    with open_ledger(request) as ledger:
        key, face_ids = read_key(ledger)
    face_map = read_map(session.dataset, key, face_ids)
    if face_map is None:  # if the map could not be stored, the map is only in memory
        _, places = request.app.state.jobs.find(compute_map).read(key)
        face_map = None if places is None else FaceMap(face_ids, places)
    if face_map is not None:
        request.app.state.face_map = (key, face_map)
    return key, face_map


def _require_map(request: Request) -> FaceMap:
    """Returns the map whose key is in the request. The map that a page showed last is in memory."""
    wanted = request.query_params.get("key")
    key, face_map = request.app.state.face_map
    if key != wanted:
        key, face_map = _find_map(request)
    if face_map is None or key != wanted:
        raise HTTPException(409, "The faces have changed since the map was drawn. Load the page again.")
    return face_map


ROUTES: list[Any] = [
    Route("/map", show_map),
    Route("/api/map/progress", read_progress),
    Route("/api/map/points", send_points),
    Route("/api/map/face/{row:int}", read_face),
    Route("/api/map/selection", select_faces, methods=["POST"]),
    Route("/selection", show_selection),
    Route("/api/selection", list_selection),
]
