"""A folder of images: what is read, how sizes and channels come about, and what is wrong with bad ones."""

import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from experiments.datasets import load_dataset, locate_dataset
from experiments.errors import DataError
from experiments.recipe_settings import DataSettings
from tests.experiments.sources.conftest import Digits, write_images


def settings(folder: Path, **changes: object) -> DataSettings:
    document = {"dataset": "image-folder", "path": str(folder), "search": 20, "verify": 20, "report": 20}
    return DataSettings.model_validate(document | changes)


def recolour(path: Path, *, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> None:
    Image.new(mode, size, 100).save(path)


def test_images_labels_and_class_names_are_those_of_the_folder(folder: Path, digits: Digits) -> None:
    (folder / ".DS_Store").write_bytes(b"hidden")
    (folder / "digit-1" / ".hidden").write_bytes(b"hidden")
    for place in (folder, folder / "digit-2"):
        for litter in ("Thumbs.db", "desktop.ini"):
            (place / litter).write_bytes(b"left behind")
    (folder / "LICENSE.txt").write_text("free")
    told: list[tuple[str, int, int]] = []
    data = load_dataset(settings(folder), seed=0, on_progress=lambda *event: told.append(event))
    assert data.class_names == ("digit-0", "digit-1", "digit-2", "digit-3")
    assert told[-1] == ("images", 240, 240)
    assert data.native_shape == (1, 8, 8)
    assert data.augmentation == "shift-flip"
    parts = (data.train, data.search, data.verify, data.report)
    assert [len(part) for part in parts] == [180, 20, 20, 20]
    for part in parts:
        assert part.inputs.dtype == torch.uint8
        assert np.array_equal(part.inputs[:, 0].numpy(), digits.images_NHW[part.indices_N.numpy()])
        assert np.array_equal(part.labels_N.numpy(), digits.labels_N[part.indices_N.numpy()])
    assert str(folder) in locate_dataset(settings(folder))


@pytest.mark.parametrize("suffix", [".bmp", ".webp", ".JPG"])
def test_other_formats_are_read_too(tmp_path: Path, digits: Digits, suffix: str) -> None:
    data = load_dataset(settings(write_images(tmp_path, digits, suffix=suffix), channels=1), seed=0)
    expected = digits.images_NHW[data.train.indices_N.numpy()].astype(float)
    # BMP loses nothing; JPEG and WebP lose a little
    error = np.abs(data.train.inputs[:, 0].numpy() - expected).mean()
    assert error == 0 if suffix == ".bmp" else error < 12


def test_a_test_folder_is_the_official_test_set(tmp_path: Path, folder: Path, digits: Digits) -> None:
    shutil.move(folder, tmp_path / "own" / "train")
    few = Digits(images_NHW=digits.images_NHW[::4], labels_N=digits.labels_N[::4])
    write_images(tmp_path / "own" / "test", few)
    data = load_dataset(settings(tmp_path / "own", report="official"), seed=0)
    assert (data.train.part, data.report.part) == ("train", "test")
    assert np.array_equal(data.report.inputs[:, 0].numpy(), few.images_NHW)
    assert len(data.train) == 200
    counted = load_dataset(settings(tmp_path / "own"), seed=0)
    assert counted.report.part == "train"
    shutil.rmtree(tmp_path / "own" / "test" / "digit-3")
    with pytest.raises(DataError, match="the class 'digit-3' is in one of train and test only"):
        load_dataset(settings(tmp_path / "own"), seed=0)


def test_one_coloured_image_makes_all_coloured_unless_the_recipe_says_grey(folder: Path) -> None:
    Image.new("RGB", (8, 8), (200, 100, 0)).save(folder / "digit-0" / "000.png")
    coloured = load_dataset(settings(folder), seed=0)
    assert coloured.native_shape == (3, 8, 8)
    assert len(coloured.preprocessing.mean) == 3
    found = {tuple(image[:, 0, 0].tolist()) for image in coloured.train.inputs}
    assert found <= {(n, n, n) for n in range(256)} | {(200, 100, 0)}
    assert load_dataset(settings(folder, channels=1), seed=0).native_shape == (1, 8, 8)


def test_images_are_resized_by_their_shorter_side_and_cut_in_the_middle(folder: Path) -> None:
    wide = np.zeros((20, 60), dtype=np.uint8)
    wide[:, 20:40] = 250  # the middle third is what is left
    for path in folder.rglob("*.png"):
        Image.fromarray(wide).save(path)
    Image.new("L", (10, 10), 9).save(folder / "digit-0" / "000.png")
    data = load_dataset(settings(folder, image_size=10), seed=0)
    images = torch.cat([part.inputs for part in (data.train, data.search, data.verify, data.report)])
    assert images.shape == (240, 1, 10, 10)
    assert sorted(images[:, 0, 5, 5].tolist()) == [9] + 239 * [250]
    assert images[:, 0, :, 1:-1].min(dim=2).values.max() == 250


def damage(folder: Path, kind: str) -> None:
    image = folder / "digit-1" / "005.png"
    ways: dict[str, Callable[[], object]] = {
        "truncated": lambda: image.write_bytes(image.read_bytes()[:-30]),
        "no image": lambda: image.write_text("<html>"),
        "empty file": lambda: image.write_bytes(b""),
        "other size": lambda: recolour(image, size=(8, 9)),
        "sixteen bits": lambda: Image.fromarray(np.zeros((8, 8), dtype=np.uint16)).save(image),
        "empty class": (folder / "digit-10").mkdir,
        "one class": lambda: [path.rename(folder.parent / path.name) for path in sorted(folder.iterdir())[1:]],
        "strange file": lambda: (folder / "digit-2" / "notes.txt").write_text("-"),
        "nested": (folder / "digit-2" / "more").mkdir,
        "stray image": lambda: shutil.copy(image, folder / "stray.png"),
        "beside train": (folder / "train").mkdir,
        "test only": lambda: (folder / "digit-1").rename(folder / "test"),
        "litter alone": lambda: [path.replace(image.with_name("Thumbs.db")) for path in image.parent.glob("*")],
        "missing": lambda: shutil.rmtree(folder),
    }
    ways[kind]()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("truncated", r"digit-1/005\.png is damaged"),
        ("no image", r"digit-1/005\.png is damaged"),
        ("empty file", r"digit-1/005\.png is damaged"),
        ("other size", r"different sizes: .*digit-0/000\.png is 8x8, .*digit-1/005\.png is 8x9"),
        ("sixteen bits", r"digit-1/005\.png has more than 8 bits"),
        ("empty class", r"digit-10 is an empty class"),
        ("one class", r"has 1 class folder\(s\), expected two or more"),
        ("strange file", r"digit-2/notes\.txt is no PNG, JPEG, BMP or WebP file \(1 such"),
        ("nested", r"digit-2/more is no PNG"),
        ("stray image", r"stray\.png lies in no class folder"),
        ("beside train", "beside train and test .* has the folder 'digit-0'"),
        ("test only", "has a folder 'test', but no folder 'train'"),
        ("litter alone", "digit-1 is an empty class"),
        ("missing", "is no folder"),
    ],
)
def test_a_bad_folder_is_refused_with_the_name_of_what_is_wrong(folder: Path, kind: str, words: str) -> None:
    damage(folder, kind)
    with pytest.raises(DataError, match=words) as caught:
        load_dataset(settings(folder), seed=0)
    assert caught.value.hint


def write_png(path: Path, *, bits: int, colour: int) -> None:
    """An 8 x 8 PNG; Pillow itself writes no colours of 16 bits."""
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    rows = 8 * (b"\0" + bytes(8 * channels * bits // 8))
    head = struct.pack(">IIBBBBB", 8, 8, bits, colour, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ))  # fmt: skip


@pytest.mark.parametrize("colour", [0, 2, 4, 6], ids=["grey", "colour", "grey and alpha", "colour and alpha"])
def test_sixteen_bits_a_channel_are_refused_and_eight_are_read(folder: Path, colour: int) -> None:
    image = folder / "digit-1" / "005.png"
    write_png(image, bits=16, colour=colour)
    with pytest.raises(DataError, match=r"digit-1/005\.png has more than 8 bits") as caught:
        load_dataset(settings(folder), seed=0)
    assert "8 bits" in caught.value.hint
    write_png(image, bits=8, colour=colour)
    assert load_dataset(settings(folder), seed=0).native_shape == (3 if colour in (2, 6) else 1, 8, 8)


def test_images_of_different_sizes_ask_for_image_size(folder: Path) -> None:
    damage(folder, "other size")
    with pytest.raises(DataError) as caught:
        load_dataset(settings(folder), seed=0)
    assert "data.image_size" in caught.value.hint
    assert load_dataset(settings(folder, image_size=8), seed=0).native_shape == (3, 8, 8)


def test_a_folder_without_test_images_has_no_official_test_set(folder: Path) -> None:
    with pytest.raises(DataError, match="no official test set"):
        load_dataset(settings(folder, report="official"), seed=0)


def test_images_that_do_not_fit_into_memory_are_refused_before_they_are_decoded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        available = 240 * 32 * 32

    monkeypatch.setattr("psutil.virtual_memory", lambda: Full)
    told: list[object] = []
    with pytest.raises(DataError, match="240 images of 1x32x32 take") as caught:
        load_dataset(settings(folder, image_size=32), seed=0, on_progress=lambda *event: told.append(event))
    assert not told
    assert "data.image_size" in caught.value.hint
    assert load_dataset(settings(folder), seed=0).native_shape == (1, 8, 8)
