"""DATASET/report/index.html, from the ledger and any run folders. Imports nothing of ours above the ledger."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from manifests.errors import BadInput
from manifests.ledger.decision_log import find_undos, parse_decision
from manifests.ledger.ledger import Ledger, utc_now
from manifests.ledger.paths import crop_path
from manifests.ledger.records import DecisionRow, Label
from manifests.report.cleaned import cleaned
from manifests.report.coverage import coverage
from manifests.report.pictures import histogram, patch, thumbnail
from manifests.report.run_section import read_run
from manifests.runtime.files import remove_temporary_files, write_atomically

PEOPLE = 12  # contact sheets, largest first
FACES = 12  # faces a contact sheet
UNCERTAIN = 24
PAIRS = 8
DEGRADED = 12
DECISIONS = 20  # the newest
REMOVED = 4  # faces a filter

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
    "enlarged": "the crop would be enlarged too much",
    "too_noisy": "too noisy",
    "too_blocky": "too strong a JPEG grid",
    "too_dark": "too dark",
    "too_bright": "too bright",
    "near_duplicate": "the same picture again",
    "photo_spans_splits": "the photo also shows a person of another split",
    "listed_in_another_split": "an imported list has most of the person's faces in another split",
    "face_dropped": "not accepted now; its place is kept for the frozen sets",
    "not_found_again": "not found by the detector now in use",
    "file_vanished_or_changed": "the file was gone or changed when read again",
    "decided": "left out by a decision",
    "crop_missing": "its crop is gone from the disk, or broken",
    "no_consent": "no consent, or withdrawn",
    "consent_missing": "nobody said that there is consent",
    "opted_out": "opted out",
    "purged": "purged",
}


def build_report(dataset: Path, runs: Sequence[Path] = ()) -> Path:
    """Write the page and answer where it lies. Where no run is named, those inside the dataset's folder are shown.

    Raises LedgerMissing without a ledger, BadInput for what is no run.
    """
    runs = runs or sorted(stats.parent for stats in dataset.glob("*/stats.jsonl"))
    for run in runs:
        if not (run / "config.json").is_file():
            raise BadInput(f"{run} is no training run: name a folder that `likeness train --out` made.")
    with Ledger.open(dataset) as ledger:
        facts = {
            "name": dataset.resolve().name,
            "made": utc_now().strftime("%Y-%m-%d %H:%M UTC"),
            "funnel": _funnel(ledger),
            "told": _told(ledger),
            "filters": _filters(ledger),
            "models": ledger.query("SELECT role, file, spec, licence, sha256 FROM models ORDER BY role, file").rows(
                named=True
            ),
            "people": _people(ledger, dataset),
            "decisions": _decisions(ledger),
            "labels": _labels(ledger),
            "uncertain": _uncertain(ledger, dataset),
            "histogram": _histogram(ledger),
            "group": ledger.read_detail("group"),
            "splits": _splits(ledger),
            "pairs": _pairs(ledger, dataset),
            "coverage": coverage(ledger),
            "degraded": _degraded(ledger, dataset),
            "cleaned": cleaned(ledger, dataset),
        }
    facts["runs"] = [read_run(run) for run in runs]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("manifests.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template("template.html.j2").render(facts)
    path = dataset / "report" / "index.html"
    remove_temporary_files(path.parent, alone=False)
    write_atomically(path, page.encode("utf-8"))
    return path


def _funnel(ledger: Ledger) -> list[dict[str, Any]]:
    """Files, photos, faces, usable faces: how many there were, how many went on, and why the others did not."""
    steps = []
    for table, title in (("files", "Files offered"), ("photos", "Distinct photos"), ("faces", "Faces found")):
        rows = ledger.query(
            f"""SELECT coalesce(reason, status) AS why, status, count(*) AS n
                FROM {table} GROUP BY ALL ORDER BY n DESC, why"""
        ).rows(named=True)
        lost = [(_in_plain(row["why"]), row["n"]) for row in rows if row["status"] != "ok"]
        steps.append(_step(title, sum(row["n"] for row in rows if row["status"] == "ok"), "kept", lost))
    usable, rules = steps[-1]["kept"], ledger.read_detail("pair")
    photos, least = rules.get("min_photos", 2), rules.get("min_references", 1)
    unpaired = ledger.query(
        """SELECT CASE WHEN s.status <> 'ok' THEN s.reason
                       WHEN count(*) OVER (PARTITION BY m.identity_id) = 1 THEN 'the only face of that person'
                       WHEN count(DISTINCT f.photo_id) OVER (PARTITION BY m.identity_id) < ? THEN ?
                       ELSE ? END AS why
           FROM memberships m LEFT JOIN splits s USING (face_id) LEFT JOIN faces f USING (face_id)
           QUALIFY m.face_id NOT IN (SELECT target FROM pairs)""",
        photos,
        f"fewer than {photos} photos of that person",
        "no usable reference in another photo" if least == 1 else f"fewer than {least} usable references",
    )
    counts = unpaired.group_by("why").len().sort("len", "why", descending=[True, False]).rows()
    lost = [(_in_plain(why), n) for why, n in counts]
    steps.append(_step("Usable faces", usable - sum(n for _, n in lost), "targets with references", lost))
    return steps


def _step(title: str, kept: int, called: str, lost: list[tuple[str, int]]) -> dict[str, Any]:
    total = kept + sum(n for _, n in lost)
    return {"title": title, "total": total, "kept": kept, "called": called, "lost": lost,
            "share": 100 * kept / max(total, 1)}  # fmt: skip


def _in_plain(code: str) -> str:
    return REASONS.get(code, code.replace("_", " "))


def _filters(ledger: Ledger) -> dict[str, Any]:
    """The filter set of the last screening with its counts, each filter with a few of the faces it was first to remove.

    Dropped faces have no crop: they are cut from their photos, as far as those still lie where they were.
    """
    found = ledger.read_detail("screen")
    for rule in found.get("filters", []):
        rows = ledger.query(
            """SELECT any_value(f.photo_id) AS photo_id, any_value(f.box) AS box, min(u.uri) AS uri
               FROM faces f JOIN files u USING (photo_id) WHERE f.reason = ?
               GROUP BY f.face_id ORDER BY md5(f.face_id) LIMIT ?""",
            rule["reason"],
            REMOVED,
        ).rows()
        rule["called"] = _in_plain(rule["reason"])
        rule["faces"] = [image for photo, box, uri in rows if (image := patch(uri, photo, box, 64))]
    return found


def _told(ledger: Ledger) -> list[dict[str, Any]]:
    """Consent, licence and source of the photos as a sidecar told them; none where it told nothing."""
    rows = ledger.query(
        """SELECT coalesce(consent, 'not told') AS consent, coalesce(licence, 'not told') AS licence,
                  coalesce(source, 'not told') AS source, count(*) FILTER (WHERE status = 'ok') AS used, count(*) AS n
           FROM photos GROUP BY ALL ORDER BY n DESC, 1, 2, 3 LIMIT ?""",
        UNCERTAIN,
    ).rows(named=True)
    return rows if any((row["consent"], row["licence"], row["source"]) != ("not told",) * 3 for row in rows) else []


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


def _decisions(ledger: Ledger) -> list[dict[str, Any]]:
    """The newest decisions, and whether they hold; none of a ledger of an older version."""
    acts = [parse_decision(row) for row in ledger.read_rows(DecisionRow)] if ledger.read_detail("settings") else []
    back = find_undos(acts)
    return [
        {
            "number": act.number,
            "kind": act.kind,
            "faces": len({(named.photo_id, named.box) for part in act.parts for named in part}),
            "name": act.name or "",
            "undone": back.get(act.number),
            "undoes": act.undoes,
        }
        for act in acts[: -DECISIONS - 1 : -1]
    ]


def _labels(ledger: Ledger) -> tuple[int, int, bool] | None:
    """How many labels there are on how many photos, and whether they are truth."""
    rows = ledger.read_rows(Label) if ledger.read_detail("settings") else []
    return (len({row.label for row in rows}), len(rows), rows[0].truth) if rows else None


def _uncertain(ledger: Ledger, dataset: Path) -> list[tuple[str, str, str]]:
    rows = ledger.query(
        """SELECT face_id, identity_id, margin FROM memberships
           WHERE identity_id IN (SELECT identity_id FROM memberships GROUP BY 1 HAVING count(*) > 1)
           ORDER BY margin, face_id LIMIT ?""",
        UNCERTAIN,
    ).rows()
    return [(thumbnail(crop_path(dataset, face), 96), identity, f"{margin:.2f}") for face, identity, margin in rows]


def _histogram(ledger: Ledger) -> str:
    detail = ledger.read_detail("group")
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
    """A few targets, of as many people as there are; the choice follows from the ids alone."""
    rows = ledger.query(
        """SELECT p.target, p.refs, p.similarities, p.split FROM pairs p JOIN splits s ON s.face_id = p.target
           WHERE len(p.refs) > 0
           ORDER BY row_number() OVER (PARTITION BY s.identity_id ORDER BY md5(p.target)), md5(s.identity_id)
           LIMIT ?""",
        PAIRS,
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
           QUALIFY row_number() OVER (PARTITION BY lq_set ORDER BY md5(face_id)) <= ? ORDER BY lq_set, face_id""",
        DEGRADED,
    ).rows()
    sets: dict[str, list[tuple[str, str, str]]] = {}
    for lq_set, face, theta in rows:
        image = (thumbnail(crop_path(dataset, face), 128), thumbnail(dataset / "lq" / lq_set / f"{face}.png", 128))
        sets.setdefault(lq_set, []).append((*image, _in_words(json.loads(theta))))
    return [{"name": name, "images": images} for name, images in sets.items()]


def _in_words(theta: dict[str, Any]) -> str:
    """θ in a line: `blur 3.1 · ÷5.2 · noise 8 · JPEG 72`."""
    words = []
    for step in theta.get("steps", []):
        match step:
            case {"op": "blur", "kernel": "iso", "sigma_x": sigma}:
                words.append(f"blur {sigma:.1f}")
            case {"op": "blur", "sigma_x": wide, "sigma_y": high}:
                words.append(f"blur {wide:.1f} by {high:.1f}")
            case {"op": "downsample", "factor": factor}:
                words.append(f"÷{factor:.1f}")
            case {"op": "noise", "sigma": sigma}:
                words.append(f"noise {sigma:.0f}")
            case {"op": "jpeg", "quality": quality}:
                words.append(f"JPEG {quality}")
            case {"op": "upsample" | "quantise"}:
                pass
            case _:
                words.append(str(step.get("op", "?")))
    return " · ".join(words)
