"""Writes the model card of an exported restorer: a README.md that begins with the YAML that model hubs read.

The card says what was recorded: the recipe, the data, the figures of `likeness evaluate`, and the limits. The card
contains no path, no time and no name of a person. The same run gives the same bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifests.runtime.text import format_markdown_table
from train.metrics.registry import METRICS
from train.models.checkpoint_files import CONFIG
from train.models.config import ModelConfig
from train.recipes.recipes import DIFFUSION
from train.restore.references.confirm_references import REFERENCE_PARTS

CARD = "README.md"
NOT_RECORDED = "not recorded"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_TAGS = ("face-restoration", "image-restoration", "one-step", "reference-guided")

Facts = Mapping[str, Any]


@dataclass(frozen=True)
class RunFacts:
    """Holds what the files of a run say about a checkpoint."""

    config: Facts  # RUN/config.json; empty if the folder of the checkpoint is in no run
    results: Sequence[Facts]  # the results of `likeness evaluate` for this checkpoint


def read_run_facts(checkpoint: Path) -> RunFacts:
    """Returns the facts of the run that contains a checkpoint. A file that is missing or broken is left out."""
    run = checkpoint.resolve().parent
    results = [_read_json(path) for path in sorted(run.glob("evaluation*.json"))]
    own = [one for one in results if one.get("checkpoint") == checkpoint.resolve().name and one.get("rows")]
    config = _read_json(run / CONFIG)
    # The config.json of another folder, for example of an exported restorer, has no recipe with settings.
    return RunFacts(config if isinstance(config.get("recipe"), dict) else {}, own)


def _read_json(path: Path) -> Facts:
    try:
        read = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}


def render_card(config: ModelConfig, facts: Facts, base: str, run: RunFacts) -> str:
    """Returns the text of the card.

    `facts` are those of the restorer (train/models/restorer.py). `base` is the folder or hub name of the base, or the
    name of a base that is no diffusion model.
    """
    recipe = str(facts.get("recipe", NOT_RECORDED))
    sections = [
        _render_front_matter(base),
        f"# A face restorer of the recipe {recipe}",
        f"This restorer restores a degraded face of {config.size} x {config.size} pixels. "
        f"{_describe_references(config)} It was trained with Likeness.",
        "## Use\n\n"
        "`likeness restore PHOTO --reference PHOTO --run FOLDER --out OUT` restores a photo. FOLDER is this folder. "
        "In Python, `train.models.restorer.Restorer.from_pretrained(Path(FOLDER))` loads the restorer. Both need "
        f"Likeness, because other libraries do not know the parts of this restorer. {_describe_faces(facts)}",
        "## Training\n\n"
        + format_markdown_table(("what", "value"), _list_training(config, facts, base, run.config)).rstrip("\n"),
        f"## Figures\n\n{_render_results(run.results)}",
        f"## Limits\n\n{_render_limits(facts, run.config)}",
        f"## Licence and consent\n\n{_render_licences(config, facts, base)}",
    ]
    return "\n\n".join(sections) + "\n"


def _render_front_matter(base: str) -> str:
    """Returns the YAML between two lines of dashes. JSON strings and lists are YAML, too."""
    lines = [
        "license: other",
        "license_name: not-stated",
        "library_name: likeness",
        "pipeline_tag: image-to-image",
        f"tags: {json.dumps(_TAGS)}",
    ]
    if _is_hub_name(base):
        lines.append(f"base_model: {json.dumps(base)}")
    return "\n".join(["---", *lines, "---"])


def _is_hub_name(base: str) -> bool:
    """Returns whether a base is named by its hub name. A base in a folder has an absolute path."""
    return _HUB_NAME.fullmatch(base) is not None


def _describe_references(config: ModelConfig) -> str:
    if not REFERENCE_PARTS & set(config.parts):
        return "It reads no reference photos."
    most = config.most_references
    return f"Reference photos of the same person guide it{'' if most is None else f' (at most {most})'}."


def _describe_faces(facts: Facts) -> str:
    recognizer = facts.get("recognizer")
    if not isinstance(recognizer, Mapping):
        return "The restorer works with any face models of Likeness."
    needed = (
        f"The restorer needs the face recognizer from its training, `{recognizer.get('spec')}`, with the sha256 "
        f"`{recognizer.get('sha256')}`."
    )
    if not str(recognizer.get("spec")).startswith("insightface:"):
        return needed
    return f"{needed} If it is not in insightface's own folder, give its folder with `--faces insightface:FOLDER`."


def _list_training(config: ModelConfig, facts: Facts, base: str, run: Facts) -> list[tuple[str, str]]:
    recipe, snapshot = run.get("recipe", {}), run.get("snapshot", {})
    counts = snapshot.get("counts", {})
    rows = {
        "recipe": facts.get("recipe"),
        "base": base if config.base != DIFFUSION or _is_hub_name(base) else "a folder with a diffusion model",
        "side in pixels": config.size,
        "images seen": facts.get("images"),
        "targets (train, val, test)": _join_splits(counts.get("targets")),
        "people (train, val, test)": _join_splits(counts.get("people")),
        "sha256 of the data": facts.get("snapshot", snapshot.get("hash")),
        "degradation": recipe.get("preset"),
        "losses": _join(recipe.get("losses")),
        "references of an image": ", ".join(map(str, recipe.get("reference_counts", ()))) or None,
        "batch": recipe.get("batch"),
        "precision of the training": run.get("precision"),
        "seed": run.get("seed"),
        "version of Likeness": run.get("code_version"),
    }
    return [(name, NOT_RECORDED if value is None else str(value)) for name, value in rows.items()]


def _join_splits(counts: Any) -> str | None:
    return ", ".join(str(counts.get(split, 0)) for split in ("train", "val", "test")) if counts else None


def _join(weights: Any) -> str | None:
    return ", ".join(f"{name} {weight:g}" for name, weight in sorted(weights.items())) if weights else None


def _render_results(results: Sequence[Facts]) -> str:
    if not results:
        return "This restorer was not measured: its run contains no result of `likeness evaluate` for its checkpoint."
    parts = []
    for result in results:
        names = [name for name in METRICS if any(name in row for row in result["rows"])]
        table = format_markdown_table(
            ("system", *(METRICS[name].title for name in names)),
            [(str(row["system"]), *(_format_mean(row.get(name), name) for name in names)) for row in result["rows"]],
        )
        parts.append(
            f"Set `{result.get('lq_set')}`: {result.get('images')} images of {result.get('people')} people, at "
            f"{result.get('size')} px, with at most {result.get('references')} references. The values are means. "
            f"The recognizer `{_name_judge(result)}` measured the identity.\n\n{table.rstrip()}"
        )
    return "\n\n".join(parts)


def _name_judge(result: Facts) -> str:
    """Returns the spec of the recognizer that measured the identity, without its folder."""
    kind, _, place = str(result.get("judge", {}).get("spec", NOT_RECORDED)).partition(":")
    return f"{kind}:{Path(place).name}" if place else kind


def _format_mean(value: Any, metric: str) -> str:
    mean = value.get("mean") if isinstance(value, Mapping) else None
    return "-" if mean is None else f"{mean:.{METRICS[metric].digits}f}"


def _render_limits(facts: Facts, run: Facts) -> str:
    people = run.get("snapshot", {}).get("counts", {}).get("people", {}).get("train")
    trained = "an unknown number of people" if people is None else f"{people} people"
    return "\n".join(
        [
            "- A restored face is a guess. Detail that the degraded face does not have is invented, or comes from the "
            "references. Do not use a restored face to identify a person or as evidence.",
            f"- The training saw {trained}. Faces that are unlike the faces of these people may be restored worse.",
            "- The restorer was trained on synthetic degradations. Other degradations may be restored worse.",
            "- References of another person can move the restored face towards this other person.",
        ]
    )


def _render_licences(config: ModelConfig, facts: Facts, base: str) -> str:
    lines = [
        "- The licence of these weights was not stated. Whoever shares this folder chooses a licence that the photos, "
        "the base and the recognizer allow, and writes it into the first lines of this file.",
        "- The weights were trained on photos of people. Share the weights only if these people allow it. If a person "
        "withdraws consent, delete all copies of this folder, and train again without the person.",
    ]
    if config.base == DIFFUSION:
        lines.append("- `unet/` and `vae/` are the frozen base, and the licence of the base applies to them.")
    recognizer = facts.get("recognizer")
    if isinstance(recognizer, Mapping) and recognizer.get("licence"):
        lines.append(f"- The recognizer, which is not in this folder: {recognizer['licence']}.")
    return "\n".join(lines)
