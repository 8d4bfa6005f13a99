"""DATASET/report/index.html, from the ledger and any run folders. Imports nothing of ours above the ledger."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from manifests.errors import BadInput
from manifests.ledger import Ledger, now
from manifests.report.pictures import curve, histogram, thumbnail, whole
from manifests.storage import crop_path, write_atomically

PEOPLE = 12  # contact sheets, largest first
FACES = 12  # faces a contact sheet
UNCERTAIN = 24
PAIRS = 8
DEGRADED = 12
GRIDS = 2  # newest sample grids a run

# what the reasons in the ledger mean, for a reader who does not know the code
REASONS = {
    "same_file": "the same file again",
    "empty_file": "an empty file",
    "not_an_image": "not an image",
    "too_many_pixels": "more pixels than a photo has",
    "truncated": "cut short",
    "broken_image": "a broken image",
    "no_face": "no face found",
    "too_small": "too few pixels between the eyes",
    "low_score": "the detector was not sure",
    "cut_by_border": "cut by the photo's border",
    "turned_away": "turned too far away",
    "too_blurred": "too blurred",
    "too_dark": "too dark",
    "too_bright": "too bright",
    "near_duplicate": "the same picture again",
    "photo_spans_splits": "the photo also shows a person of another split",
}


def build_report(dataset: Path, runs: Sequence[Path] = ()) -> Path:
    """Write the page and answer where it lies. Raises LedgerMissing without a ledger, BadInput for what is no run."""
    for run in runs:
        if not (run / "config.json").is_file():
            raise BadInput(f"{run} is no training run: name a folder that `likeness train --out` made.")
    with Ledger.open(dataset) as ledger:
        facts = {
            "name": dataset.resolve().name,
            "made": now().strftime("%Y-%m-%d %H:%M UTC"),
            "funnel": _funnel(ledger),
            "models": ledger.query("SELECT role, file, spec, licence, sha256 FROM models ORDER BY role, file").rows(
                named=True
            ),
            "people": _people(ledger, dataset),
            "uncertain": _uncertain(ledger, dataset),
            "histogram": _histogram(ledger),
            "group": ledger.detail("group"),
            "splits": _splits(ledger),
            "pairs": _pairs(ledger, dataset),
            "degraded": _degraded(ledger, dataset),
        }
    facts["runs"] = [_run(run) for run in runs]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("manifests.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template("template.html.j2").render(facts)
    path = dataset / "report" / "index.html"
    write_atomically(path, page.encode("utf-8"))
    return path


def _funnel(ledger: Ledger) -> list[dict[str, Any]]:
    """Files, photos and faces: how many there were, how many went on, and why the others did not."""
    steps = []
    for table, title in (("files", "Files offered"), ("photos", "Distinct photos"), ("faces", "Faces found")):
        rows = ledger.query(
            f"""SELECT coalesce(reason, status) AS why, status, count(*) AS n
                FROM {table} GROUP BY ALL ORDER BY n DESC, why"""
        ).rows(named=True)
        total, kept = sum(row["n"] for row in rows), sum(row["n"] for row in rows if row["status"] == "ok")
        lost = [
            {"why": REASONS.get(row["why"], row["why"].replace("_", " ")), "n": row["n"]}
            for row in rows
            if row["status"] != "ok"
        ]
        steps.append({"title": title, "total": total, "kept": kept, "lost": lost, "share": 100 * kept / max(total, 1)})
    return steps


def _in_plain(code: str) -> str:
    return REASONS.get(code, code.replace("_", " "))


def _people(ledger: Ledger, dataset: Path) -> list[dict[str, Any]]:
    largest = ledger.query(
        """SELECT m.identity_id, i.name, count(*) AS n, min(confidence) AS weakest, any_value(s.split) AS split
           FROM memberships m LEFT JOIN identities i USING (identity_id) LEFT JOIN splits s USING (face_id)
           GROUP BY ALL HAVING n > 1 ORDER BY n DESC, m.identity_id LIMIT ?""",
        PEOPLE,
    ).rows(named=True)
    for person in largest:
        faces = ledger.query(
            """SELECT face_id, confidence FROM memberships WHERE identity_id = ?
               ORDER BY confidence DESC, face_id LIMIT ?""",
            person["identity_id"],
            FACES,
        ).rows()
        person["faces"] = [(thumbnail(crop_path(dataset, face), 96), f"{confidence:.2f}") for face, confidence in faces]
    return largest


def _uncertain(ledger: Ledger, dataset: Path) -> list[tuple[str, str, str]]:
    rows = ledger.query(
        """SELECT face_id, identity_id, margin FROM memberships
           WHERE identity_id IN (SELECT identity_id FROM memberships GROUP BY 1 HAVING count(*) > 1)
           ORDER BY margin, face_id LIMIT ?""",
        UNCERTAIN,
    ).rows()
    return [(thumbnail(crop_path(dataset, face), 96), identity, f"{margin:.2f}") for face, identity, margin in rows]


def _histogram(ledger: Ledger) -> str:
    detail = ledger.detail("group")
    if "histogram" not in detail:
        return ""
    found = detail["histogram"]
    return histogram(found["edges"], found["within"], found["between"], detail["threshold"])


def _splits(ledger: Ledger) -> list[dict[str, Any]]:
    return ledger.query(
        """SELECT s.split, count(DISTINCT s.identity_id) AS people, count(*) AS faces, count(p.target) AS targets,
                  count(*) FILTER (WHERE s.status <> 'ok') AS aside, bool_or(s.locked) AS locked
           FROM splits s LEFT JOIN pairs p ON p.target = s.face_id GROUP BY 1
           ORDER BY CASE s.split WHEN 'train' THEN 1 WHEN 'val' THEN 2 ELSE 3 END"""
    ).rows(named=True)


def _pairs(ledger: Ledger, dataset: Path) -> list[dict[str, Any]]:
    rows = ledger.query(
        "SELECT target, refs, similarities, split FROM pairs WHERE len(refs) > 0 ORDER BY hash(target) LIMIT ?", PAIRS
    ).rows()
    return [
        {
            "target": thumbnail(crop_path(dataset, target), 128),
            "split": split,
            "references": [
                (thumbnail(crop_path(dataset, ref), 128), f"{cosine:.2f}")
                for ref, cosine in zip(refs[:4], similarities[:4], strict=True)
            ],
        }
        for target, refs, similarities, split in rows
    ]


def _degraded(ledger: Ledger, dataset: Path) -> list[dict[str, Any]]:
    rows = ledger.query(
        """SELECT lq_set, face_id, theta FROM degradations
           QUALIFY row_number() OVER (PARTITION BY lq_set ORDER BY hash(face_id)) <= ? ORDER BY lq_set, face_id""",
        DEGRADED,
    ).rows()
    sets: dict[str, list[tuple[str, str, str]]] = {}
    for lq_set, face, theta in rows:
        image = (thumbnail(crop_path(dataset, face), 128), thumbnail(dataset / "lq" / lq_set / f"{face}.png", 128))
        sets.setdefault(lq_set, []).append((*image, _in_words(json.loads(theta))))
    return [{"name": name, "images": images} for name, images in sets.items()]


def _in_words(theta: dict[str, Any]) -> str:
    """θ in a line a step: the operation and its numbers."""
    lines = []
    for step in theta.get("steps", []):
        numbers = [
            f"{key} {value:.3g}" for key, value in step.items() if isinstance(value, int | float) and key != "seed"
        ]
        lines.append(f"{step.get('op', '?')} {', '.join(numbers)}".strip())
    return "\n".join(lines)


def _run(run: Path) -> dict[str, Any]:
    """Curves, the newest sample grids, and the evaluation, each empty where it is not there yet."""
    lines = _json_lines(run / "stats.jsonl")
    learned = [line for line in lines if line.get("kind") == "train"]
    looked = [line for line in lines if line.get("kind") == "val"]

    def series(rows: list[dict[str, Any]], key: str) -> list[tuple[float, float]]:
        return [(row["images"], row[key]) for row in rows if isinstance(row.get(key), int | float)]

    def versus(measure: str) -> dict[str, list[tuple[float, float]]]:
        names = {"references": "restored", "no reference": "alone", "LQ": "lq"}
        return {name: found for name, key in names.items() if (found := series(looked, f"{measure}_{key}"))}

    curves = [curve({key: series(learned, key)}, f"{key} loss") for key in ("pixel", "edge", "identity")]
    curves += [curve(versus("psnr"), "val PSNR, dB"), curve(versus("identity"), "val identity, by the loss's judge")]
    grids = sorted((run / "samples").glob("*.png"))[-GRIDS:]
    evaluations = [run / f"{name}.json" for name in ("evaluation", "evaluation-judge")]
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    return {
        "name": run.name,
        "config": config,
        "curves": [drawn for drawn in curves if drawn],
        "grids": [(grid.stem, whole(grid)) for grid in grids],
        "evaluations": [json.loads(path.read_text(encoding="utf-8")) for path in evaluations if path.is_file()],
    }


def _json_lines(path: Path) -> list[dict[str, Any]]:
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            found.append(json.loads(line))
        except ValueError:  # the line that a kill cut short
            continue
    return found
