"""A double of a hub of datasets, which huggingface_hub asks over HTTP. The double answers only on 127.0.0.1."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import huggingface_hub.constants
import pytest

import manifests.stores.requests
from tests.doubles.stores import Server, serve

DATASET, COMMIT = "owner/photos", "c" * 40


def _describe(path: str, data: bytes) -> dict[str, object]:
    return {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}


@contextmanager
def serve_hub(files: dict[str, bytes], token: str) -> Iterator[Server]:
    """Serves the dataset DATASET with these files. Each request must have the token."""

    def answer(request: BaseHTTPRequestHandler) -> tuple[int, dict[str, str], bytes]:
        if request.headers.get("Authorization") != f"Bearer {token}":
            return 401, {}, b""
        path = unquote(urlsplit(request.path).path)
        api, tree, info, resolve = (
            f"/api/datasets/{DATASET}",
            f"/api/datasets/{DATASET}/tree/{COMMIT}",
            f"/api/datasets/{DATASET}/paths-info/{COMMIT}",
            f"/datasets/{DATASET}/resolve/{COMMIT}/",
        )
        head = {"X-Repo-Commit": COMMIT, "Content-Type": "application/json"}
        if path in (api, f"{api}/revision/main", f"{api}/revision/{COMMIT}"):
            return 200, head, json.dumps({"id": DATASET, "sha": COMMIT, "siblings": []}).encode()
        if path.startswith(tree) or path.startswith(tree.replace(COMMIT, "main")):
            below = path.partition("/tree/")[2].partition("/")[2]
            depth = len(Path(below).parts)
            inside = {name: Path(name).parts[depth:] for name in files if Path(below) in Path(name).parents}
            is_recursive = "recursive=true" in request.path.lower()
            found = [_describe(name, files[name]) for name, parts in inside.items() if is_recursive or len(parts) == 1]
            folders = {Path(below, parts[0]).as_posix() for parts in inside.values() if len(parts) > 1}
            found += [{"type": "directory", "path": name, "oid": "0" * 40} for name in sorted(folders)]
            return (200, head, json.dumps(found).encode()) if found else (404, {"X-Error-Code": "EntryNotFound"}, b"")
        if path in (info, info.replace(COMMIT, "main")):
            body = request.body.decode()  # type: ignore[attr-defined]
            asked = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body)["paths"]
            found = [_describe(name, files[name]) for name in asked if name in files]
            found += [
                {"type": "directory", "path": name, "oid": "0" * 40}
                for name in asked
                if any(other.startswith(f"{name}/") for other in files)
            ]
            return 200, head, json.dumps(found).encode()
        name = path.replace("/main/", f"/{COMMIT}/").removeprefix(resolve)
        if name in files:
            return 200, {**head, "ETag": f'"{hashlib.sha1(files[name]).hexdigest()}"'}, files[name]
        return 404, {"X-Error-Code": "EntryNotFound"}, b""

    with pytest.MonkeyPatch.context() as patch, serve(answer) as server:
        template = huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE
        template = template.replace(huggingface_hub.constants.ENDPOINT, server.address)
        patch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.setattr(huggingface_hub.constants, "ENDPOINT", server.address)
        patch.setenv("HF_TOKEN", token)
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        manifests.stores.requests._make_store.cache_clear()
        try:
            yield server
        finally:
            manifests.stores.requests._make_store.cache_clear()
