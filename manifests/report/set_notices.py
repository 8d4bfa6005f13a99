"""Makes the notices about the set of a result: which images were measured, and whether the training used photos of the
people in the set."""

from __future__ import annotations

from manifests.report.result_tables import Result
from manifests.runtime.text import format_count

# Names for the ways in which faces of a set and of a training are compared (train/benchmark/training_overlap.py).
_WAYS = {"file": "files", "picture": "pictures", "person": "people"}


def list_training_checks(result: Result) -> dict[str, str]:
    """Returns a sentence for each way in which faces of the set were compared with training faces: way -> sentence."""
    runs = result.get("runs", {"": result}).values()
    return {kind: how for run in runs for kind, how in run.get("training_overlap", {}).get("how", {}).items()}


def explain_set(result: Result) -> list[str]:
    """Returns notices about the images of the set that were not measured, and about missing wrong references.

    For an imported set, the notices also say which of its files do not fit together.
    """
    left_out = result.get("images_left_out", {})
    notices = [
        f"Not measured, because not every {what} has the image: {format_count(left_out[key], 'image')} of the set. All "
        f"means are over the {format_count(result['images'], 'common image')}."
        for key, what in (("not_in_every_folder", "folder"), ("not_in_every_result", "system"))
        if left_out.get(key)
    ]
    if result.get("set_problems") is not None:
        return [*notices, *_explain_imported_set(result)]
    if without_reference := result["images_in_set"] - result["images"] - sum(left_out.values()):
        notices.append(
            f"Not measured, because the target has no reference: {format_count(without_reference, 'image')} of the set."
        )
    without_wrong = result["without_wrong_references"]
    if without_wrong == result["images"]:
        why = "only one person is in the set" if result["people"] == 1 else "no other person has enough photos"
        notices.append(f"There is no row with wrong references, because {why}.")
    elif without_wrong:
        images = format_count(without_wrong, "image")
        notices.append(f"Wrong references are missing for {images}, because no other person has enough photos.")
    return notices


def _explain_imported_set(result: Result) -> list[str]:
    """Returns notices about a set that others published: its problems, and its missing references."""
    left_out = result["images_in_set"] - result["images"]
    measured = f"Measured: {result['images']} of {format_count(result['images_in_set'], 'LQ image')} of the set"
    problems = "; ".join(f"{meaning}: {count}" for meaning, count in result["set_problems"].items())
    notices = [f"{measured}. What does not fit in the set: {problems or 'nothing'}."] if left_out or problems else []
    if not result["with_references"]:
        return [*notices, "The set has no references, so each image is restored without references."]
    if without_wrong := result["without_wrong_references"]:
        notices.append(
            f"Wrong references are missing for {format_count(without_wrong, 'image')}, because the set shows no other "
            "person with references, or does not say who is on the image."
        )
    return notices


def explain_left_out(result: Result) -> list[str]:
    """Returns a notice about references that the check of `restore` left out."""
    left_out = result["left_out"]
    counts = [
        f"{left_out[row['key']]} of {row['images']} ({row['system']})"
        for row in result["rows"]
        if left_out.get(row["key"])
    ]
    if not counts:
        return []
    return [
        "References that do not seem to show the person of the LQ image were left out, as in `likeness restore`. "
        f"Images whose references were left out: {'; '.join(counts)}."
    ]


def explain_training(result: Result) -> list[str]:
    """Returns a notice for each run. The notice says whether the training data of the run contain people of the set."""
    runs = result.get("runs") or ({"": result} if "training_overlap" in result else {})
    notices = []
    for name, run in runs.items():
        overlap = run["training_overlap"]
        training = f"the training of {name}" if name else "the training"
        if not overlap["checked"]:
            notices.append(
                f"Nobody knows whether {training} used photos of the people in the set: {overlap['unchecked'][0]}"
            )
            continue
        ways = [_WAYS[kind] for kind in overlap["how"]]
        compared = " and ".join(filter(None, (", ".join(ways[:-1]), *ways[-1:])))
        sentence = (
            f"Faces of the set: {overlap['set_faces']}. Faces of {training}: {overlap['training_faces']}. "
            f"Likeness compared the {compared} of the set with those of {training}."
        )
        if "person" in overlap["how"]:
            expected = overlap["expected_pairs"]
            strangers = "" if expected is None else f" ({expected:.1f} such pairs are expected by chance)"
            sentence += (
                f" {format_count(overlap['alike_pairs'], 'pair')} of faces reach the threshold for one person"
                f"{strangers}, but a pair counts only if other photos confirm it."
            )
        images = len(overlap["seen_targets"])
        sentence += (
            f" The people of {format_count(images, 'image')} of the set are in the training. No mean uses these images."
            if images
            else " No face of the set was found in the training."
        )
        notices.append(" ".join([sentence, *overlap["unchecked"]]))
    return notices


def explain_unmeasured_images(result: Result) -> list[str]:
    """Returns notices about the images of each system that no metric could measure."""
    counts: dict[tuple[str, str], int] = {}
    names = {row["key"]: row["system"] for row in result["rows"]}
    for row in result["unmeasured"]:
        key = names.get(row["key"], row["key"]), row["reason"].rstrip(".")
        counts[key] = counts.get(key, 0) + 1
    return [
        f"Not measured for {system}: {format_count(count, 'image')} ({reason})."
        for (system, reason), count in counts.items()
    ]


def explain_extra_files(result: Result) -> list[str]:
    """Returns a notice for each folder of images with files that do not belong to the set.

    The notice names up to three files.
    """
    return [
        f"{folder} contains {format_count(len(files), 'file')} with names that no image of the set has: "
        f"{', '.join(files[:3])}{', ...' if len(files) > 3 else ''}."
        for folder, files in result.get("extra", {}).items()
        if files
    ]


def explain_missing_targets(result: Result) -> list[str]:
    """If the set has no targets, returns a notice that names the metrics that are missing for this reason."""
    if not result.get("needs_targets"):
        return []
    titles = ", ".join(result["needs_targets"])
    return [f"The set has no targets, so no metric compares a restored image with a target. Absent are {titles}."]
