"""The page of the results of runs.

For each image, a slider compares LQ, restored and truth. The worst image comes first.
"""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from curate.review.pictures.own_size import answer_png, encode_file
from curate.review.runs.restored_routes import list_restored_folders, name_folder
from curate.review.runs.run_results import (
    Result,
    count_images,
    find_image,
    list_images,
    list_run_folders,
    read_results,
)
from curate.review.web.pages import render
from curate.review.web.paging import make_paging
from curate.review.web.reading import find_face, open_ledger
from manifests.ledger.decisions.applied_decisions import read_unapplied_decisions
from manifests.ledger.decisions.decision_log import CONSENT_KIND, read_decisions
from manifests.ledger.decisions.in_force import select_in_force
from manifests.ledger.ledger import Ledger
from manifests.ledger.queries import read_set_sizes
from manifests.privacy.erase import CONSENT_REFUSALS
from manifests.runtime.files import hash_config

NAVIGATION = [("/runs", "Results")]
_IMAGES = 20  # number of images on a page (ours)


def show_runs(request: Request) -> Response:
    """Sends the page of one result. The page shows the images of one system, in the order of one metric."""
    results, sentences, sizes = _read(request)
    with open_ledger(request) as ledger:
        restored = [(name_folder(folder), folder.name) for folder in list_restored_folders(request, ledger)]
    query = request.query_params
    result = next((one for one in results if _name(one) == query.get("result")), results[0] if results else None)
    if result is None:
        return render(request, "runs.html.j2", results=[], sentences=sentences, result=None, restored=restored)
    system = query.get("system", "") if query.get("system") in result.systems else result.first_system
    metric = query.get("metric", "") if query.get("metric") in result.metrics else result.first_metric
    paging = make_paging(request, count_images(result, system), _IMAGES)
    return render(
        request, "runs.html.j2", results=[(_name(one), one) for one in results], sentences=sentences,
        result=result, name=_name(result), system=system, metric=metric, paging=paging, size=sizes[result.lq_set],
        images=list_images(result, system, metric, paging.start, _IMAGES), number=list(result.systems).index(system),
        restored=restored,
    )  # fmt: skip


def send_restored(request: Request) -> Response:
    """Sends a restored image at its own size. The path names a result and the number of one of its systems.

    No record says which references were used for an image. The server therefore sends no image while a decision about
    consent waits to be applied. When a refusal is applied, Likeness erases all these images.
    """
    path = request.path_params
    with open_ledger(request) as ledger:
        if _has_open_consent(ledger):
            raise HTTPException(404)
    result = next((one for one in _read(request)[0] if _name(one) == path["result"]), None)
    if result is None or path["system"] >= len(result.systems):
        raise HTTPException(404)
    face = find_face(request, path["face"])
    file = find_image(result, list(result.systems)[path["system"]], face.face_id)
    return answer_png(None if file is None else encode_file(file))


def _read(request: Request) -> tuple[list[Result], list[str], dict[str, int]]:
    with open_ledger(request) as ledger:
        folders = list_run_folders(ledger, request.app.state.runs)
        return (*read_results(ledger, folders), read_set_sizes(ledger))


def _has_open_consent(ledger: Ledger) -> bool:
    """Returns True if an unapplied decision refuses consent, or undoes an applied decision about consent."""
    waiting = read_unapplied_decisions(ledger)
    if not any(one.kind in (CONSENT_KIND, "undo") for one in waiting):
        return False
    log, open_numbers = read_decisions(ledger), {one.number for one in waiting}
    applied = {one.number for one in log if one.kind == CONSENT_KIND} - open_numbers
    consents = [one for one in select_in_force(log) if one.kind == CONSENT_KIND]
    refusals = {one.number for one in consents if one.name in CONSENT_REFUSALS}
    return bool(refusals & open_numbers) or any(one.undoes in applied for one in waiting)


def _name(result: Result) -> str:
    """Returns a name that stands for a result in links. The server accepts no path from the browser."""
    return hash_config([str(result.folder.resolve()), result.stem])[:16]


ROUTES = [
    Route("/runs", show_runs),
    Route("/picture/restored/{result}/{system:int}/{face}.png", send_restored),
]
