"""Own arrays and tensors: names, axes and labels in .npz, .npy, .pt and .safetensors files, and functions."""

import pickle  # noqa: TID251 - makes a file that must be refused
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from experiments.datasets import load_dataset, locate_dataset
from experiments.errors import DataError
from experiments.recipe_settings import DataSettings
from experiments.sources.arrays import as_values
from tests.experiments.sources.conftest import Digits

Arrays = Mapping[str, object]


def save_npz(path: Path, arrays: Arrays) -> tuple[str, Path]:
    np.savez_compressed(path / "own.npz", **arrays)  # type: ignore[arg-type]
    return "numpy", path / "own.npz"


def save_folder(path: Path, arrays: Arrays) -> tuple[str, Path]:
    for name, array in arrays.items():
        np.save(path / f"{name}.npy", np.asarray(array))
    return "numpy", path


def save_pt(path: Path, arrays: Arrays) -> tuple[str, Path]:
    torch.save({name: as_tensor(array) for name, array in arrays.items()}, path / "own.pt")
    return "torch", path / "own.pt"


def save_safetensors(path: Path, arrays: Arrays) -> tuple[str, Path]:
    save_file({name: torch.as_tensor(array) for name, array in arrays.items()}, path / "own.safetensors")
    return "torch", path / "own.safetensors"


def as_tensor(array: object) -> object:
    return array if isinstance(array, list) else torch.as_tensor(array)


def settings(saved: tuple[str, Path | str], **changes: object) -> DataSettings:
    dataset, path = saved
    document = {"dataset": dataset, "path": str(path), "search": 20, "verify": 20, "report": 20}
    return DataSettings.model_validate(document | changes)


@pytest.fixture
def arrays(digits: Digits) -> dict[str, object]:
    return {"x": digits.images_NHW, "y": digits.labels_N}


@pytest.mark.parametrize("save", [save_npz, save_folder, save_pt, save_safetensors])
def test_a_file_gives_back_what_was_saved(
    tmp_path: Path, digits: Digits, arrays: dict[str, object], save: Callable[[Path, Arrays], tuple[str, Path]]
) -> None:
    saved = save(tmp_path, arrays)
    data = load_dataset(settings(saved), seed=0)
    assert data.class_names == ("0", "1", "2", "3")
    assert (data.native_shape, data.augmentation, data.train.inputs.dtype) == ((1, 8, 8), "shift", torch.uint8)
    for part in (data.train, data.search, data.verify, data.report):
        assert np.array_equal(part.inputs[:, 0].numpy(), digits.images_NHW[part.indices_N.numpy()])
        assert np.array_equal(part.labels_N.numpy(), digits.labels_N[part.indices_N.numpy()])
    assert str(saved[1]) in locate_dataset(settings(saved))


@pytest.mark.parametrize("save", [save_npz, save_folder, save_pt])
def test_a_test_set_and_class_names_are_used(
    tmp_path: Path, digits: Digits, arrays: dict[str, object], save: Callable[[Path, Arrays], tuple[str, Path]]
) -> None:
    names = ["zero", "one", "two", "three"]
    more = {"x_test": digits.images_NHW[::3], "y_test": digits.labels_N[::3], "class_names": names}
    data = load_dataset(settings(save(tmp_path, arrays | more), report="official"), seed=0)
    assert data.class_names == tuple(names)
    assert (data.report.part, len(data.report), len(data.train)) == ("test", 80, 200)


RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("array", "layout", "shape", "dtype"),
    [
        (RNG.integers(0, 256, (5, 7, 6), dtype=np.uint8), None, (5, 1, 7, 6), np.uint8),
        (RNG.integers(0, 256, (5, 7, 6, 3), dtype=np.uint8), None, (5, 3, 7, 6), np.uint8),
        (RNG.integers(0, 256, (5, 4, 7, 6)), None, (5, 4, 7, 6), np.uint8),
        (RNG.integers(0, 300, (500, 1, 7, 6)), None, (500, 1, 7, 6), np.float32),
        (RNG.integers(-9, 9, (5, 1, 7, 6)), None, (5, 1, 7, 6), np.float32),
        (RNG.normal(size=(5, 40)), None, (5, 1, 40), np.float32),
        (RNG.normal(size=(5, 2, 40)), "NCT", (5, 2, 40), np.float32),
        (RNG.normal(size=(5, 7, 6)), "NHW", (5, 1, 7, 6), np.float32),
        (RNG.normal(size=(5, 3, 7, 3)), "NHWC", (5, 3, 3, 7), np.float32),
        (RNG.normal(size=(5, 9, 7, 2)), "NCHW", (5, 9, 7, 2), np.float32),
        (RNG.normal(size=(5, 7, 6)) > 0, "NHW", (5, 1, 7, 6), np.uint8),
    ],
)
def test_axes_and_types_become_those_of_examples(
    array: np.ndarray, layout: str | None, shape: tuple[int, ...], dtype: type[np.uint8] | type[np.float32]
) -> None:
    found = as_values(array, layout=layout, where="here")
    assert found.shape == shape
    assert found.dtype == np.dtype(dtype)
    expected = np.moveaxis(array, 3, 1) if layout == "NHWC" or array.shape[-1:] == (3,) else array
    assert np.array_equal(found.reshape(-1), expected.astype(dtype).reshape(-1))


@pytest.mark.parametrize(
    ("array", "layout", "words"),
    [
        (RNG.normal(size=(5, 7, 6)), None, "which axis is what"),
        (RNG.normal(size=(5, 3, 7, 3)), None, "which axis is what"),
        (RNG.normal(size=(5, 7, 6, 5)), None, "which axis is what"),
        (RNG.normal(size=5), None, "which axis is what"),
        (RNG.normal(size=(5, 7, 6)), "NHWC", "NHWC has 4 axes, the examples have the shape"),
        (np.array(["a", "b"]), None, "expected numbers"),
    ],
)
def test_axes_that_are_not_clear_ask_for_the_layout(array: np.ndarray, layout: str | None, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        as_values(array, layout=layout, where="here")
    assert caught.value.hint


def change(kind: str, digits: Digits) -> dict[str, object]:
    y = digits.labels_N
    changes: dict[str, dict[str, object]] = {
        "float labels": {"y": y.astype(np.float32)},
        "label axes": {"y": y[:, None]},
        "negative label": {"y": y - 1},
        "gap": {"y": y + 1},
        "wild label": {"y": np.where(np.arange(240) == 17, 10**12, y)},
        "lengths": {"y": y[:-1]},
        "half a test set": {"x_test": digits.images_NHW},
        "names": {"class_names": np.arange(4)},
        "few names": {"class_names": np.array(["a", "b"])},
        "no number": {"x": np.where(np.arange(240) == 99, np.inf, 1.0)[:, None] * RNG.normal(size=(240, 30))},
        "constant": {"x": np.full((240, 8, 8), 3, dtype=np.uint8)},
        "too few": {"x": digits.images_NHW[::10], "y": y[::10]},
        "objects": {"x": np.array([None, {}], dtype=object)},
    }
    return changes[kind]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("float labels", r"the labels have the type float32 and shape \(240,\), for example 0\.0;"),
        ("label axes", r"shape \(240, 1\)"),
        ("negative label", r"has the label -1 \(at position 0\)"),
        ("gap", "has no image of 0: an empty class"),
        ("wild label", r"has the label 1,000,000,000,000 \(at position 17\), but 240 examples"),
        ("lengths", "has 240 examples, but 239 labels"),
        ("half a test set", "has no y_test; it has x, x_test, y"),
        ("names", "class_names has the type int64"),
        ("few names", r"has the label 2 \(at position 120\), expected 0\.\.1"),
        ("no number", "no number .* in example 99"),
        ("constant", "every value of the training split is 3"),
        ("too few", "has 24 images to divide: too few"),
        ("objects", "x in .*: it holds Python objects, refused"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value encountered")
def test_arrays_that_make_no_sense_are_refused(
    tmp_path: Path, digits: Digits, arrays: dict[str, object], kind: str, words: str
) -> None:
    with pytest.raises(DataError, match=words) as caught:
        load_dataset(settings(save_npz(tmp_path, arrays | change(kind, digits))), seed=0)
    assert caught.value.hint


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return (exec, ("raise SystemExit('code of the file ran')",))


def bad_file(folder: Path, kind: str, arrays: Arrays) -> tuple[str, Path]:
    _, npz = save_npz(folder, arrays)
    _, pt = save_pt(folder, arrays)
    _, safe = save_safetensors(folder, arrays)
    match kind:
        case "truncated npz":
            npz.write_bytes(npz.read_bytes()[:-100])
        case "flipped npz":
            content = bytearray(npz.read_bytes())
            content[len(content) // 3] ^= 0xFF
            npz.write_bytes(bytes(content))
        case "no npz":
            npz.write_text("hello")
        case "truncated pt":
            pt.write_bytes(pt.read_bytes()[:-100])
        case "list pt":
            torch.save([torch.zeros(3)], pt)
        case "code pt":
            torch.save({"x": Evil()}, pt)
        case "pickle pt":
            pt.write_bytes(pickle.dumps(Evil()))
        case "other names pt":
            torch.save({"data": torch.zeros(3), "labels": torch.zeros(3)}, pt)
        case "other names npz":
            np.savez(npz, images=np.zeros(3), y=np.zeros(3))
        case "many names pt":
            torch.save({f"w{n}": torch.zeros(1) for n in range(30)}, pt)
        case "truncated safetensors":
            safe.write_bytes(safe.read_bytes()[:-100])
        case "empty folder":
            (folder / "empty").mkdir()
            return "numpy", folder / "empty"
        case "other names folder":
            (folder / "other").mkdir()
            return save_folder(folder / "other", {"images": np.zeros(3), "y": np.zeros(3)})
        case "missing npz":
            return "numpy", folder / "nowhere.npz"
        case "missing pt":
            return "torch", folder / "nowhere.pt"
    return {"npz": ("numpy", npz), "pt": ("torch", pt), "safetensors": ("torch", safe)}[kind.split()[-1]]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("truncated npz", r"own\.npz is damaged or no \.npz file"),
        ("flipped npz", r"own\.npz is damaged"),
        ("no npz", r"own\.npz is damaged or no \.npz file"),
        ("truncated pt", r"own\.pt is cut short"),
        ("pickle pt", r"own\.pt is a pickle, which may contain code: refused"),
        ("other names npz", r"own\.npz has no x; it has images, y$"),
        ("many names pt", r"own\.pt has no x, y; it has w0, w1, .*\.\.\. \(30 names\)$"),
        ("list pt", r"own\.pt holds a list, not a mapping of tensors"),
        ("code pt", r"own\.pt contains code \(\S*exec\), refused"),
        ("other names pt", r"own\.pt has no x, y; it has data, labels$"),
        ("other names folder", r"has no x; it has images, y$"),
        ("truncated safetensors", r"own\.safetensors is damaged"),
        ("empty folder", "has no x, y; it has nothing"),
        ("missing npz", "does not exist"),
        ("missing pt", "is no file"),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path: Path, arrays: dict[str, object], kind: str, words: str) -> None:
    small = {"x": np.asarray(arrays["x"])[::2].copy(), "y": np.asarray(arrays["y"])[::2].copy()}
    with pytest.raises(DataError, match=words) as caught:
        load_dataset(settings(bad_file(tmp_path, kind, small)), seed=0)
    assert caught.value.hint


@pytest.mark.parametrize(("kind", "advice"), [("truncated pt", "download it again"), ("code pt", "if you trust its")])
def test_a_bad_pt_file_gets_the_advice_that_fits_before_the_form(
    tmp_path: Path, arrays: dict[str, object], kind: str, advice: str
) -> None:
    with pytest.raises(DataError) as caught:
        load_dataset(settings(bad_file(tmp_path, kind, arrays)), seed=0)
    hint = caught.value.hint
    assert -1 < hint.find(advice) < hint.find("Save it as torch.save(")


def test_an_archive_that_unpacks_to_more_than_the_memory_is_refused(
    tmp_path: Path, arrays: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        available = 10_000

    saved = save_npz(tmp_path, arrays | {"x": np.zeros((240, 8, 8), dtype=np.uint8)})
    assert saved[1].stat().st_size < 5_000
    monkeypatch.setattr("psutil.virtual_memory", lambda: Full)
    with pytest.raises(DataError, match=r"The arrays in .* take"):
        load_dataset(settings(saved), seed=0)


OWN_MODULE = """
import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits

class Digits(torch.utils.data.Dataset):
    classes = [f"number {n}" for n in range(10)]

    def __init__(self, first, last, size=8):
        bunch = load_digits()
        self.images, self.targets, self.size = bunch.images[first:last], bunch.target[first:last], size

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        size = self.size if index == 5 else 8
        return torch.tensor(self.images[index][None, :size], dtype=torch.float32), int(self.targets[index])

class Pictures(Digits):
    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return Image.fromarray(image[0].numpy().astype(np.uint8)), torch.tensor(label)

class Odd(Digits):
    def __init__(self, item, at=5):
        super().__init__(0, 600)
        self.item, self.at = item, at

    def __getitem__(self, index):
        return self.item(*super().__getitem__(index)) if index == self.at else super().__getitem__(index)

class Endless(torch.utils.data.IterableDataset):
    def __iter__(self):
        yield torch.zeros(1, 8, 8), 0

class Classless(Digits):
    classes = 10

def fail(x, y): raise FileNotFoundError("7.png")
def raises(): return Odd(fail)
def raises_at_once(): return Odd(fail, at=0)
def single(): return Odd(lambda x, y: x)
def triple(): return Odd(lambda x, y: (x, y, y))
def mapping(): return Odd(lambda x, y: {"image": x, "label": y})
def text_label(): return Odd(lambda x, y: (x, "seven"))
def float_label(): return Odd(lambda x, y: (x, 7.0))
def vector_label(): return Odd(lambda x, y: (x, torch.tensor([y])))
def text_example(): return Odd(lambda x, y: ("7.png", y))
def no_example(): return Odd(lambda x, y: (None, y))
def ragged(): return Odd(lambda x, y: ([[1, 2], [3]], y))
def whole_numbers(): return Odd(lambda x, y: (x.long(), y))
def endless(): return Endless()
def classless(): return Classless(0, 600)
def one(): return Digits(0, 600)
def two(): return Digits(0, 600), Digits(600, 700)
def pictures(): return Pictures(0, 600)
def unequal(): return Digits(0, 600, size=7)
def empty(): return Digits(0, 0)
def nothing(): return None
def broken(): raise FileNotFoundError("images.tar")
number = 3
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_digits.py").write_text(OWN_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_digits", raising=False)
    return "own_digits"


def test_a_function_gives_torch_data_sets(own_module: str) -> None:
    from sklearn.datasets import load_digits

    data = load_dataset(settings(("torch", f"{own_module}:two"), report="official"), seed=0)
    assert data.class_names[3] == "number 3"
    assert (len(data.train), len(data.report), data.train.inputs.dtype) == (560, 100, torch.float32)
    assert np.array_equal(data.train.inputs[:, 0].numpy(), load_digits().images[data.train.indices_N.numpy()])
    told: list[tuple[str, int, int]] = []
    pictures = load_dataset(
        settings(("torch", f"{own_module}:pictures")), seed=0, on_progress=lambda *event: told.append(event)
    )
    assert (pictures.native_shape, pictures.train.inputs.dtype) == ((1, 8, 8), torch.uint8)
    assert told[-1][1:] == (600, 600)
    assert locate_dataset(settings(("torch", f"{own_module}:one"))) == "made by own_digits:one"


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("unequal", r"example 5 has the shape \(1, 7, 8\), the first one \(1, 8, 8\)"),
        ("empty", "the data set is empty"),
        ("nothing", "returned NoneType, expected a map-style data set"),
        ("broken", r"own_digits:broken failed: FileNotFoundError: images\.tar"),
        ("number", "is a int, expected a function"),
        ("raises", r"own_digits:raises: reading item 5 failed: FileNotFoundError: 7\.png"),
        ("raises_at_once", r"reading item 0 failed: FileNotFoundError"),
        ("single", r"item 5 is a Tensor, expected a pair \(example, label\)"),
        ("triple", "item 5 is a tuple of 3, expected a pair"),
        ("mapping", "item 5 is a dict, expected a pair"),
        ("text_label", "the label of item 5 is a str .*, expected an integer"),
        ("float_label", "the label of item 5 is a float of type float64, .* expected an integer"),
        ("vector_label", r"the label of item 5 is a Tensor of type int64, shape \(1,\), expected an integer"),
        ("text_example", "the example of item 5 is a str .*, expected a tensor, an array or a Pillow image"),
        ("no_example", "the example of item 5 is a NoneType, expected a tensor"),
        ("ragged", "the example of item 5 is a list, expected a tensor"),
        ("whole_numbers", "example 5 has the type int64, the first one float32"),
        ("endless", "the data set does not tell its length: TypeError"),
        ("classless", "the data set's `classes` is a int, expected a list of texts"),
        ("absent", "cannot be imported"),
    ],
)
def test_a_function_that_gives_no_data_set_is_refused(own_module: str, function: str, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        load_dataset(settings(("torch", f"{own_module}:{function}")), seed=0)
    assert caught.value.hint


def test_a_module_that_is_not_installed_is_named() -> None:
    with pytest.raises(DataError, match="'nowhere_at_all'") as caught:
        load_dataset(settings(("torch", "nowhere_at_all:make")), seed=0)
    assert "PYTHONPATH" in caught.value.hint
