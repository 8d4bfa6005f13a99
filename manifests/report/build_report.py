"""Builds DATASET/report/index.html and the pages beside it.

Each *_section.py reads the content of one part of index.html. template.html.j2 has the layout of index.html.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from manifests.errors import BadInput
from manifests.ledger.decisions.applied_decisions import check_decisions_applied
from manifests.ledger.ledger import Ledger, utc_now
from manifests.ledger.queries import is_curation_finished
from manifests.report.dropped_page import FACES, read_dropped_faces
from manifests.report.people_pages import list_orders, list_people, read_page
from manifests.report.sections.cleaned_section import read_cleaned_versions
from manifests.report.sections.frozen_section import read_frozen_sets
from manifests.report.sections.intake_section import read_consent, read_dates, read_filters, read_funnel
from manifests.report.sections.pairs_section import read_coverage, read_pairs, read_splits
from manifests.report.sections.people_section import (
    draw_similarity_histogram,
    read_labels,
    read_newest_decisions,
    read_people,
    read_uncertain_faces,
)
from manifests.report.sections.run_section import read_run
from manifests.report.sections.targets_section import count_gray_targets, draw_targets
from manifests.report.suggestions import describe_suggestions
from manifests.runtime.files import remove_temporary_files, write_atomically
from manifests.runtime.text import format_count


def build_report(dataset: Path, runs: Sequence[Path] = ()) -> Path:
    """Write the pages of a dataset's report, and return the path of index.html.

    The report shows the training runs `runs`. If `runs` is empty, the report shows the runs inside the dataset's
    folder.

    Raises LedgerMissing if the folder has no ledger, and BadInput if one of the runs is not a training run.
    """
    runs = runs or sorted(stats.parent for stats in dataset.glob("*/stats.jsonl"))
    for run in runs:
        if not (run / "config.json").is_file():
            raise BadInput(f"{run} is not a training run. Name a folder that `likeness train --out` made.")
    with Ledger.open(dataset) as ledger:
        check_decisions_applied(ledger)
        values = {
            "name": dataset.resolve().name,
            "created": utc_now().strftime("%Y-%m-%d %H:%M UTC"),
            "finished": is_curation_finished(ledger),
            "funnel": read_funnel(ledger),
            "consent": read_consent(ledger),
            "dates": read_dates(ledger),
            "filters": read_filters(ledger),
            "models": ledger.query("SELECT role, file, spec, licence, sha256 FROM models ORDER BY role, file").rows(
                named=True
            ),
            "people": read_people(ledger),
            "doubtful_people": read_people(ledger, doubtful=True),
            "decisions": read_newest_decisions(ledger),
            "labels": read_labels(ledger),
            "uncertain_faces": read_uncertain_faces(ledger),
            "histogram": draw_similarity_histogram(ledger),
            "group": ledger.read_detail("group"),
            "splits": read_splits(ledger),
            "pairs": read_pairs(ledger),
            "coverage": read_coverage(ledger),
            "measures": draw_targets(ledger),
            "gray_targets": count_gray_targets(ledger),
            "frozen_sets": read_frozen_sets(ledger),
            "cleaned": read_cleaned_versions(ledger),
        }
        people = list_people(ledger)
        pages: dict[str, dict[str, Any]] = {
            f"people-{n}.html": {"title": "people", "people": read_page(ledger, people, n)}
            for n in range(1, people.pages + 1)
        }
        pages["people.html"] = {"title": "people", "people": None, "orders": list_orders(people)}
        pages["suggestions.html"] = {"title": "suggestions", **describe_suggestions(ledger, people)}
        groups = read_dropped_faces(ledger, people.short_id)
        pages["dropped.html"] = {"title": "faces that are not used", "groups": groups, "limit": FACES}
    values["runs"] = [read_run(run) for run in runs]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("manifests.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["count"] = _format_count
    page = environment.get_template("template.html.j2").render(values)
    path = dataset / "report" / "index.html"
    remove_temporary_files(path.parent, shared=True)
    for old in path.parent.glob("people-*.html"):  # an earlier report may have had more pages
        if old.name not in pages:
            old.unlink()
    for file_name, content in pages.items():
        kind = file_name.partition(".")[0].partition("-")[0]  # people.html and people-1.html have the same template
        text = environment.get_template(f"{kind}.html.j2").render(name=values["name"], pages=people.pages, **content)
        write_atomically(path.parent / file_name, text.encode("utf-8"))
    write_atomically(path, page.encode("utf-8"))
    return path


def _format_count(count: int, one: str, several: str | None = None) -> str:
    """Returns a count with its noun and with commas between the thousands, such as "1 face" or "1,234 faces"."""
    return f"{count:,} {format_count(count, one, several).partition(' ')[2]}"
