"""Images by the way a site uses them: an index beside a folder, or an archive, into a column of one form."""

from __future__ import annotations

import stat
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from aimer2.connectors.catalogue import make_connector
from aimer2.connectors.connector import Connector
from aimer2.connectors.images import decode
from aimer2.connectors.mapping import DataMapping
from aimer2.connectors.table import describe, load_table, pseudonyms
from aimer2.core.errors import BadData, BadInput, NotFound

KEY = bytes(range(32))
MARKER = "Ecce-Homo-1987"
"""A patient's name, of which files are often named."""

rng = np.random.default_rng(5)
GREY = rng.integers(0, 256, (6, 5), np.uint8)
DEEP = rng.integers(0, 65_536, (6, 5), np.uint16)
COLOUR = rng.integers(0, 256, (6, 5, 3), np.uint8)


class FixedClock:
    def now(self) -> float:
        return 5.0

    def monotonic(self) -> float:
        return 0.0


def mapping(**image: Any) -> DataMapping:
    return DataMapping.model_validate({"patient": "id", "columns": {"xray": {"kind": "image", **({"source": "file"} | image)}, "age": {}}})


def connector(folder: Path, files: Mapping[str, Any], *, opted_out: frozenset[str] = frozenset(), read: DataMapping | None = None) -> Connector:
    """Patients p0, p1, …, one file each; an array is saved as an image, bytes as they are, None not at all."""
    (folder / "scans").mkdir(exist_ok=True)
    for name, content in files.items():
        if isinstance(content, np.ndarray):
            Pillow.fromarray(content).save(folder / "scans" / name)
        elif content is not None:
            (folder / "scans" / name).write_bytes(content)
    rows = "".join(f"p{number},{name},{40 + number}\n" for number, name in enumerate(files))
    (folder / "index.csv").write_text("id,file,age\n" + rows)
    source = {"path": folder / "index.csv", "folder": folder / "scans"}
    return make_connector("images", source, read or mapping(), split_key=KEY, opted_out=opted_out)


def test_files_become_one_column_in_the_order_of_the_index(tmp_path: Path) -> None:
    table = connector(tmp_path, {"b.png": GREY, "a.png": 255 - GREY}).read()
    np.testing.assert_array_equal(table.columns["xray"].values, np.stack([GREY, 255 - GREY])[:, None])
    assert table.columns["age"].values.tolist() == [40, 41]
    assert table.patient.tolist() == pseudonyms(["p0", "p1"], KEY).tolist()


@pytest.mark.parametrize(
    ("name", "pixels", "expected"),
    [
        ("x.png", GREY, GREY[None]),
        ("x.tif", DEEP, DEEP[None]),
        ("x.png", DEEP, DEEP[None]),
        ("x.tiff", COLOUR, np.moveaxis(COLOUR, 2, 0)),
        ("x.png", GREY > 99, np.where(GREY > 99, 255, 0)[None]),
        ("x.png", np.dstack([COLOUR, GREY]), np.moveaxis(COLOUR, 2, 0)),
    ],
)
def test_lossless_files_give_their_pixels(tmp_path: Path, name: str, pixels: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> None:
    values = connector(tmp_path, {name: pixels}).read().columns["xray"].values
    np.testing.assert_array_equal(values[0], expected)
    assert values.dtype.itemsize == (2 if pixels.dtype == np.uint16 else 1)


def test_a_photograph_is_turned_upright_and_grey_is_the_weighted_mean(tmp_path: Path) -> None:
    exif = Pillow.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90° to the right
    smooth = np.repeat(np.linspace(0, 255, 16).astype(np.uint8)[:, None], 8, axis=1)
    Pillow.fromarray(np.dstack([smooth, smooth, smooth])).save(tmp_path / "x.jpg", exif=exif, quality=95)
    upright = decode(tmp_path / "x.jpg", codes=False)
    assert upright.shape == (8, 16, 3)
    assert (np.abs(upright.astype(int) - np.rot90(np.dstack([smooth] * 3), -1).astype(int)) < 12).all()
    grey = connector(tmp_path, {"c.png": COLOUR}, read=mapping(channels=1)).read().columns["xray"].values
    assert grey[0, 0] == pytest.approx(COLOUR @ np.array([0.299, 0.587, 0.114]), abs=0.5)


def test_white_says_what_the_bits_were_used_for(tmp_path: Path) -> None:
    twelve = DEEP >> 4
    values = connector(tmp_path, {"x.png": twelve}, read=mapping(white=4095)).read().columns["xray"].values
    assert values[0, 0] == pytest.approx(twelve * (65_535 / 4095), abs=0.5)
    above = connector(tmp_path, {"x.png": np.full((2, 2), 9000, np.uint16)}, read=mapping(white=4095)).read()
    assert above.columns["xray"].values.min() == 65_535


def test_sizes_are_made_alike_only_where_the_mapping_says_so(tmp_path: Path) -> None:
    files = {"a.png": np.full((4, 4), 200, np.uint8), "b.png": np.full((2, 4), 200, np.uint8)}
    with pytest.raises(BadData, match="1 of 2 images: another size than 4×4"):
        connector(tmp_path, files).read()
    stretched, padded = (
        connector(tmp_path, files, read=mapping(height=4, width=4, resize=how)).read().columns["xray"].values[1, 0] for how in ("stretch", "pad")
    )
    assert (stretched == 200).all()
    assert padded.tolist() == [[0] * 4, [200] * 4, [200] * 4, [0] * 4]


BAD = {
    "is cut off": ("cut.png", "broken"),
    "is a text": ("text.png", "broken"),
    "is not there": ("none.png", "no such file"),
    "leads out of the folder": ("../index.csv", "outside"),
    "is a folder's": (".", "no such file"),
    "is empty": ("", "empty"),
    "is in several pages": ("pages.tif", "several images"),
    "has floats": ("float.tif", "neither grey nor in colour"),
    "has other bits": ("deep.png", "not of 8 bits"),
    "hides 16 bits in colour": ("rgb48.png", "colour of 16 bits"),
}


@pytest.mark.parametrize(("name", "told"), BAD.values(), ids=BAD)
def test_a_bad_file_is_told_by_its_kind_and_number_and_never_by_its_name(tmp_path: Path, name: str, told: str) -> None:
    made = connector(tmp_path, {f"{MARKER}.png": GREY})
    scans = tmp_path / "scans"
    Pillow.fromarray(GREY).save(scans / "cut.png")
    (scans / "cut.png").write_bytes((scans / "cut.png").read_bytes()[:-30])
    (scans / "text.png").write_text(MARKER)
    pages = [Pillow.fromarray(GREY), Pillow.fromarray(GREY)]
    pages[0].save(scans / "pages.tif", save_all=True, append_images=pages[1:])
    Pillow.fromarray(GREY.astype(np.float32)).save(scans / "float.tif")
    Pillow.fromarray(DEEP).save(scans / "deep.png")
    (scans / "rgb48.png").write_bytes(png_of_48_bits())
    (tmp_path / "index.csv").write_text(f"id,file,age\np0,{MARKER}.png,1\np1,{name},2\np2,{name},3\n")
    with pytest.raises(BadData, match=told) as caught:
        made.read()
    assert "2 of 3 images" in caught.value.sentence
    assert not any(word in caught.value.sentence + caught.value.advice for word in filter(None, (MARKER, name.strip("."), "p1")))
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def png_of_48_bits() -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + bytes(6 * 5) for _ in range(6))
    head = struct.pack(">IIBBBBB", 5, 6, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_a_link_that_leads_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    Pillow.fromarray(GREY).save(tmp_path / "secret.png")
    made = connector(tmp_path, {"link.png": None})
    (tmp_path / "scans" / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(BadData, match="outside"):
        made.read()


def test_images_of_those_who_opted_out_are_not_even_opened(tmp_path: Path) -> None:
    made = connector(tmp_path, {"a.png": GREY, "b.png": b"broken", "c.png": GREY}, opted_out=frozenset({"p1"}))
    snapshot = made.refresh(tmp_path / "snapshot", clock=FixedClock())
    assert (snapshot.rows, snapshot.patients, snapshot.opted_out) == (2, 2, 1)


def test_a_snapshot_holds_the_pixels_mapped_and_read_only_and_no_file_name(tmp_path: Path) -> None:
    snapshot = connector(tmp_path, {f"{MARKER}.png": GREY, "b.png": GREY}).refresh(tmp_path / "snapshot", clock=FixedClock())
    column = load_table(snapshot.path, verify=True, sha256=snapshot.sha256).columns["xray"]
    assert isinstance(column.values.base, np.memmap) and not column.values.flags.writeable
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o400 and MARKER.encode() not in path.read_bytes() for path in snapshot.path.iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.csv", "scans", "snapshot"], "nothing else is left of the images"


def test_what_is_told_of_them_is_their_form_and_coarse_counts(tmp_path: Path) -> None:
    table = connector(tmp_path, {f"{number}.png": GREY for number in range(23)}).read()
    xray = next(column for column in describe(table).columns if column.name == "xray")
    assert (xray.kind, xray.form, xray.missing, xray.quantiles) == ("image", "grey, 6×5, 8 bits", "<10", ())


MASK = {"kind": "mask", "source": "file", "categories": ["tissue", "cell"], "values": {"0": "tissue", "7": "cell"}}
MASKED = DataMapping.model_validate({"patient": "id", "columns": {"mask": MASK}})


def test_a_mask_keeps_codes_of_grey_of_palettes_and_of_truth_values(tmp_path: Path) -> None:
    codes = (GREY > 99).astype(np.uint8)
    palette = Pillow.fromarray(codes * 7)
    palette.putpalette([value for number in range(256) for value in (255 - number, number, 0)])
    made = connector(tmp_path, {"a.png": codes * 7, "b.png": None}, read=MASKED)
    palette.save(tmp_path / "scans" / "b.png")
    table = made.read()
    np.testing.assert_array_equal(table.columns["mask"].values, np.stack([codes, codes]))
    truth = MASKED.model_copy(update={"columns": {"mask": MASKED.columns["mask"].model_copy(update={"values": {}})}})
    np.testing.assert_array_equal(connector(tmp_path, {"c.png": codes == 1}, read=truth).read().columns["mask"].values[0], codes)
    with pytest.raises(BadData, match="1 of 1 image: pixel values that the mapping does not list"):
        connector(tmp_path, {"a.png": codes * 8}, read=MASKED).read()
    with pytest.raises(BadData, match="a mask in colour"):
        connector(tmp_path, {"a.png": COLOUR}, read=MASKED).read()


@pytest.mark.parametrize(
    ("column", "problem"),
    [
        ({"kind": "image", "unit": "mm"}, "no unit"),
        ({"kind": "image", "height": 3}, "together"),
        ({"kind": "image", "resize": "pad"}, "needs them"),
        ({"kind": "image", "categories": ["a", "b"]}, "of a mask"),
        ({"kind": "mask", "categories": ["a"]}, "two or more"),
        ({"kind": "mask", "categories": ["a", "b"], "values": {"x": "a"}}, "pixel values"),
        ({"kind": "mask", "categories": ["a", "b"], "channels": 1}, "one channel"),
        ({"kind": "number", "white": 255}, "are of images"),
    ],
)
def test_a_mapping_of_images_that_means_nothing_is_refused(column: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        DataMapping.model_validate({"columns": {"x": column}})


def test_a_table_of_numbers_has_no_images(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,file,age\np,x.png,3\n")
    with pytest.raises(BadData, match="no images"):
        make_connector("csv", {"path": tmp_path / "t.csv"}, mapping(), split_key=KEY).read()
    with pytest.raises(NotFound):
        make_connector("images", {"path": tmp_path / "t.csv", "folder": tmp_path / "none"}, mapping(), split_key=KEY).read()


def archive(path: Path, **arrays: np.ndarray[Any, Any]) -> Path:
    np.savez_compressed(path, **arrays)
    return path


def test_an_archive_whose_parts_follow_one_another(tmp_path: Path) -> None:
    images, labels = rng.integers(0, 256, (5, 4, 3), np.uint8), np.array([[0], [1], [1], [0], [1]], np.uint8)
    path = archive(tmp_path / "d.npz", train_images=images[:3], test_images=images[3:], train_labels=labels[:3], test_labels=labels[3:])
    columns = {"xray": {"kind": "image", "source": "images"}, "ill": {"kind": "category", "source": "labels", "categories": ["0", "1"]}}
    read = DataMapping.model_validate({"columns": columns})
    table = make_connector("npz", {"path": path, "parts": ["train", "test"]}, read, split_key=KEY).read()
    np.testing.assert_array_equal(table.columns["xray"].values[:, 0], images)
    assert table.columns["ill"].values.tolist() == [0, 1, 1, 0, 1]
    assert len(set(table.patient.tolist())) == 5


def test_archives_with_patients_colour_and_faults(tmp_path: Path) -> None:
    path = archive(tmp_path / "d.npz", images=np.stack([COLOUR, COLOUR]), id=np.array(["p", "p"]), age=np.array([1.5, np.nan]))
    read = mapping(source="images")
    table = make_connector("npz", {"path": path}, read, split_key=KEY).read()
    assert table.columns["xray"].values.shape == (2, 3, 6, 5)
    assert len(set(table.patient.tolist())) == 1
    assert np.isnan(table.columns["age"].values[1])
    for arrays, told in (({"images": GREY[None], "id": np.array(["p", "q"]), "age": np.ones(2)}, "length"), ({"id": np.array(["p"])}, "no column")):
        with pytest.raises(BadData, match=told):
            make_connector("npz", {"path": archive(tmp_path / "bad.npz", **arrays)}, read, split_key=KEY).read()
    (tmp_path / "text.npz").write_text(MARKER)
    with pytest.raises(BadData) as caught:
        make_connector("npz", {"path": tmp_path / "text.npz"}, read, split_key=KEY).read()
    assert MARKER not in caught.value.sentence


def test_pneumoniamnist_is_read_whole(data_dir: Path) -> None:
    columns = {
        "xray": {"kind": "image", "source": "images"},
        "pneumonia": {"kind": "category", "source": "labels", "categories": ["no", "yes"], "values": {"0": "no", "1": "yes"}},
    }
    source = {"path": data_dir / "pneumoniamnist" / "pneumoniamnist.npz", "parts": ["train", "val", "test"]}
    table = make_connector("npz", source, DataMapping.model_validate({"columns": columns}), split_key=KEY).read()
    assert table.columns["xray"].values.shape == (5856, 1, 28, 28)
    assert np.bincount(table.columns["pneumonia"].values).tolist() == [1583, 4273]


def test_micrographs_are_read_from_their_files(data_dir: Path, tmp_path: Path) -> None:
    folder = data_dir / "bccd-blood-cells" / "images"
    names = sorted(path.name for path in folder.iterdir())[:3]
    (tmp_path / "index.csv").write_text("file\n" + "\n".join(names) + "\n")
    read = DataMapping.model_validate({"columns": {"smear": {"kind": "image", "source": "file", "height": 60, "width": 80, "resize": "stretch"}}})
    values = make_connector("images", {"path": tmp_path / "index.csv", "folder": folder}, read, split_key=KEY).read().columns["smear"].values
    assert values.shape == (3, 3, 60, 80)
    whole = np.asarray(Pillow.open(folder / names[1]), np.float64)
    assert values[1].mean(axis=(1, 2)) == pytest.approx(whole.mean(axis=(0, 1)), abs=1.0)


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(BadInput, match="folder"):
        make_connector("images", {"path": "x", "folder": 3}, mapping(), split_key=KEY)
