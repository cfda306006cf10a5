"""Data sets: the division into four splits, and Fashion-MNIST files found, fetched, damaged or missing."""

import gzip
import hashlib
import struct
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.datasets import load_dataset, locate_dataset
from experiments.downloads import RemoteFile, download
from experiments.errors import DataError
from experiments.recipe_settings import DataSettings
from experiments.sources.fashion_mnist import FILES, FashionPlaces, fashion_mnist_source
from experiments.sources.source import DataSource, Part, Source
from hardware.errors import StorageError
from nas.data import DataSplits, Examples

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
DIGITS = DataSettings(dataset="digits", search=300, verify=400, report=300)
FASHION = DataSettings(dataset="fashion-mnist", search=20, verify=30, report="official")


def write_idx(path: Path, values: np.ndarray) -> int:
    header = struct.pack(f">{1 + values.ndim}I", 0x0800 | values.ndim, *values.shape)
    return path.write_bytes(gzip.compress(header + values.astype(np.uint8).tobytes()))


def write_small_fashion(folder: Path, *, num_train: int = 200, num_test: int = 40) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for part, count in (("train", num_train), ("t10k", num_test)):
        write_idx(folder / f"{part}-images-idx3-ubyte.gz", rng.integers(0, 256, (count, 28, 28)))
        write_idx(folder / f"{part}-labels-idx1-ubyte.gz", np.arange(count) % 10)


@pytest.fixture
def small_fashion(tmp_path: Path) -> Path:
    write_small_fashion(tmp_path / "fashion")
    return tmp_path / "fashion"


@pytest.fixture
def nowhere(tmp_path: Path) -> FashionPlaces:
    return FashionPlaces(debian=tmp_path / "debian", cache=tmp_path / "cache", mirrors=("http://127.0.0.1:9/",))


def served(folder: Path) -> ThreadingHTTPServer:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture
def mirror(small_fashion: Path) -> Iterator[str]:
    server = served(small_fashion)
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    server.server_close()


def remote_files(folder: Path) -> tuple[RemoteFile, ...]:
    contents = {file.name: (folder / file.name).read_bytes() for file in FILES}
    return tuple(
        RemoteFile(name=name, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        for name, data in contents.items()
    )


def with_dir(folder: Path, **changes: object) -> DataSettings:
    return FASHION.model_copy(update={"path": str(folder)} | changes)


def splits(data: DataSplits) -> dict[str, Examples]:
    return {"train": data.train, "search": data.search, "verify": data.verify, "report": data.report}


def test_digits_are_divided_into_four_disjoint_stratified_splits() -> None:
    data = load_dataset(DIGITS, seed=0)
    parts = splits(data)
    assert {name: len(part) for name, part in parts.items()} == {
        "train": 797,
        "search": 300,
        "verify": 400,
        "report": 300,
    }
    indices = torch.cat([part.indices_N for part in parts.values()])
    assert sorted(indices.tolist()) == list(range(1797))
    for part in parts.values():
        counts = torch.bincount(part.labels_N, minlength=10) / len(part)
        assert counts.min() > 0.085
        assert counts.max() < 0.115
        assert part.inputs.shape[1:] == (1, 8, 8)
        assert part.inputs.dtype == torch.uint8
        assert part.labels_N.dtype == part.indices_N.dtype == torch.int64
    assert data.num_classes == 10
    assert data.native_shape == (1, 8, 8)
    assert data.augmentation == "shift"


def test_images_and_labels_can_be_rebuilt_from_the_indices_by_anybody() -> None:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    for part in splits(load_dataset(DIGITS, seed=3)).values():
        assert np.array_equal(part.inputs[:, 0].numpy(), bunch.images[part.indices_N.numpy()])
        assert np.array_equal(part.labels_N.numpy(), bunch.target[part.indices_N.numpy()])


def test_preprocessing_is_fitted_on_the_training_split_alone() -> None:
    data = load_dataset(DIGITS, seed=0)
    pixels = data.train.inputs.double()
    assert data.preprocessing.mean == pytest.approx((float(pixels.mean()),))
    assert data.preprocessing.std == pytest.approx((float(pixels.std(correction=0)),))


def of_arrays(inputs: np.ndarray, labels: object, *, official: Part | None = None, names: str = "") -> DataSource:
    """A source of these arrays; classes are named by the letters of `names`, or by their numbers."""
    labels_N = np.asarray(labels, dtype=np.int64)
    class_names = tuple(names) or tuple(str(label) for label in range(int(labels_N.max()) + 1))
    part = Part(name="all", inputs=inputs, labels_N=labels_N)
    found = Source(class_names=class_names, pool=part, official=official, augmentation="none")
    return DataSource(
        name="made", read=lambda settings, listener: found, locate=lambda settings: "", has_official=None
    )  # fmt: skip


MADE = DIGITS.model_copy(update={"search": 8, "verify": 8, "report": 8})


def test_every_channel_has_its_own_mean_and_deviation_however_large_its_level() -> None:
    rng = np.random.default_rng(0)
    levels_C, deviations_C = np.array([1e5, 0.0, -3.0]), np.array([2.0, 1e-3, 50.0])
    inputs = (rng.normal(size=(900, 3, 40)) * deviations_C[:, None] + levels_C[:, None]).astype(np.float32)
    data = load_dataset(MADE, seed=0, source=of_arrays(inputs, np.arange(900) % 2))
    train_NCT = data.train.inputs.numpy().astype(np.float64)
    assert data.preprocessing.mean == pytest.approx(train_NCT.mean(axis=(0, 2)), rel=1e-9)
    assert data.preprocessing.std == pytest.approx(train_NCT.std(axis=(0, 2)), rel=1e-6)
    assert data.train.inputs.dtype == torch.float32
    assert data.native_shape == (3, 40)


def test_every_split_has_each_class_however_rare() -> None:
    labels = np.repeat([0, 1, 2], [400, 190, 10])
    inputs = np.random.default_rng(0).integers(0, 256, (600, 1, 4, 4), dtype=np.uint8)
    data = load_dataset(MADE, seed=0, source=of_arrays(inputs, labels))
    for part in (data.search, data.verify, data.report):
        assert torch.bincount(part.labels_N, minlength=3).tolist() == [4, 3, 1]
    assert torch.bincount(data.train.labels_N).tolist() == [388, 181, 7]


def test_metric_and_augmentation_come_from_the_recipe() -> None:
    settings = DataSettings.model_validate({**DIGITS.model_dump(), "metric": "macro-f1", "augmentation": "none"})
    data = load_dataset(settings, seed=0)
    assert (data.metric, data.augmentation) == ("macro-f1", "none")
    assert (load_dataset(DIGITS, seed=0).metric, load_dataset(DIGITS, seed=0).augmentation) == ("top1", "shift")


@pytest.mark.parametrize(
    ("name", "words", "allowed"),
    [
        ("twist", "unknown augmentation 'twist'", "none, shift, shift-flip, crop-flip, crop-flip-color"),
        ("jitter-scale", "not for images", "none, shift, shift-flip"),
    ],
)
def test_an_augmentation_that_does_not_fit_is_refused_before_training(name: str, words: str, allowed: str) -> None:
    with pytest.raises(DataError, match=f"data.augmentation: .*{words}") as caught:
        load_dataset(DIGITS.model_copy(update={"augmentation": name}), seed=0)
    assert allowed in caught.value.hint


def bad_data(kind: str) -> DataSource:
    rng = np.random.default_rng(0)
    inputs, labels = rng.integers(0, 256, (100, 2, 4, 4), dtype=np.uint8), np.arange(100) % 2
    series = rng.normal(size=(100, 2, 9)).astype(np.float32)
    series[57, 1, 3] = np.nan
    grey = inputs.copy()
    grey[:, 1] = 7
    small = Part(name="test", inputs=inputs[:, :, :2], labels_N=labels)
    one_class = Part(name="test", inputs=inputs, labels_N=np.zeros(100, dtype=np.int64))
    return {
        "no number": of_arrays(series, labels),
        "constant channel": of_arrays(grey, labels),
        "lengths": of_arrays(inputs, labels[:99]),
        "negative": of_arrays(inputs, labels - 1, names="ab"),
        "too large": of_arrays(inputs, labels + 1, names="ab"),
        "empty class": of_arrays(inputs, labels, names="abc"),
        "one class": of_arrays(inputs, labels * 0),
        "flat": of_arrays(inputs.reshape(100, -1), labels),
        "other size": of_arrays(inputs, labels, official=small),
        "class absent": of_arrays(inputs, labels, official=one_class),
        "rare class": of_arrays(inputs, np.arange(100) < 3),
    }[kind]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("no number", r"a value that is no number \(NaN or infinite\) in example 57"),
        ("constant channel", "every value of channel 1 of the training split is 7"),
        ("lengths", "has 100 examples, but 99 labels"),
        ("negative", r"has the label -1 \(at position 0\), expected 0..1"),
        ("too large", r"has the label 2 \(at position 1\), expected 0..1"),
        ("empty class", "has no image of c: an empty class"),
        ("one class", r"has 1 class\(es\), expected two or more"),
        ("flat", r"one example has the shape \(32,\), expected"),
        ("other size", r"test set has examples of shape \(2, 2, 4\), the others have \(2, 4, 4\)"),
        ("class absent", "its official test set has no image of 1: an empty class"),
        ("rare class", r"too few for report 8 .* \(1 has 3\)"),
    ],
)
def test_data_that_make_no_sense_are_refused(kind: str, words: str) -> None:
    changes: dict[str, object] = {"report": "official"} if kind in ("other size", "class absent") else {}
    with pytest.raises(DataError, match=words) as caught:
        load_dataset(MADE.model_copy(update=changes), seed=0, source=bad_data(kind))
    assert caught.value.hint


def test_the_division_is_fixed_by_the_seed() -> None:
    one, same, other = (load_dataset(DIGITS, seed=seed) for seed in (5, 5, 6))
    for name, part in splits(one).items():
        assert torch.equal(part.indices_N, splits(same)[name].indices_N)
        assert not torch.equal(part.indices_N, splits(other)[name].indices_N)
    assert one.source_sha256 == same.source_sha256 == other.source_sha256


def test_a_smaller_search_split_leaves_verify_and_report_as_they_were() -> None:
    full = load_dataset(DIGITS, seed=0)
    small = load_dataset(DIGITS.model_copy(update={"search": 100}), seed=0)
    assert torch.equal(full.report.indices_N, small.report.indices_N)
    assert torch.equal(full.verify.indices_N, small.verify.indices_N)
    assert set(small.search.indices_N.tolist()) < set(full.search.indices_N.tolist())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"search": 1100}, "1,797 images to divide: too few for report 300 + verify 400 + search 1,100"),
        ({"search": 1097}, "too few"),
        ({"verify": 9}, "data.verify: got 9, expected at least one image of each of 10 classes"),
        ({"report": "official"}, "no official test set"),
    ],
)
def test_splits_that_the_data_set_cannot_give_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(DataError, match=words.replace("+", r"\+")) as caught:
        load_dataset(DIGITS.model_copy(update=changes), seed=0)
    assert caught.value.hint


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_fashion_mnist_comes_from_debians_place_with_its_official_test_set() -> None:
    settings = DataSettings(dataset="fashion-mnist", search=5000, verify=5000, report="official")
    data = load_dataset(settings, seed=0)
    assert [len(part) for part in splits(data).values()] == [50_000, 5_000, 5_000, 10_000]
    assert torch.equal(data.report.indices_N, torch.arange(10_000))
    assert {part.part for part in (data.train, data.search, data.verify)} == {"train"}
    assert data.report.part == "t10k"
    assert data.class_names[9] == "Ankle boot"
    assert data.augmentation == "shift-flip"
    assert data.native_shape == (1, 28, 28)
    assert torch.equal(torch.bincount(data.verify.labels_N), torch.full((10,), 500))
    assert f"found in {DEBIAN}" == locate_dataset(settings)


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_debians_archives_are_the_official_ones_with_rewritten_headers() -> None:
    # The header of the original: flag "has a name", the time of packing, the name. The rest is bit for bit the same.
    packed_s = {"train": 1504176606, "t10k": 1504176627}
    for file in FILES:
        name = file.name.removesuffix(".gz")
        stream = (DEBIAN / file.name).read_bytes()[10:]
        header = b"\x1f\x8b\x08\x08" + struct.pack("<I", packed_s[name.split("-")[0]]) + b"\x00\x03"
        original = header + name.encode() + b"\0" + stream
        assert len(original) == file.size_bytes
        assert hashlib.sha256(original).hexdigest() == file.sha256


def test_a_given_folder_is_used_packed_or_unpacked(small_fashion: Path, nowhere: FashionPlaces) -> None:
    packed = load_dataset(with_dir(small_fashion), seed=0, source=fashion_mnist_source(nowhere))
    for path in list(small_fashion.iterdir()):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    unpacked = load_dataset(with_dir(small_fashion), seed=0, source=fashion_mnist_source(nowhere))
    assert packed.source_sha256 == unpacked.source_sha256
    assert torch.equal(packed.train.inputs, unpacked.train.inputs)
    assert [len(part) for part in splits(packed).values()] == [150, 20, 30, 40]


def test_a_counted_report_split_leaves_the_official_test_set_alone(small_fashion: Path, nowhere: FashionPlaces) -> None:
    data = load_dataset(with_dir(small_fashion, report=50), seed=0, source=fashion_mnist_source(nowhere))
    assert data.report.part == "train"
    assert [len(part) for part in splits(data).values()] == [100, 20, 30, 50]


def test_a_missing_data_set_names_the_three_ways(nowhere: FashionPlaces) -> None:
    assert "would be downloaded" in locate_dataset(FASHION, source=fashion_mnist_source(nowhere))
    with pytest.raises(DataError, match="not on this machine and cannot be downloaded") as caught:
        load_dataset(FASHION, seed=0, source=fashion_mnist_source(nowhere))
    for way in ("data.path", "apt-get install dataset-fashion-mnist", str(nowhere.cache)):
        assert way in caught.value.hint
    assert "127.0.0.1:9" in str(caught.value)


def test_a_given_folder_that_lacks_a_file_is_not_replaced_by_another_place(
    small_fashion: Path, nowhere: FashionPlaces
) -> None:
    (small_fashion / "t10k-labels-idx1-ubyte.gz").unlink()
    for call in (partial(load_dataset, seed=0), locate_dataset):
        with pytest.raises(DataError, match=r"lacks t10k-labels-idx1-ubyte\.gz") as caught:
            call(with_dir(small_fashion), source=fashion_mnist_source(nowhere))
        assert "apt-get install" in caught.value.hint


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))


def damage(folder: Path, kind: str) -> None:
    images, labels = folder / "train-images-idx3-ubyte.gz", folder / "train-labels-idx1-ubyte.gz"
    header = struct.pack(">4I", 0x0803, 200, 28, 28)
    ways: dict[str, Callable[[], object]] = {
        "truncated": lambda: images.write_bytes(images.read_bytes()[:-1000]),
        "flipped": lambda: flip_a_byte(images),
        "not gzip": lambda: images.write_bytes(b"<html>not found</html>"),
        "empty": lambda: images.write_bytes(b""),
        "swapped": lambda: images.write_bytes(labels.read_bytes()),
        "short": lambda: images.write_bytes(gzip.compress(header + b"\0" * 500)),
        "other size": lambda: write_idx(images, np.zeros((200, 8, 8))),
        "other count": lambda: write_idx(labels, np.arange(100) % 10),
        "wild label": lambda: write_idx(labels, np.arange(200) % 11),
        "class absent": lambda: write_idx(labels, np.arange(200) % 9),
        "black": lambda: write_idx(images, np.zeros((200, 28, 28))),
        "no images": lambda: (write_idx(images, np.zeros((0, 28, 28))), write_idx(labels, np.zeros(0))),
    }
    ways[kind]()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("truncated", "train-images-idx3-ubyte.gz is damaged"),
        ("flipped", "train-images-idx3-ubyte.gz is damaged"),
        ("not gzip", "train-images-idx3-ubyte.gz is damaged"),
        ("empty", "train-images-idx3-ubyte.gz is truncated"),
        ("swapped", "magic 0x00000801, expected 0x00000803"),
        ("short", "500 values, its header says 200 x 28 x 28 = 156,800"),
        ("other size", "images of 8x8, expected 28x28"),
        ("other count", "has 200 images, .* 100 labels"),
        ("wild label", r"has the label 10 \(at position 10\), expected 0..9"),
        ("class absent", "has no image of Ankle boot"),
        ("black", "every value of the training split is 0"),
        ("no images", "has no image of T-shirt/top"),
    ],
)
def test_damaged_files_are_named(small_fashion: Path, nowhere: FashionPlaces, kind: str, words: str) -> None:
    damage(small_fashion, kind)
    with pytest.raises(DataError, match=words) as caught:
        load_dataset(with_dir(small_fashion), seed=0, source=fashion_mnist_source(nowhere))
    assert caught.value.hint


def test_a_download_is_kept_and_not_repeated(small_fashion: Path, mirror: str, nowhere: FashionPlaces) -> None:
    files = remote_files(small_fashion)
    places = FashionPlaces(debian=nowhere.debian, cache=nowhere.cache, mirrors=(mirror,), files=files)
    seen: list[tuple[str, int, int]] = []
    data = load_dataset(
        FASHION, seed=0, source=fashion_mnist_source(places), on_progress=lambda *event: seen.append(event)
    )
    assert len(data.train) == 150
    assert {name: done for name, done, total in seen if done == total} == {f.name: f.size_bytes for f in files}
    assert sorted(path.name for path in places.cache.iterdir()) == sorted(file.name for file in files)
    seen.clear()
    again = load_dataset(
        FASHION, seed=0, source=fashion_mnist_source(places), on_progress=lambda *event: seen.append(event)
    )
    assert not seen
    assert again.source_sha256 == data.source_sha256
    assert "found in" in locate_dataset(FASHION, source=fashion_mnist_source(places))


def test_a_damaged_download_in_the_cache_is_fetched_again(
    small_fashion: Path, mirror: str, nowhere: FashionPlaces
) -> None:
    files = remote_files(small_fashion)
    places = FashionPlaces(debian=nowhere.debian, cache=nowhere.cache, mirrors=(mirror,), files=files)
    load_dataset(FASHION, seed=0, source=fashion_mnist_source(places))
    damage(places.cache, "flipped")
    seen: list[str] = []
    load_dataset(
        FASHION, seed=0, source=fashion_mnist_source(places), on_progress=lambda name, done, total: seen.append(name)
    )
    assert set(seen) == {"train-images-idx3-ubyte.gz"}


def test_a_mirror_with_other_content_is_skipped_and_leaves_nothing(
    tmp_path: Path, small_fashion: Path, mirror: str
) -> None:
    (good, *_) = remote_files(small_fashion)
    bad_folder = tmp_path / "bad"
    bad_folder.mkdir()
    server = served(bad_folder)
    bad = f"http://127.0.0.1:{server.server_address[1]}/"
    data = (small_fashion / good.name).read_bytes()
    refused = {
        "SHA-256": data[:-1] + bytes([data[-1] ^ 1]),
        "more than the expected": data + b"x",
        f"{len(data) - 1:,} bytes, expected": data[:-1],
    }
    for words, content in refused.items():
        (bad_folder / good.name).write_bytes(content)
        with pytest.raises(DataError, match=words):
            download(good, mirrors=(bad,), directory=tmp_path / "target")
    assert not (tmp_path / "target").exists()
    path = download(good, mirrors=("ftp://127.0.0.1/", "http://127.0.0.1:9/", bad, mirror), directory=tmp_path / "t")
    assert path.read_bytes() == data
    server.shutdown()
    server.server_close()


class Steps:
    """A clock that advances by ten minutes whenever it is read."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic_s(self) -> float:
        self.now_s += 600
        return self.now_s

    def now_utc(self) -> object:
        raise NotImplementedError

    def sleep(self, seconds: float) -> None:
        raise NotImplementedError


def test_a_mirror_that_trickles_is_given_up(small_fashion: Path, mirror: str, tmp_path: Path) -> None:
    (good, *_) = remote_files(small_fashion)
    with pytest.raises(DataError, match="not finished after 500 s"):
        download(good, mirrors=(mirror,), directory=tmp_path / "target", limit_s=500, clock=Steps())  # type: ignore[arg-type]


def test_an_unwritable_cache_is_a_storage_error(small_fashion: Path, mirror: str, tmp_path: Path) -> None:
    (good, *_) = remote_files(small_fashion)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot write"):
        download(good, mirrors=(mirror,), directory=tmp_path / "file" / "cache")
