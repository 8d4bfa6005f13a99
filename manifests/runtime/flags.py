"""Defines the arguments and options of all commands.

Each argument and each option comes from one of the two tables in this file. docs/commands.md shows both tables to
users.

An option has the same name, the same kind of value and the same meaning in every command.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer

from manifests.stores.refused_addresses import refuse_address

# This table maps a metavar to its meaning. A command may add its own text to the meaning.
ARGUMENTS = {
    "DATASET": "The folder of a dataset",
    "DATASET|BENCH": "The folder of a dataset or of a benchmark",
    "DATASET|BENCH|PUBLISHED": (
        "The folder of a dataset or of a benchmark; with an imported benchmark in --benchmark, the folder of the "
        "published test set"
    ),
    "DATASET|FOLDER": "The folder of a dataset, or any folder of images",
    "DATASET|LQ": "The folder of a dataset, or of one set of LQ images",
    "DATASET|SNAPSHOT": "The folder of a dataset, or of a snapshot of a dataset",
    "PHOTOS...": "Photos and folders of photos",
    "IMAGE": "An image file",
    "IMAGES": "A folder of images, which may have subfolders",
    "SOURCE": "The folder of the published images, or one CSV file",
    "PUBLISHED": "The folder of a published test set",
    "PHOTO": "The path or name of a photo, or the first characters of the id of a photo, face or person",
    "RESULT...": "JSON files that `likeness evaluate` wrote, each as FILE.json or as NAME=FILE.json",
    "SQL": "One SELECT statement; docs/ledger.md lists the tables",
    "ACTION": (
        "Merge, split, move, drop, accept, rename, lock, prefer, together, apart, assign, consent or undo; list prints "
        "all decisions, and apply applies the recorded decisions"
    ),
    "ID...": (
        "Ids of people, faces or photos, or six or more of the first characters of each id; for undo, the number of a "
        "decision"
    ),
}

# This table maps an option to its metavar and its meaning. The metavar of a switch is empty, because a switch has no
# value.
FLAGS = {
    # options of most commands
    "--out": ("PATH", "The file or folder to write to"),
    "--dry-run": ("", "Print what the command would do, and write nothing"),
    "--json": ("", "Print only JSON"),
    "--seed": ("N", "The seed of all random draws"),
    "--workers": ("N", "The number of worker processes; the results do not depend on this number"),
    "--device": (
        "DEVICE",
        "The device of the face models in curation: auto, cpu, cuda, tensorrt, directml, coreml or openvino "
        "(docs/speed.md)",
    ),
    "--engine": ("ENGINE", "What does the work"),
    "--address": (
        "ADDRESS",
        "The address of a running Ray cluster, HOST:PORT or auto (docs/scale.md); without this option, --engine ray "
        "starts Ray on this machine",
    ),
    "--yes": ("", "Delete without a question; the deletion cannot be undone"),
    # options for the input
    "--run": ("RUN", "The folder of a training run"),
    "--set": ("NAME", "The name of a frozen set of the dataset"),
    "--benchmark": ("BENCH", "The folder of a benchmark that was made from the photos of the first argument"),
    "--split": ("SPLIT", "The split to use: train, val or test"),
    "--originals": ("FOLDER", "The folder of the original images"),
    "--split-lists": ("FOLDER", "The folder that contains train_image.txt, val_image.txt and test_image.txt"),
    "--format": ("FORMAT", "The format of the files"),
    "--at": ("FOLDER", "A folder for datasets and runs; the command examines the disk of this folder"),
    "--store": (
        "ADDRESS",
        "A new folder in an object store, into which this and later runs copy crops, frozen sets and the ledger",
    ),
    # faces and people
    "--faces": ("MODELS", "The face models: auto, dlib, or insightface:PACK with the name or folder of a pack"),
    "--landmarks": ("MODEL", "The model of extra landmarks to record for each face: dlib (68 points)"),
    "--filters": (
        "FILTERS",
        "The filters that drop unusable faces: default, strict, hq256, hq512, keep-outside, or a TOML file",
    ),
    "--min-inter-ocular": ("PIXELS", "The smallest distance between the eyes of a usable face"),
    "--min-face": ("PIXELS", "The smallest faces to search for in large photos, as the distance between the eyes"),
    "--labels": (
        "LABELS",
        "The labels: folder or FILE.csv (these change groups), or hint, hint:FILE.csv or metadata (these do not)",
    ),
    "--same-person": (
        "COSINE",
        "The least mean cosine that joins two groups of faces; this number replaces the calibrated threshold",
    ),
    "--collages": ("", "Allow two faces of one photo to be the same person, if the photo looks like a collage"),
    "--regroup": ("", "Group all faces again, instead of adding new faces to the people of a large collection"),
    "--memory": ("SIZE", "The most memory while the faces are grouped, such as 8G; large arrays then lie in files"),
    "--split-by": ("POLICY", "Divide the faces into splits by identity, or by photos for a collection of one person"),
    "--sidecar": ("FILE.csv", "A table of photos with the columns file, source, licence and consent"),
    "--require-consent": ("", "Drop every photo for which neither a sidecar nor a decision gives consent"),
    "--allow-unmatched": ("", "Accept a sidecar even if it refuses consent for photos that are not found"),
    # files
    "--exclude": ("GLOB", "Leave out files and folders with this name, or with this path below PHOTOS"),
    "--include": ("GLOB", "Read only files with this name or path, and files in folders with this name or path"),
    "--reread": ("", "Read every file again, even if its size and times have not changed"),
    # references
    "--pairs": (
        "ORDER",
        "The references to use: random, nearest, affine-nearest, diverse, hard-pose, window, same-age or across-ages",
    ),
    "--min-photos": ("N", "The least number of photos that a person needs before the person's faces can be targets"),
    "--min-references": ("N", "The least number of references that a face needs to be a target"),
    "--max-references": ("N", "The largest number of references of a target"),
    "--reference": ("PHOTO", "A photo of the same person, or a folder of photos"),
    # decisions
    "--to": ("ID", "For move: the id of the person to whom the faces belong, or the id of a face of this person"),
    "--from": ("ID", "For split: the id of the person to whom the faces do not belong"),
    "--name": ("NAME", "For rename: the name of the person"),
    "--reason": ("TEXT", "For drop: why the faces are not used, in your own words"),
    "--consent": ("VALUE", "For consent: yes, no or withdrawn"),
    "--file": ("FILE", "A file of decisions in JSON lines; if one decision is wrong, no decision is recorded"),
    # review
    "--port": ("PORT", "The port of the server"),
    "--no-browser": ("", "Print the link, and open no browser"),
    "--host": ("ADDRESS", "The address that the server listens on, so that other machines can reach the pages"),
    "--token": ("", "Let everybody who has the printed link see the photos, also on other machines"),
    # privacy
    "--person": ("PERSON", "The id or the name of a person"),
    "--photo": ("PHOTO", "The path, name or sha256 of a photo"),
    "--photo-list": ("FILE", "A text file with one photo per line"),
    "--face": ("PHOTO", "A photo that shows only the person who opts out"),
    "--remember-face": ("", "Keep the embeddings of --face, which are biometric data, to check later photos"),
    # degradation
    "--preset": ("PRESET", "The degradation: a preset of docs/degrade.md, or a .toml or .json file"),
    "--size": ("PIXELS", "The size of the images before the degradation"),
    "--replay": ("FILE", "The file theta.jsonl of a frozen set; the command makes the same bytes again"),
    "--columns": ("N", "The number of degraded images for each preset"),
    # training
    "--recipe": ("RECIPE", "The recipe: a name of docs/recipes.md, a .toml file, or the folder of a run or checkpoint"),
    "--show-recipe": ("", "Print the recipe as TOML with all values, and train nothing"),
    "--change": ("KEY=VALUE", "Change one value of the recipe, such as loss.identity=2"),
    "--loss": ("NAME=WEIGHT", "The weight of a loss; the weight 0 removes the loss"),
    "--rate": ("RATE", "The learning rate after the warm-up"),
    "--batch": ("N", "The number of images in a batch"),
    "--images": ("N", "The number of images after which the training ends"),
    "--minutes": ("MINUTES", "The time after which the training ends"),
    "--identity/--no-identity": ("", "Train with the identity loss, or without it"),
    "--snapshot": ("FOLDER", "The folder for the snapshot of the dataset"),
    "--rounds": ("N", "The number of rounds after the first training; each round cleans and trains"),
    "--mild": ("SHARE", "The share of training images that get a mild degradation, from 0 to 1"),
    "--precision": ("TYPE", "The number type of the computation or of the stored weights"),
    "--accumulate": ("N", "The number of parts into which each batch is divided; more parts need less memory"),
    "--compile": ("", "Compile the model with torch.compile"),
    "--degrade-on": (
        "PLACE",
        "Where training images are degraded: workers (the CPU), or device (the device that trains, in batches)",
    ),
    "--keep-activations": ("", "Keep the activations of a diffusion model in memory, and compute none of them twice"),
    # models and weights
    "--base-model": ("FOLDER", "The folder of a diffusion model in the layout of the diffusers library"),
    "--vre": ("RUN", "The folder of a training run of the recipe vre, whose model the new training uses"),
    "--weights": ("FOLDER", "The folder that contains the weights of the networks for losses and metrics"),
    "--start": ("FOLDER", "The folder with StyleGAN2's weights, from which the recipe refine starts"),
    "--steps": (
        "N",
        "The number of sampling steps of a restoration, from 1 to 50; only a denoiser takes more than 1 (recipe idm)",
    ),
    # restoring
    "--strength": ("SHARE", "The share of the restored face in the result, from 0 to 1; 0 copies the photo"),
    "--always": ("", "Restore every face, even if the face is already sharp or the result is worse"),
    "--trust-references": ("", "Use every reference, even if its face looks like another person"),
    "--lossless": ("", "Write a JPEG as PNG, so that no pixel outside the faces changes"),
    "--aligned": ("", "Use this option if the photos are square face crops in the layout of FFHQ"),
    "--box": (
        "X0,Y0,X1,Y1",
        "The box of the face in pixels, for a photo in which no face is found; if no face is found in the box either, "
        "the command assumes an upright, frontal face",
    ),
    # measuring
    "--restored": (
        "[NAME=]FOLDER",
        "A folder of images that another system restored, with the file names of the set; NAME is used in the tables",
    ),
    "--partial": (
        "",
        "Measure only the images that all folders of --restored have; without this option, an incomplete folder is "
        "refused",
    ),
    "--metrics": ("NAMES", "The metrics of docs/evaluate.md to measure, separated by commas, or all"),
    "--judge": ("MODELS", "The face models that measure identity; choose models that no loss uses, such as dlib"),
    "--fid-folder": ("FOLDER", "The folder of images with which the metric fid_folder compares the restored images"),
    "--fid-statistics": (
        "FILE",
        "The file of statistics with which the metric fid_statistics compares the restored images: an .npz file, or a "
        ".pth file of BasicSR",
    ),
    "--fid-convention": ("NAME", "How FID resizes images: torch-fidelity, pytorch-fid or clean-fid"),
    "--crop-border": ("PIXELS", "The number of pixels that PSNR and SSIM leave out at each side of an image"),
    "--all-systems": ("", "Also compare results without references, and with fewer or wrong references"),
    "--slices": (
        "COLUMNS",
        "Divide the set into slices by these columns of docs/evaluate.md (separated by commas; all: by every "
        "column), and also average each slice",
    ),
    "--leave-out-seen": (
        "",
        "Do not measure images of people that a run was trained on; without this option, such a run is refused",
    ),
    "--limit": ("N", "The largest number of leaks of each kind to list"),
    "--repair": ("", "Record decisions that end the leaks of a dataset"),
    "--hashes/--no-hashes": ("", "Compare the sha256 of every file, or only check that every file exists"),
    # pages and tables
    "--page": ("FILE.html", "Write an HTML page with the images"),
    "--page-data": ("FILE.json", "Write the content of the page as JSON"),
    "--keep-images": ("", "Write the restored images beside the result, so that `likeness review` can show them"),
    "--worst": ("N", "The largest number of images on the page; the worst images come first"),
    "--markdown": ("FILE", "Write the tables as Markdown"),
    "--latex": ("FILE", "Write the tables as LaTeX"),
    "--plot": ("FILE.svg", "Draw a plot of the identity to the target as an SVG file"),
    # exports and benchmarks
    "--layout": (
        "LAYOUT",
        "The layout of the published test set: a name of docs/benchmarks.md, or a .toml file of patterns",
    ),
    "--crops": (
        "VERSION",
        "The crops of the training faces to write: original, or best (the versions that iterate cleaned)",
    ),
    "--shard-mib": ("MIB", "The largest size of a shard, in MiB"),
    "--with-names": ("", "Also write the names of people"),
    "--with-images": ("", "Also write the images"),
    "--with-embeddings": ("", "Also write the embeddings of the faces; embeddings are biometric data"),
}
# the metavars of --out
RESULTS = ("DATASET", "RUN", "LQ", "BENCH", "FOLDER", "SHEET.png", "FILE.npz")


# The arguments and options whose text may be an address. For example, the ledger has the addresses of photos.
_FREE_TEXT = {"PHOTO", "SQL", "ID", "--photo", "--person", "--name", "--reason", "--to", "--from"}
_FREE_TEXT |= {"--exclude", "--include", "--address", "--host"}


def argument(metavar: str, more: str = "", *, parser: Callable[[str], Any] | None = None) -> Any:
    """Returns the Typer argument with this metavar. The help shows the meaning of the argument, and then `more`.

    `parser` is `parse_path` for an argument that also takes addresses. Any other argument refuses addresses.
    """
    return typer.Argument(
        metavar=metavar,
        help=f"{ARGUMENTS[metavar]}{more}.",
        callback=_make_check(metavar.removesuffix("..."), parser is not None),
        parser=parser,
    )


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
    parser: Callable[[str], Any] | None = None,
) -> Any:
    """Returns the Typer option with this name.

    The help shows the meaning of the option, and then `more`. If the default is None, the help shows the text `default`
    as the default. A number below `low` or above `high` is a usage error. `repeat` is true for an option that may be
    repeated. `panel` is the title of the group in which the help shows the option. `parser` is `parse_path` for an
    option that also takes addresses. Any other option refuses addresses.
    """
    usual, meaning = FLAGS[spelling]
    return typer.Option(
        spelling,
        metavar=usual if metavar is None else metavar,
        help=f"{meaning}{more}.{' May be repeated.' if repeat else ''}",
        show_default=default,
        callback=_make_check(spelling, parser is not None, low, high),
        rich_help_panel=panel,
        parser=parser,
    )


def _make_check(
    name: str, takes_addresses: bool, low: float | None = None, high: float | None = None
) -> Callable[[Any], Any]:
    """Returns a function that checks the value of an argument or option, before the command does anything."""

    # with `min` and `max`, Typer would print the range of a seed as 0<=x<=9223372036854775807
    def check(value: Any) -> Any:
        for each in value if isinstance(value, (list, tuple)) else [value]:
            if not (isinstance(each, str) and name in _FREE_TEXT):
                refuse_address(name, each, takes_addresses)
        if value is not None and low is not None and value < low:
            raise typer.BadParameter(f"{value} is too small: give {low} or more.")
        if value is not None and high is not None and value > high:
            raise typer.BadParameter(f"{value} is too large: give {high} or less.")
        return value

    return check
