"""The words of the command line. Every argument and option of every command comes from the two tables of this file.

An option has the same spelling, the same kind of value and the same meaning in every command. docs/commands.md shows
the tables to users.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer

# metavar: meaning. A command may append to the meaning what holds for this command alone.
ARGUMENTS = {
    "DATASET": "The folder of a dataset",
    "DATASET|BENCH": "The folder of a dataset or of a benchmark",
    "DATASET|FOLDER": "The folder of a dataset, or any folder of images",
    "DATASET|LQ": "The folder of a dataset, or of one set of LQ images",
    "DATASET|SNAPSHOT": "The folder of a dataset, or of a snapshot of a dataset",
    "PHOTOS...": "Photos and folders of photos",
    "IMAGE": "An image file",
    "SOURCE": "The folder of the published images, or one CSV file",
    "PHOTO": "The path or name of a photo, or the first characters of the id of a photo, face or person",
    "SQL": "One SELECT statement; docs/ledger.md lists the tables",
    "ACTION": "The kind of decision: merge, split, move, drop, rename, lock or undo; or list to see all decisions",
    "ID...": "Ids of people or faces, or their first six characters; for undo, the number of a decision",
}

# spelling: (metavar, meaning). A switch has no value and an empty metavar.
FLAGS = {
    # what nearly every command has
    "--out": ("PATH", "The place to write to"),
    "--dry-run": ("", "Say what the command would do, and write nothing"),
    "--json": ("", "Print JSON and nothing else"),
    "--seed": ("N", "The seed of all random draws"),
    "--workers": ("N", "The number of worker processes; the results do not depend on it"),
    "--yes": ("", "Do not ask before the deletion, which cannot be undone"),
    # what is read
    "--run": ("RUN", "The folder of a training run"),
    "--set": ("NAME", "The name of a frozen set of the dataset"),
    "--benchmark": ("BENCH", "The folder of a benchmark with photos of this dataset"),
    "--split": ("SPLIT", "The split to use: train, val or test"),
    "--originals": ("FOLDER", "The folder of the original images"),
    "--split-lists": ("FOLDER", "The folder of train_image.txt, val_image.txt and test_image.txt"),
    "--format": ("FORMAT", "The format of the files"),
    "--at": ("FOLDER", "The folder for datasets and runs, whose disk is examined"),
    # faces and people
    "--faces": ("MODELS", "The face models: auto, dlib, or insightface: and the name or folder of a pack"),
    "--landmarks": ("MODEL", "The model of extra landmarks to record for each face: dlib (68 points)"),
    "--filters": ("FILTERS", "The filters that drop unusable faces: default, strict, or a TOML file"),
    "--min-inter-ocular": ("PIXELS", "The smallest distance between the eyes of a usable face"),
    "--labels": ("LABELS", "Who is in each photo: folder or FILE.csv as truth, hint or hint:FILE.csv to compare only"),
    "--same-person": ("COSINE", "The mean cosine from which two groups are one person, instead of the calibration"),
    "--collages": ("", "Allow two faces of one photo to be the same person"),
    "--split-by": ("POLICY", "Divide the splits by identity, or by photos for a collection of one person"),
    "--sidecar": ("FILE.csv", "A table of photos with the columns file, source, licence and consent"),
    "--require-consent": ("", "Drop every photo that has no consent in a sidecar"),
    # references
    "--pairs": ("ORDER", "The choice of references: random, nearest, affine-nearest, diverse, hard-pose or window"),
    "--min-photos": ("N", "The fewest photos of a person whose faces can be targets"),
    "--min-references": ("N", "The fewest references of a target"),
    "--max-references": ("N", "The most references of a target"),
    "--reference": ("PHOTO", "A photo of the same person, or a folder of photos"),
    # decisions
    "--to": ("ID", "For move: the person that the faces belong to, by the id of the person or of a face"),
    "--from": ("ID", "For split: the person that the faces do not belong to"),
    "--name": ("NAME", "For rename: the name of the person"),
    "--file": ("FILE", "A file of decisions in JSON lines; all of them are recorded, or none"),
    # privacy
    "--person": ("PERSON", "The id or the name of a person"),
    "--photo": ("PHOTO", "The path, name or sha256 of a photo"),
    "--photo-list": ("FILE", "A text file with one photo per line"),
    "--face": ("PHOTO", "A photo that shows only the person who opts out"),
    "--remember-face": ("", "Keep the embeddings of --face, which are biometric data, to check later photos"),
    # degradation
    "--preset": ("PRESET", "The degradation: a preset of docs/degrade.md, or a .toml or .json file"),
    "--size": ("PIXELS", "The size of the images before the degradation"),
    "--engine": ("ENGINE", "The code that degrades: exact, or basicsr for the code of the literature"),
    "--replay": ("FILE", "The theta.jsonl of a set to build again, byte for byte"),
    "--columns": ("N", "The number of degradations of each preset"),
    # training
    "--recipe": ("RECIPE", "The recipe to train, one of docs/recipes.md"),
    "--images": ("N", "The number of images after which the training ends"),
    "--minutes": ("MINUTES", "The time after which the training ends"),
    "--identity/--no-identity": ("", "Use the identity loss, or leave it out"),
    "--snapshot": ("FOLDER", "The folder for the snapshot of the dataset"),
    "--rounds": ("N", "The number of rounds that clean and train, after the first training"),
    "--mild": ("SHARE", "The share of training images with a mild degradation, 0 to 1"),
    "--precision": ("TYPE", "The number type of the training: fp32 or bf16"),
    "--accumulate": ("N", "The number of parts that a batch is computed in, to need less memory"),
    "--compile": ("", "Compile the model with torch.compile"),
    # models and weights
    "--base-model": ("FOLDER", "The folder of the diffusion model in the layout of diffusers"),
    "--vre": ("RUN", "The run of recipe vre that the recipe builds on"),
    "--weights": ("FOLDER", "The folder of the weights of networks that measure"),
    "--steps": ("N", "The number of steps of a restoration, 1 to 8"),
    # restoring
    "--aligned": ("", "Take the photos as square face crops in the layout of FFHQ"),
    "--box": ("X0,Y0,X1,Y1", "The box of the face in pixels, for a photo in which no face is found"),
    # measuring
    "--restored": ("FOLDER", "A folder of images that another system restored, with the file names of the set"),
    "--metrics": ("NAMES", "The metrics of docs/evaluate.md to measure, separated by commas, or all"),
    "--judge": ("MODELS", "The face models that measure identity; they should be in no loss, like dlib"),
    "--fid-folder": ("FOLDER", "The folder of images that the metric fid_folder compares with"),
    "--limit": ("N", "The most leaks of each kind to list"),
    "--hashes/--no-hashes": ("", "Compare the sha256 of every file, or only check that the files exist"),
    # pages and tables
    "--page": ("FILE.html", "Write an HTML page with the images"),
    "--page-data": ("FILE.json", "Write the content of the page as JSON"),
    "--worst": ("N", "The most images on the page, the worst first"),
    "--markdown": ("FILE", "Write the tables as Markdown"),
    "--latex": ("FILE", "Write the tables as LaTeX"),
    "--plot": ("FILE.svg", "Draw the identity to the target as an SVG file"),
    # exports and benchmarks
    "--crops": ("VERSION", "The training crops to write: original, or best for the ones that iterate cleaned"),
    "--shard-mib": ("MIB", "The largest size of a shard, in MiB"),
    "--with-names": ("", "Write the names of people too"),
    "--with-images": ("", "Write the crops and the LQ images too"),
    "--with-embeddings": ("", "Write the embeddings of the faces too, which are biometric data"),
}
RESULTS = ("DATASET", "RUN", "LQ", "BENCH", "FOLDER", "SHEET.png")  # the metavars of --out


def argument(metavar: str, more: str = "", **settings: Any) -> Any:
    """Returns the Typer argument of a metavar. `more` follows its meaning in the help of this command."""
    return typer.Argument(metavar=metavar, help=f"{ARGUMENTS[metavar]}{more}.", **settings)


def flag(
    spelling: str,
    more: str = "",
    *,
    default: str | bool = True,
    low: float | None = None,
    high: float | None = None,
    metavar: str | None = None,
    repeat: bool = False,
    panel: str | None = None,
) -> Any:
    """Returns the Typer option of a spelling.

    `more` follows the meaning of the option in the help of this command. `default` is the help's word for a default of
    None. A number below `low` or above `high` is a usage error. `repeat` marks an option that takes a list. `panel` is
    the title of the group of the help that shows the option.
    """
    usual, meaning = FLAGS[spelling]
    return typer.Option(
        spelling,
        metavar=usual if metavar is None else metavar,
        help=f"{meaning}{more}.{' May be repeated.' if repeat else ''}",
        show_default=default,
        callback=None if low is None and high is None else _range_check(low, high),
        rich_help_panel=panel,
    )


def _range_check(low: float | None, high: float | None) -> Callable[[float | None], float | None]:
    # Typer's own `min` and `max` would print the range of a seed as 0<=x<=9223372036854775807
    def check(value: float | None) -> float | None:
        if value is not None and low is not None and value < low:
            raise typer.BadParameter(f"{value} is too small: the smallest value is {low}.")
        if value is not None and high is not None and value > high:
            raise typer.BadParameter(f"{value} is too large: the largest value is {high}.")
        return value

    return check
