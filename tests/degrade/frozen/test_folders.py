import json
import os
import unicodedata
import zlib
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

import cv2
import numpy as np
import pytest
from PIL import Image

from degrade.frozen.folders import choose_output_names, degrade_folder
from degrade.frozen.search_folder import find_images
from degrade.frozen.set_files import read_set_rows
from degrade.frozen.verify import verify_folder
from manifests.errors import BadInput
from manifests.pictures.images import FORMATS, UndecodableImage, decode
from manifests.pictures.png_files import encode_png
from manifests.runtime.files import sha256_file
from tests.doubles.frozen.lq_sets import files, toy_picture


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Writes pictures of every unusual kind, and some files that are not pictures."""
    folder = tmp_path / "photos"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "a.png").write_bytes(encode_png(toy_picture(1, 40)))
    (folder / "a.jpg").write_bytes(cv2.imencode(".jpg", toy_picture(2, 33))[1].tobytes())
    (folder / "deep" / "er" / "in.png").write_bytes(encode_png(np.full((30, 31, 3), 77, np.uint8)))
    (folder / "one.png").write_bytes(encode_png(np.full((1, 1, 3), 77, np.uint8)))
    (folder / "gray.png").write_bytes(cv2.imencode(".png", toy_picture(3)[..., 0])[1].tobytes())
    (folder / "sixteen.tiff").write_bytes(cv2.imencode(".tiff", toy_picture(4).astype(np.uint16) * 257)[1].tobytes())
    (folder / "alpha.webp").write_bytes(
        cv2.imencode(".webp", np.dstack([toy_picture(5), toy_picture(6)[..., :1]]))[1].tobytes()
    )
    (folder / "line\nbreak \u00e9.bmp").write_bytes(cv2.imencode(".bmp", toy_picture(7, 20))[1].tobytes())
    Path(os.fsdecode(bytes(folder) + b"/\xff\xfe.png")).write_bytes(encode_png(toy_picture(8, 20)))
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("no picture")
    (folder / "cut.png").write_bytes(encode_png(toy_picture(9))[:60])
    (folder / "half.jpg").write_bytes(cv2.imencode(".jpg", toy_picture(10))[1].tobytes()[:-200])
    (folder / "notes.txt").write_text("ignored")
    (folder / "loop").symlink_to(folder)
    return folder


def test_pictures_are_found_by_their_content_whatever_they_are_called(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    picture = Image.fromarray(toy_picture(11, 64))
    picture.save(folder / "a.avif")
    picture.save(folder / "b.jp2")
    picture.save(folder / "c", "PNG")
    picture.save(folder / "d.scan", "JPEG")
    picture.save(folder / ".hidden", "PNG")
    (folder / "e.heic").write_bytes(b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic")
    (folder / "notes").write_text("no picture")
    report = degrade_folder(folder, tmp_path / "lq", "gfpgan")
    assert [row["source"] for row in read_set_rows(tmp_path / "lq")] == ["a.avif", "b.jp2", "c", "d.scan"]
    assert [name for name, _ in report.skipped] == ["e.heic"]


def test_transparent_pixels_are_white_here_too(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    hidden = np.dstack([np.full((64, 64, 3), 10, np.uint8), np.zeros((64, 64, 1), np.uint8)])
    Image.fromarray(hidden).save(folder / "clear.png")
    degrade_folder(folder, tmp_path / "lq", "bicubic-x8")
    assert (decode(tmp_path / "lq" / "clear.png") == 255).all()


def test_a_folder_becomes_a_set_that_verifies(photos, tmp_path):
    out, seen = tmp_path / "lq", []
    report = degrade_folder(photos, out, "gfpgan", seed=3, progress=seen.append)
    assert report.images == 8 and sum(seen) == 13
    skipped = dict(report.skipped)
    assert "less than one pixel" in skipped.pop("one.png")
    assert skipped == {
        "cut.png": "is cut short",
        "empty.jpg": "is empty",
        "half.jpg": "is cut short",
        "text.jpg": f"is not a picture in a known format ({', '.join(FORMATS)})",
    }
    card = json.loads((out / "card.json").read_text())
    assert card["complete"] and card["images"] == 8 and card["preset"]["name"] == "gfpgan" and card["seed"] == 3
    rows = read_set_rows(out)
    assert [row["source_encoded"] for row in rows] == sorted(
        (row["source_encoded"] for row in rows), key=unquote_to_bytes
    )
    assert {row["file"] for row in rows} >= {"a.png.png", "a.jpg.png", "deep/er/in.png", "line\nbreak é.png"}
    assert {row["file_encoded"] for row in rows} >= {"deep/er/in.png", "line%0Abreak%20%C3%A9.png"}
    assert decode((out / "deep" / "er" / "in.png").read_bytes()).shape == (30, 31, 3)
    assert decode((out / "a.jpg.png").read_bytes()).shape == (33, 33, 3)
    assert verify_folder(out).ok
    assert verify_folder(out, workers=2) == verify_folder(out)


def test_a_loader_finds_every_file_by_its_plain_name(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, name in enumerate(["a b.png", "Zoë.png", "100%.png", "%C3%A9.png", "日本.png"]):
        (folder / name).write_bytes(encode_png(toy_picture(number)))
    odd = Path(os.fsdecode(bytes(folder) + b"/\xff.png"))
    odd.write_bytes(encode_png(toy_picture(9)))
    degrade_folder(folder, tmp_path / "lq", size=24)
    lines = [json.loads(line) for line in (tmp_path / "lq" / "theta.jsonl").read_text().splitlines()]
    plain = [line for line in lines if line["file_encoded"] != "%FF.png"]
    assert len(plain) == 5 and all((tmp_path / "lq" / line["file"]).is_file() for line in plain)
    assert all((folder / line["source"]).is_file() for line in plain)
    assert [line["file"] for line in lines if line not in plain] == ["\ufffd.png"]
    card = json.loads((tmp_path / "lq" / "card.json").read_text())
    assert (card["source"], card["source_encoded"]) == (str(folder), quote(str(folder)))


def test_a_set_of_an_earlier_version_has_encoded_names_only_and_still_verifies_and_is_mended(photos, tmp_path):
    out = tmp_path / "lq"
    degrade_folder(photos, out, size=24)
    thetas, card = out / "theta.jsonl", json.loads((out / "card.json").read_text())
    rows = [json.loads(line) for line in thetas.read_text().splitlines()]
    for row in rows:
        row |= {key: row.pop(f"{key}_encoded") for key in ("file", "source")}
    thetas.write_text("".join(json.dumps(row, sort_keys=True) + "\n" for row in rows))
    card |= {"source": card.pop("source_encoded"), "theta_sha256": sha256_file(thetas)}
    card["skipped"] = [[quote(name), reason] for name, reason in card["skipped"]]
    (out / "card.json").write_text(json.dumps(card))
    before = files(out)
    assert verify_folder(out).ok
    (out / "line\nbreak é.png").unlink()
    assert degrade_folder(photos, out, size=24).images_written == 1 and files(out) == before


def test_a_finished_set_inside_the_folder_is_no_source(photos):
    before = find_images(photos)
    degrade_folder(photos, photos / "lq", size=24)
    assert find_images(photos) == before
    assert find_images(photos / "lq")  # the images of the set are found if the command names the folder of the set


def test_the_same_command_gives_the_same_bytes_from_any_worker_count(photos, tmp_path):
    # The card contains the path of the source. Both sets are made at the same place, so that their cards can be equal.
    degrade_folder(photos, tmp_path / "lq", size=24)
    before = files(tmp_path / "lq")
    (tmp_path / "lq").rename(tmp_path / "first")
    degrade_folder(photos, tmp_path / "lq", size=24, workers=3)
    assert files(tmp_path / "lq") == before
    degrade_folder(photos, tmp_path / "lq", size=24)
    assert files(tmp_path / "lq") == before


def test_a_stopped_run_is_finished_by_the_same_command(photos, tmp_path):
    out = tmp_path / "lq"
    degrade_folder(photos, tmp_path / "whole")

    def stop(images: int) -> None:
        if len(list(out.rglob("*.png"))) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        degrade_folder(photos, out, progress=stop)
    with pytest.raises(BadInput, match="finish the set by repeating"):
        verify_folder(out)
    with pytest.raises(BadInput, match="another set"):
        degrade_folder(photos, out, seed=1)
    (out / ".x.png.1.tmp").write_bytes(b"half")
    degrade_folder(photos, out)
    assert files(out) == files(tmp_path / "whole") and verify_folder(out).ok


def test_verify_finds_what_was_changed(photos, tmp_path):
    out = tmp_path / "lq"
    degrade_folder(photos, out, "bicubic-x8")
    pixels = decode((out / "gray.png").read_bytes()).copy()
    pixels[0, 0, 0] ^= 8
    (out / "gray.png").write_bytes(encode_png(pixels))
    (out / "a.png.png").unlink()
    (out / "new.png").write_bytes(b"")
    (photos / "sixteen.tiff").write_bytes(encode_png(toy_picture(50)))
    found = verify_folder(out)
    assert (
        found.changed_files == ("gray.png",)
        and found.missing_files == ("a.png.png",)
        and found.unexpected_files == ("new.png",)
    )
    assert (
        found.files_without_source == ("sixteen.png",)
        and found.unreproduced_files == ()
        and found.largest_difference == 8
    )


@pytest.mark.parametrize("preset", ["gfpgan", "real-esrgan"])
def test_verify_finds_a_card_that_draws_another_theta(photos, tmp_path, preset):
    out = tmp_path / "lq"
    degrade_folder(photos, out, preset=preset, seed=3)
    assert verify_folder(out).ok
    card = json.loads((out / "card.json").read_text())
    for edited in ({**card, "seed": 4}, {**card, "preset": {**card["preset"], "name": "mine"}}, {**card, "preset": {}}):
        (out / "card.json").write_text(json.dumps(edited))
        assert verify_folder(out).changed_files == ("card.json",)


def test_the_same_command_mends_a_finished_set_and_names_the_picture_it_cannot_be_mended_from(photos, tmp_path):
    out = tmp_path / "lq"
    assert degrade_folder(photos, out, size=24).images_written == 8
    before = files(out)
    (out / "gray.png").write_bytes(encode_png(toy_picture(50)))
    (out / "a.png.png").unlink()
    report = degrade_folder(photos, out, size=24)
    assert (report.images, report.images_written, report.images_repaired) == (8, 2, 1) and files(out) == before
    report = degrade_folder(photos, out, size=24)
    assert (report.images_written, report.images_repaired, len(report.skipped)) == (0, 0, 5)
    (out / "sixteen.png").unlink()
    for content in (encode_png(toy_picture(51)), b"no picture"):
        (photos / "sixteen.tiff").write_bytes(content)
        with pytest.raises(BadInput, match=r"photos/sixteen\.tiff .* cannot be made again"):
            degrade_folder(photos, out, size=24)
    assert not (out / "sixteen.png").exists() and (out / "theta.jsonl").read_bytes().count(b"\n") == 8


def test_what_is_in_the_way_is_never_overwritten(photos, tmp_path):
    full, made = tmp_path / "full", tmp_path / "made"
    full.mkdir()
    (full / "thesis.doc").write_text("years of work")
    with pytest.raises(BadInput, match="not empty"):
        degrade_folder(photos, full)
    assert [path.name for path in full.iterdir()] == ["thesis.doc"]
    with pytest.raises(BadInput, match="is a file"):
        degrade_folder(photos, full / "thesis.doc")
    degrade_folder(photos, made, "codeformer")
    before = files(made)
    for options in ({"preset": "gfpgan"}, {"preset": "codeformer", "seed": 1}, {"preset": "codeformer", "size": 16}):
        with pytest.raises(BadInput, match="another set"):
            degrade_folder(photos, made, **options)
    (photos / "later.png").write_bytes(encode_png(toy_picture(60)))
    with pytest.raises(BadInput, match="frozen set of 13 images"):
        degrade_folder(photos, made, "codeformer")
    assert files(made) == before


def test_a_set_of_other_pictures_does_not_go_into_a_dataset(photos, tmp_path):
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "manifest.duckdb").touch()
    with pytest.raises(BadInput, match="inside a dataset's own folders"):
        degrade_folder(photos, tmp_path / "dataset" / "lq" / "mine")
    assert not (tmp_path / "dataset" / "lq").exists()
    assert degrade_folder(photos, tmp_path / "dataset" / "mine").images == 8


def test_a_folder_without_pictures_and_a_dry_run_write_nothing(photos, tmp_path):
    (tmp_path / "bare").mkdir()
    with pytest.raises(BadInput, match="contains no image"):
        degrade_folder(tmp_path / "bare", tmp_path / "lq")
    with pytest.raises(BadInput, match="not a folder"):
        degrade_folder(tmp_path / "nowhere", tmp_path / "lq")
    with pytest.raises(BadInput, match="the presets are"):
        degrade_folder(photos, tmp_path / "lq", "gfpgam")
    for option, values in (("size", (0, 15, 100_000)), ("seed", (-1, 2**63)), ("workers", (0, 10**6))):
        for value in values:
            with pytest.raises(BadInput, match=f"--{option}"):
                degrade_folder(photos, tmp_path / "lq", **{option: value})
    assert degrade_folder(photos, tmp_path / "lq", dry_run=True).images == 13
    assert not (tmp_path / "lq").exists()


def test_a_set_that_comes_to_nothing_leaves_nothing(tmp_path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "one.png").write_bytes(encode_png(np.full((1, 1, 3), 77, np.uint8)))
    (tmp_path / "tiny" / "text.png").write_text("no picture")
    (tmp_path / "there").mkdir()
    for out in (tmp_path / "lq", tmp_path / "there"):
        with pytest.raises(
            BadInput, match=r"None of the 2 images .*\. For example, one\.png .*less than one pixel of 1 x 1"
        ):
            degrade_folder(tmp_path / "tiny", out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there", "tiny"] and not any(
        (tmp_path / "there").iterdir()
    )


def test_output_inside_the_folder_is_no_input(photos):
    out = photos / "lq"
    degrade_folder(photos, out)
    assert degrade_folder(photos, out).images == 8 and len(find_images(photos, leave_out=out)) == 13


def test_no_two_pictures_share_an_output():
    names = ["x.jpg", "x.png", "x.jpg.png", "x.png.png", "x.jpg.png.png", "y.gif", "d/x.jpg"]
    outputs = choose_output_names([Path(name) for name in sorted(names)])
    assert len(set(outputs)) == len(names) and all(output.suffix == ".png" for output in outputs)
    assert choose_output_names([Path("d/y.gif")]) == [Path("d/y.png")]
    # a folder can have the name that a picture would get
    assert choose_output_names([Path("z.jpg"), Path("z.png/a.jpg")]) == [Path("z.jpg.png"), Path("z.png/a.png")]
    # The names must also differ on a system that does not distinguish cases or Unicode forms.
    names = ["A.jpg", "A.png", "a.bmp", "a.jpg", "Zo\u00eb.jpg", "Zoe\u0308.png"]
    outputs = choose_output_names([Path(name) for name in names])
    assert len({unicodedata.normalize("NFC", str(output)).lower() for output in outputs}) == len(names)


@pytest.mark.parametrize("side", [14_000, 30_000])
def test_a_huge_picture_is_refused_from_its_header_alone(side):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    ihdr = side.to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    with pytest.raises(UndecodableImage, match="megapixels"):
        decode(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", ihdr) + chunk(b"IDAT", zlib.compress(b"")))


def test_broken_records_are_a_sentence(photos, tmp_path):
    out = tmp_path / "lq"
    degrade_folder(photos, out)
    with pytest.raises(BadInput, match="no readable card"):
        verify_folder(photos)
    (out / "theta.jsonl").write_text('{"file": "a"}\n')
    with pytest.raises(BadInput, match="Line 1"):
        verify_folder(out)
    card = json.loads((out / "card.json").read_text())
    for key, wrong in (("source", 5), ("preset", "gfpgan"), ("preset", {"x": 1}), ("tools", None), ("skipped", [1])):
        (out / "card.json").write_text(json.dumps({**card, key: wrong}))
        for call in (lambda: verify_folder(out), lambda: degrade_folder(photos, out)):
            with pytest.raises(BadInput, match=f"the value of {key} is not valid|another set"):
                call()
    for text, says in (("[]", "not the card"), ("[" * 100_000, "no readable card")):
        (out / "card.json").write_text(text)
        with pytest.raises(BadInput, match=says):
            verify_folder(out)
