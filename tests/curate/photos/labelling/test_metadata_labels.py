"""Tests names that other programs wrote into files: a name labels the face at its place, as a hint or as truth."""

import shutil
import zipfile
from pathlib import Path

import pytest

from curate.photos.labelling.labels import label_faces
from curate.photos.labelling.metadata_labels import FileMetadata, place_box
from curate.photos.labelling.xmp_people import Region
from curate.photos.optout_faces import opt_out_faces
from manifests.errors import BadInput
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import Face, File, Identity, Label, Photo
from manifests.privacy.purge import purge
from manifests.privacy.purge_plan import plan_purge
from manifests.runtime.uris import path_of
from manifests.why.explain_photo import explain_photo
from tests.doubles.curation import album, curated, curated_album, find_problems, install, photo, rows, save
from tests.doubles.pictures.metadata import embed_xmp, laugh, microsoft, mwg, names, packet, rect64

SIZE = WIDTH, HEIGHT = 360, 180  # the size of a photo of two people
LEFT = (40 / WIDTH, 30 / HEIGHT, 160 / WIDTH, 150 / HEIGHT)
RIGHT = (200 / WIDTH, 30 / HEIGHT, 320 / WIDTH, 150 / HEIGHT)


@pytest.fixture(autouse=True)
def doubles(monkeypatch):
    install(monkeypatch)


def couple(path: Path, seed: int = 50) -> Path:
    """Saves a photo of person 0 at the left and person 1 at the right."""
    return save(path, photo([0, 1], seed), 1, 95)


def labelled(dataset: Path) -> dict[tuple[str, str], str]:
    """Returns a dict that maps (name of the file, left or right) of each labelled face to its label."""
    photos = {row.photo_id: row for row in rows(dataset, Photo)}
    file = {row.photo_id: path_of(row.uri).name for row in rows(dataset, File) if row.status == "ok"}
    faces = {face.face_id: face for face in rows(dataset, Face) if face.status == "ok" or face.duplicate_of}
    found, _ = label_faces(rows(dataset, Label), list(faces.values()), photos)
    return {
        (file[faces[face].photo_id], "left" if faces[face].box[0] < 100 else "right"): label
        for face, label in found.items()
    }


def names_of(dataset: Path) -> set[str | None]:
    return {row.name for row in rows(dataset, Identity)}


def of_stored(box: tuple[float, ...], orientation: int) -> tuple[float, ...]:
    """Converts a box from the coordinates of the upright picture to the coordinates of the stored picture."""
    x0, y0, x1, y1 = box
    return {
        1: (x0, y0, x1, y1),
        2: (1 - x1, y0, 1 - x0, y1),
        3: (1 - x1, 1 - y1, 1 - x0, 1 - y0),
        6: (y0, 1 - x1, y1, 1 - x0),
        8: (1 - y1, x0, 1 - y0, x1),
    }[orientation]


@pytest.mark.parametrize("orientation", [1, 2, 3, 6, 8])
def test_a_region_is_turned_with_its_photo(orientation):
    row = Photo("p", WIDTH, HEIGHT, "", orientation=orientation)
    file, metadata = File("file:///a.jpg", "p", 1, 1, "ok", orientation=orientation), FileMetadata("file:///a.jpg")
    stored_size = SIZE[::-1] if orientation >= 5 else SIZE
    stored = of_stored(LEFT, orientation)

    def place(box, size, **changes) -> tuple[float, ...] | None:
        region = Region("Ann", box, size, changes.get("upright", False))
        return place_box(region, row, changes.get("file", file), changes.get("found", metadata))

    assert place(stored, None) == pytest.approx(LEFT) and place(stored, stored_size) == pytest.approx(LEFT)
    # A region also counts if it was written for a smaller copy.
    assert place(stored, (stored_size[0] / 2, stored_size[1] / 2)) == pytest.approx(LEFT)
    assert place(LEFT, (WIDTH, WIDTH)) is None  # A region does not count if it was written for another crop.
    if orientation >= 5:  # A region also counts if the program that wrote it saw the upright picture.
        assert place(LEFT, SIZE) == pytest.approx(LEFT)
    # A region also counts if another file of the photo stores the same samples with the orientation 1.
    other = File("file:///b.jpg", "p", 1, 1, "ok", orientation=1)
    assert place(stored, stored_size, file=other) == pytest.approx(LEFT)
    # The decoder of HEIC itself turns the samples upright. Picasa writes the regions of a RAW file for the upright
    # picture.
    row, file = Photo("p", WIDTH, HEIGHT, "", orientation=1), File("file:///a.heic", "p", 1, 1, "ok", orientation=1)
    heic = FileMetadata("file:///a.heic", turned_by=orientation)
    raw = FileMetadata("file:///a.nef", turned_by=orientation, is_raw=True)
    assert place(stored, stored_size, file=file, found=heic) == pytest.approx(LEFT)
    assert place(LEFT, None, file=file, found=raw, upright=True) == pytest.approx(LEFT)
    # in a RAW file, the regions in XMP are places in the stored picture, which is not turned
    assert place(stored, None, file=file, found=raw) == pytest.approx(LEFT)


def test_regions_in_photos_sidecars_and_picasa_label_the_faces_at_their_place(tmp_path):
    photos, dataset = tmp_path / "photos", tmp_path / "dataset"
    regions = [("Zoe\u0308", LEFT), ("Bob", RIGHT)]
    embed_xmp(couple(photos / "mwg.jpg", 51), packet(mwg(regions, SIZE), microsoft(regions)))
    (photos / "side.jpg.xmp").write_bytes(packet(microsoft(regions)))
    couple(photos / "side.jpg", 52)
    (photos / "stem.xmp").write_bytes(packet(mwg(regions[:1], SIZE)))
    embed_xmp(couple(photos / "stem.jpg", 53), packet(mwg(regions[:1], SIZE)))  # the sidecar has the same region
    couple(photos / "picasa.jpg", 54)
    (photos / ".picasa.ini").write_text(f"[picasa.jpg]\nfaces={rect64(RIGHT)},b0b\n[Contacts2]\nb0b=Bob;;\n")
    one = save(photos / "one.png", photo([1], 55))
    embed_xmp(one, packet(names("Iptc4xmpExt:PersonInImage", "Bob")))
    with zipfile.ZipFile(photos / "a.zip", "w") as archive:
        archive.write(embedded := couple(tmp_path / "zip.jpg", 56), "zip.jpg")
        embed_xmp(embedded, packet(mwg(regions, SIZE)))
        archive.write(embedded, "named.jpg")
    summary = curated(photos, dataset, labels="metadata")
    couples = {("mwg.jpg", "left"), ("side.jpg", "left"), ("stem.jpg", "left")}
    bobs = {("mwg.jpg", "right"), ("side.jpg", "right"), ("picasa.jpg", "right"), ("one.png", "left")}
    found = labelled(dataset)
    zipped = {place: label for place, label in found.items() if place[0] in ("a.zip", "zip.jpg", "named.jpg")}
    assert sorted(zipped.values()) == ["Bob", "Zoë"]
    assert {place: label for place, label in found.items() if place not in zipped} == {
        **dict.fromkeys(couples, "Zoë"),
        **dict.fromkeys(bobs, "Bob"),
    }
    assert names_of(dataset) == {None} and not any(row.truth for row in rows(dataset, Label))
    assert "The labels of all 9 labelled faces agree with the grouping." in summary.notices
    lines, (row,) = explain_photo(dataset, "mwg.jpg")
    assert "labelled Zoë and Bob as hints" in lines[1] and row["labels"][1]["box"] == pytest.approx(RIGHT, abs=1e-5)


def test_metadata_is_truth_or_read_only_where_the_user_says_so(tmp_path):
    photos, dataset = tmp_path / "photos", tmp_path / "dataset"
    embed_xmp(save(photos / "a.jpg", photo([0], 1), 1, 95), packet(mwg([("Ann", (0, 0, 1, 1))], None)))
    embed_xmp(save(photos / "b.jpg", photo([1], 2), 1, 95), packet(mwg([("Ann", (0, 0, 1, 1))], None)))
    curated(photos, dataset)
    assert rows(dataset, Label) == []
    curated(photos, dataset, labels="truth:metadata")
    assert [(row.name, row.locked) for row in rows(dataset, Identity)] == [("Ann", False)]
    assert find_problems(dataset) == []


@pytest.mark.parametrize("way", ["purge", "optout"])
def test_names_from_metadata_are_forgotten_with_their_faces(tmp_path, way):
    photos, dataset = tmp_path / "photos", tmp_path / "dataset"
    for number in range(2):
        embed_xmp(couple(photos / f"{number}.jpg", number), packet(mwg([("Annabella", LEFT), ("Bob", RIGHT)], SIZE)))
        (photos / f"{number}.jpg.xmp").write_bytes(packet(mwg([("Annabella", LEFT)], SIZE)))
        save(photos / f"bob{number}.png", photo([1], 10 + number))
    embed_xmp(save(photos / "x.jpg", photo([2], 3), 1, 95), packet(names("Iptc4xmpExt:PersonInImage", "Bob")))
    # This photo is not purged, although its name begins with the name of a purged photo.
    save(photos / "0.jpg.png", photo([3], 3))
    (photos / "0.jpg.json").write_text("{}")
    curated(photos, dataset, labels="metadata")
    with Ledger.open(dataset) as ledger:
        assert any("Bob" in notice for notice in ledger.read_detail("group")["notices"])
    assert b"Annabella" in (dataset / "manifest.duckdb").read_bytes()
    example = save(tmp_path / "example.png", photo([0], 99))
    if way == "optout":
        opt_out_faces(dataset, [example], remember=False)
        assert sorted(row.label for row in rows(dataset, Label)) == ["Bob", "Bob", "Bob"]
    else:
        purge(dataset, plan_purge(dataset, photos=[str(photos / f"{number}.jpg") for number in range(2)]))
        assert [row.label for row in rows(dataset, Label)] == ["Bob"]
        (photos / "1.jpg.txt").write_text("written after the purge")
    assert b"Annabella" not in (dataset / "manifest.duckdb").read_bytes()
    curated(photos, dataset, labels="metadata")  # the files still contain the erased name, but it must not come back
    assert not [row for row in rows(dataset, Label) if row.label != "Bob"]
    left = {path_of(row.uri).name for row in rows(dataset, File) if row.uri.startswith("file:")}
    beside = {"0.jpg", "1.jpg", "0.jpg.xmp", "1.jpg.xmp", "0.jpg.json"}
    assert left - beside == {"0.jpg.png", "bob0.png", "bob1.png", "x.jpg"} and bool(left & beside) == (way == "optout")


def test_the_name_of_somebody_who_opted_out_names_nobody_in_later_photos(tmp_path):
    photos, dataset = curated_album(tmp_path, people=2, each=2)
    opt_out_faces(dataset, [save(tmp_path / "example.png", photo([0], 99))], remember=True)
    whole = (0.0, 0.0, 1.0, 1.0)  # this region is the whole photo, so it does not fit any face well enough
    embed_xmp(couple(photos / "new.jpg"), packet(mwg([("Ann", LEFT)], SIZE)))
    embed_xmp(couple(photos / "loose.jpg", 51), packet(mwg([("Ann", whole)], SIZE)))
    embed_xmp(save(photos / "alone.jpg", photo([0], 52), 1, 95), packet(names("Iptc4xmpExt:PersonInImage", "Ann")))
    for labels in ("metadata", "truth:metadata"):
        curated(photos, dataset, labels=labels)
        assert rows(dataset, Label) == [] and names_of(dataset) <= {None}


def test_a_name_without_a_place_does_not_replace_a_region_that_is_refused(tmp_path):
    photos, dataset = tmp_path / "photos", tmp_path / "dataset"
    other_shape = (WIDTH, WIDTH)
    text = packet(mwg([("Ann", LEFT)], other_shape), names("Iptc4xmpExt:PersonInImage", "Ann"))
    embed_xmp(couple(photos / "cropped.jpg"), text)
    curated(photos, dataset, labels="truth:metadata")
    assert rows(dataset, Label) == []


def test_what_cannot_be_used_is_counted_and_told(tmp_path):
    photos, dataset = tmp_path / "photos", tmp_path / "dataset"
    for number in range(4):
        couple(photos / f"{number}.jpg", 60 + number)
    embed_xmp(photos / "0.jpg", packet(mwg([("Ann", (0.4, 0, 0.5, 0.1)), ("", LEFT)], SIZE)))
    embed_xmp(photos / "1.jpg", packet(mwg([("Ann", LEFT)], (100, 100)), names("Iptc4xmpExt:PersonInImage", "A", "B")))
    embed_xmp(photos / "2.jpg", packet(mwg([("Ann", LEFT)], SIZE)))
    (photos / "2.jpg.xmp").write_bytes(packet(mwg([("Bob", LEFT)], SIZE)))
    (photos / "3.xmp").write_bytes(laugh())
    (photos / ".picasa.ini").write_text("[3.jpg]\nfaces=" + "rect64(0),1;" * 2)
    notices = curated(photos, dataset, labels="metadata").notices
    assert labelled(dataset) == {}
    assert any(notice.startswith("1 box of a label fits no face in use.") for notice in notices)
    (told,) = [notice for notice in notices if "names or regions are not used" in notice]
    assert told == (
        "7 names or regions are not used: 1 of a picture with other proportions, 1 with several names at one place, "
        "3 without a name, 2 without a place."
    )
    (told,) = [notice for notice in notices if notice.startswith("The metadata of")]
    assert told.startswith("The metadata of 1 file is not used. For example, ") and "3.xmp has a document type" in told


def test_links_and_excluded_sidecars_are_not_read(tmp_path):
    photos, dataset = tmp_path / "photos", tmp_path / "dataset"
    for name in ("link", "bin", "kept"):
        couple(photos / f"{name}.jpg", len(name))
    outside = tmp_path / "secret.xmp"
    outside.write_bytes(packet(mwg([("Ann", LEFT)], SIZE)))
    (photos / "link.xmp").symlink_to(outside)
    shutil.copy(outside, photos / "bin.xmp")
    shutil.copy(outside, photos / "kept.xmp")
    curated(photos, dataset, labels="metadata", exclude=("bin.xmp",), include=("*.jpg",))
    assert labelled(dataset) == {("kept.jpg", "left"): "Ann"}


def test_a_table_may_give_boxes(tmp_path):
    photos, dataset = tmp_path / "photos", tmp_path / "dataset"
    couple(photos / "a.jpg", 51)
    couple(photos / "b.jpg", 52)
    table = tmp_path / "who.csv"
    left, right = (
        ";".join(f"{share:.3f}".replace(".", ",") for share in (x0, y0, x1 - x0, y1 - y0))
        for x0, y0, x1, y1 in (LEFT, RIGHT)
    )
    table.write_text(f"photo;label;x;y;w;h\na.jpg;Ann;{left}\na.jpg;Bob;{right}\nb.jpg;Bob;{right}\nb.jpg;Ann;;;;\n")
    curated(photos, dataset, labels=str(table))
    assert labelled(dataset) == {
        ("a.jpg", "left"): "Ann",
        ("a.jpg", "right"): "Bob",
        ("b.jpg", "left"): "Ann",  # the line about Ann has no box, so it labels the largest face
        ("b.jpg", "right"): "Bob",
    }
    assert names_of(dataset) == {"Ann", "Bob"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("photo,label,x,y\na,b,1,1\n", "x, y, w and h, each once"),
        ("photo,label,x,y,w,h\na,b,.1,.1,.2\n", r"line 2: the box .1, .1, .2,  is not four numbers"),
        ("photo,label,x,y,w,h\na,b,10,20,30,40\n", r"line 2: the box 10, 20, 30, 40 is not inside .* Divide x and w"),
        ("photo,label,x,y,w,h\na,b,.1,.1,nan,.1\n", "is not inside the photo"),
        ("photo,label,x,y,w,h\na,b,.1,.1,0,.1\n", "is not inside the photo"),
        ("photo,label,x,y,w,h\na,b,.5,.5,.6,.1\n", "is not inside the photo"),
    ],
)
def test_a_wrong_box_is_refused_with_its_line(tmp_path, text, said):
    album(tmp_path / "photos", people=1, each=1)
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(BadInput, match=said):
        curated(tmp_path / "photos", tmp_path / "dataset", labels=str(tmp_path / "t.csv"))
    assert not (tmp_path / "dataset").exists()
