"""Published once-for-all checkpoints: every key and shape, every spelling, and every kind of bad file."""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import pytest
import torch

from searchspaces import SpaceError, get_space, load_ofa_checkpoint
from searchspaces.elastic.supernet import Supernet
from searchspaces.ofa_checkpoint import OfaImport, import_ofa_checkpoint
from searchspaces.ofa_keys import OFA_SPACES, ofa_keys, plain_key
from tests.searchspaces.hostile import Hostile

# Kept beside a checkout for development; what follows checks the same rules everywhere.
SHAPES = Path(__file__).parents[3] / "shared" / "data" / "ofa" / "state_dict_shapes.json"

# Published file, tensors and elements with the counters of seen batches (a counter for every normalisation).
PUBLISHED = {
    "ofa-mobilenetv3-w1.0": ("ofa_mbv3_d234_e346_k357_w1.0", 475, 7_720_768),
    "ofa-mobilenetv3-w1.2": ("ofa_mbv3_d234_e346_k357_w1.2", 475, 10_766_648),
    "ofa-proxyless-w1.3": ("ofa_proxyless_d234_e346_k357_w1.3", 446, 8_020_965),
    "ofa-resnet50d": ("ofa_supernet_resnet50", 368, 48_173_189),
}
SPACE = "ofa-mobilenetv3-w1.0"
PROXYLESS = "ofa-proxyless-w1.3"
COUNTER = "num_batches_tracked"

State = dict[str, torch.Tensor]


@cache
def shapes_of(space_id: str) -> Mapping[str, tuple[int, ...]]:
    """Shape of every tensor of a supernet, by its name."""
    state = get_space(space_id).build_supernet(num_classes=1000).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def placeholder(shape: Sequence[int]) -> torch.Tensor:
    """A tensor of a shape without its memory: all elements are one element."""
    return torch.zeros(()).expand(list(shape))


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    """A supernet in which no two tensors are equal."""
    torch.manual_seed(0)
    built = get_space(SPACE).build_supernet(num_classes=1000)
    with torch.no_grad():
        for tensor in built.state_dict().values():
            tensor.add_(0.1 * torch.randn_like(tensor))
    return built


@pytest.fixture(scope="module")
def published(supernet: Supernet) -> State:
    """The supernet as the published files spell it, with their counters."""
    state = supernet.state_dict()
    found: State = {}
    for ours, theirs in ofa_keys(state, space_id=SPACE).items():
        found[theirs] = state[ours]
        if theirs.endswith("running_var"):
            found[theirs.replace("running_var", COUNTER)] = torch.tensor(7)
    return found


def write(path: Path, content: object, *, zipped: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def refusal(path: Path, *, space_id: str = SPACE, num_classes: int | None = None) -> tuple[str, str]:
    """Message and hint of the error that a file ends in."""
    with pytest.raises(SpaceError) as error:
        import_ofa_checkpoint(path, space_id=space_id, num_classes=num_classes)
    return str(error.value), error.value.hint


@pytest.fixture(scope="module", params=list(PUBLISHED))
def official(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, State, OfaImport]]:
    """A file with exactly the keys and shapes of a published one, and what became of it."""
    if not SHAPES.is_file():
        pytest.skip(f"{SHAPES} is not there")
    space_id: str = request.param
    shapes = json.loads(SHAPES.read_text())[PUBLISHED[space_id][0]]
    # Tensor number n holds numbers from n to n + 1/2, so whatever arrives can be told apart.
    found = {
        key: torch.tensor(1) if key.endswith(COUNTER) else n + torch.linspace(0.0, 0.5, math.prod(shape)).view(shape)
        for n, (key, shape) in enumerate(shapes)
    }
    path = write(tmp_path_factory.mktemp("official") / "file.pth", {"state_dict": found})
    yield space_id, found, import_ofa_checkpoint(path, space_id=space_id)
    path.unlink()


def test_a_published_file_fills_every_element_exactly_once(official: tuple[str, State, OfaImport]) -> None:
    space_id, found, imported = official
    _, num_tensors, num_elements = PUBLISHED[space_id]
    keys = list(found)
    arrived = []
    for name, tensor in imported.supernet.state_dict().items():
        key = keys[int(tensor.flatten()[0])]
        assert torch.equal(tensor, found[key]), name
        assert key.rpartition(".")[2].removesuffix("_matrix") == name.rpartition(".")[2]
        arrived.append(key)
    assert sorted(arrived) == sorted(key for key in found if not key.endswith(COUNTER))
    assert set(imported.ignored_keys) == {key for key in found if key.endswith(COUNTER)}
    assert imported.num_tensors + len(imported.ignored_keys) == len(found) == num_tensors
    assert imported.num_elements + len(imported.ignored_keys) == num_elements
    assert not imported.supernet.training


def test_our_keys_are_the_published_ones_letter_by_letter(official: tuple[str, State, OfaImport]) -> None:
    space_id, found, imported = official
    ours = ofa_keys(imported.supernet.state_dict(), space_id=space_id).values()
    assert set(ours) == {key for key in found if not key.endswith(COUNTER)}


@pytest.mark.parametrize("space_id", OFA_SPACES)
def test_numbers_of_tensors_and_elements_are_the_published_ones(space_id: str) -> None:
    shapes = shapes_of(space_id)
    counters = sum(name.endswith("running_var") for name in shapes)
    elements = sum(math.prod(shape) for shape in shapes.values())
    assert (len(shapes) + counters, elements + counters) == PUBLISHED[space_id][1:]


@pytest.mark.parametrize(
    ("space_id", "ours", "theirs"),
    [
        (SPACE, "stem.norm.running_mean", "first_conv.bn.running_mean"),
        (SPACE, "first_block.depthwise.weight", "blocks.0.mobile_inverted_conv.depth_conv.conv.weight"),
        (SPACE, "first_block.project_norm.bias", "blocks.0.mobile_inverted_conv.point_linear.bn.bias"),
        (SPACE, "stages.0.0.expand.weight", "blocks.1.mobile_inverted_conv.inverted_bottleneck.conv.conv.weight"),
        (SPACE, "stages.1.0.se.reduce.bias", "blocks.5.mobile_inverted_conv.depth_conv.se.fc.reduce.bias"),
        (SPACE, "stages.3.1.se.expand.weight", "blocks.14.mobile_inverted_conv.depth_conv.se.fc.expand.weight"),
        (SPACE, "stages.4.3.depthwise.transforms.5to3", "blocks.20.mobile_inverted_conv.depth_conv.conv.5to3_matrix"),
        (SPACE, "stages.4.3.depthwise.weight", "blocks.20.mobile_inverted_conv.depth_conv.conv.conv.weight"),
        (SPACE, "stages.2.2.project_norm.weight", "blocks.11.mobile_inverted_conv.point_linear.bn.bn.weight"),
        (SPACE, "head.norm.weight", "final_expand_layer.bn.weight"),
        (PROXYLESS, "head.conv.weight", "feature_mix_layer.conv.weight"),
        (PROXYLESS, "stages.5.0.depthwise_norm.bias", "blocks.21.mobile_inverted_conv.depth_conv.bn.bn.bias"),
        ("ofa-resnet50d", "stem.conv2.conv.weight", "input_stem.1.conv.conv.conv.weight"),
        ("ofa-resnet50d", "stem.conv3.norm.running_var", "input_stem.2.bn.bn.running_var"),
        ("ofa-resnet50d", "stages.1.0.shortcut_conv.weight", "blocks.4.downsample.conv.conv.weight"),
        ("ofa-resnet50d", "stages.3.3.norm2.bias", "blocks.17.conv2.bn.bn.bias"),
    ],
)  # fmt: skip
def test_tensors_have_their_published_names(space_id: str, ours: str, theirs: str) -> None:
    keys = ofa_keys(shapes_of(space_id), space_id=space_id)
    assert keys[ours] == theirs
    assert len({plain_key(key) for key in keys.values()}) == len(keys)


def new_spelling(key: str) -> str:
    return key.replace(".mobile_inverted_conv.", ".conv.")


def static_spelling(key: str) -> str:
    return re.sub(r"\.(bn|conv|linear)\.\1\.", r".\1.", key)


@pytest.mark.parametrize("spelling", [str, new_spelling, static_spelling], ids=["legacy", "new", "static"])
def test_every_spelling_gives_the_same_supernet(
    spelling: Callable[[str], str], published: State, supernet: Supernet, tmp_path: Path
) -> None:
    found = {spelling(key): tensor for key, tensor in published.items()}
    assert len(found) == len(published)
    imported = import_ofa_checkpoint(write(tmp_path / "file.pth", {"state_dict": found}), space_id=SPACE)
    weights = imported.supernet.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in supernet.state_dict().items())
    assert len(imported.ignored_keys) == sum(key.endswith(COUNTER) for key in published)


def test_the_prefix_of_data_parallel_is_cut_off_and_told(published: State, supernet: Supernet, tmp_path: Path) -> None:
    found = {f"module.{key}": tensor for key, tensor in published.items()}
    imported = import_ofa_checkpoint(write(tmp_path / "file.pth", found), space_id=SPACE)
    weights = imported.supernet.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in supernet.state_dict().items())
    assert imported.prefix == "module."
    assert set(imported.ignored_keys) == {key for key in published if key.endswith(COUNTER)}
    found["classifier.linear.bias"] = found.pop("module.classifier.linear.bias")
    message, _ = refusal(write(tmp_path / "file.pth", found))  # one key without it: no such wrapper made this file
    assert "module.first_conv.conv.weight" in message


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before-torch-1.6"])
def test_a_bare_mapping_without_counters_is_read_and_answers_as_the_original(
    zipped: bool, published: State, supernet: Supernet, tmp_path: Path
) -> None:
    found = {key: tensor for key, tensor in published.items() if not key.endswith(COUNTER)}
    loaded = load_ofa_checkpoint(write(tmp_path / "file.pth", found, zipped=zipped), space_id=SPACE)
    arch = loaded.space.smallest
    image_NCHW = torch.randn(1, *loaded.space.input_shape(arch), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(loaded(image_NCHW, arch), supernet.eval()(image_NCHW, arch))


def test_the_number_of_classes_is_read_from_the_file(published: State, tmp_path: Path) -> None:
    few = {key: tensor[:10] if key.startswith("classifier") else tensor for key, tensor in published.items()}
    path = write(tmp_path / "file.pth", few)
    assert load_ofa_checkpoint(path, space_id=SPACE).num_classes == 10
    assert load_ofa_checkpoint(path, space_id=SPACE, num_classes=10).num_classes == 10
    message, hint = refusal(path, num_classes=1000)
    assert "10 classes, 1000 were asked for" in message
    assert "leave num_classes out" in hint


@pytest.mark.parametrize("right", [space_id for space_id in OFA_SPACES if space_id != SPACE])
def test_a_file_of_another_space_names_the_first_difference_and_the_right_space(right: str, tmp_path: Path) -> None:
    shapes = shapes_of(right)
    found = {theirs: placeholder(shapes[ours]) for ours, theirs in ofa_keys(shapes, space_id=right).items()}
    message, hint = refusal(write(tmp_path / "file.pth", found))
    assert repr(SPACE) in message
    first = {
        "ofa-mobilenetv3-w1.2": "first_conv.conv.weight has shape [24, 3, 3, 3], expected [16, 3, 3, 3]",
        "ofa-proxyless-w1.3": "first_conv.conv.weight has shape [40, 3, 3, 3], expected [16, 3, 3, 3]",
        "ofa-resnet50d": "first_conv.conv.weight is missing, expected [16, 3, 3, 3]",
    }
    assert first[right] in message
    assert repr(right) in hint


def test_missing_extra_and_reshaped_keys_are_counted_and_named(published: State, tmp_path: Path) -> None:
    found = {key: placeholder(tensor.shape) for key, tensor in published.items()}
    found["stray.weight"] = torch.zeros(3)
    path = tmp_path / "file.pth"
    message, hint = refusal(write(path, found))
    assert (
        "stray.weight [3] is not expected; in all 0 with other shapes, 0 missing, 1 not expected (stray.weight)"
        in message
    )
    assert "none of" in hint
    bias = "blocks.5.mobile_inverted_conv.depth_conv.se.fc.reduce.bias"
    found[bias] = torch.zeros(41)
    assert f"{bias} has shape [41], expected [40]; in all 1 with other shapes" in refusal(write(path, found))[0]
    lost = [key for key in found if key.startswith("blocks.3.") and not key.endswith(COUNTER)]
    for key in lost:
        del found[key]
    message, _ = refusal(write(path, found))
    assert f"{lost[0]} is missing, expected [144, 24, 1, 1]; in all 1 with other shapes, {len(lost)} missing" in message
    assert message.count("blocks.3.") == 1 + 5
    assert ", ...)" in message


def test_one_tensor_under_two_spellings_is_refused(published: State, tmp_path: Path) -> None:
    found = {key: placeholder(tensor.shape) for key, tensor in published.items()}
    found["classifier.linear.linear.bias"] = torch.zeros(1000)
    message, _ = refusal(write(tmp_path / "file.pth", found))
    assert "several names: classifier.linear.bias, classifier.linear.linear.bias" in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([1, 2], "holds a list"),
        ({}, "holds a dict, not the tensors"),
        ({"state_dict": {"a": 1.0}}, "holds a float under 'a'"),
        ({"a": torch.zeros(2), "epoch": 3}, "holds a int under 'epoch'"),
        ({"a": torch.zeros(2, dtype=torch.int64)}, "holds torch.int64 under 'a'"),
        ({"a": torch.zeros(2)}, "first_conv.conv.weight is missing"),
        ({"classifier.linear.weight": torch.zeros(())}, "first_conv.conv.weight is missing"),
    ],
)
def test_a_file_without_the_tensors_of_a_network_is_refused(content: object, expected: str, tmp_path: Path) -> None:
    assert expected in refusal(write(tmp_path / "file.pth", content))[0]


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before-torch-1.6"])
def test_code_in_a_file_is_refused_and_does_not_run(zipped: bool, tmp_path: Path) -> None:
    target = tmp_path / "created"
    path = write(tmp_path / "file.pth", {"state_dict": {"a": Hostile(target)}}, zipped=zipped)
    message, _ = refusal(path)
    assert "contains code" in message
    assert "refused" in message
    assert not target.exists()
    torch.load(path, weights_only=False)  # the file is as hostile as it claims
    assert target.exists()


def test_a_whole_module_counts_as_code(tmp_path: Path) -> None:
    message, hint = refusal(write(tmp_path / "file.pth", torch.nn.Linear(2, 2)))
    assert "contains code (torch.nn.modules.linear.Linear)" in message
    assert "state_dict()" in hint


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before-torch-1.6"])
@pytest.mark.parametrize("part", [0.0, 0.02, 0.5, 0.999])
def test_a_file_cut_short_is_refused(zipped: bool, part: float, tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.pth", {"state_dict": {"a": torch.randn(1000)}}, zipped=zipped).read_bytes()
    path = tmp_path / "file.pth"
    path.write_bytes(whole[: int(part * len(whole))])
    message, hint = refusal(path)
    assert "is cut short" in message or (part == 0 and "is empty" in message)
    assert "weights_only" not in message
    assert "download it again" in hint


@pytest.mark.parametrize(
    "content", [b"<!DOCTYPE html><html>404: Not Found</html>", b"version https://git-lfs", b"\0" * 99]
)
def test_a_file_that_is_something_else_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    path.write_bytes(content)
    assert "no PyTorch file" in refusal(path)[0]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused_with_their_key(
    number: float, published: State, tmp_path: Path
) -> None:
    key = "blocks.3.mobile_inverted_conv.depth_conv.bn.bn.running_var"
    broken = published[key].clone()
    broken[2] = number
    message, hint = refusal(write(tmp_path / "file.pth", {**published, key: broken}))
    assert f"not finite in 1 tensors ({key})" in message
    assert hint


def test_a_missing_file_and_a_directory_are_told(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "gone.pth")[0]
    assert "Is a directory" in refusal(tmp_path)[0]


def test_a_space_of_another_family_is_refused_before_the_file_is_opened(tmp_path: Path) -> None:
    message, hint = refusal(tmp_path / "gone.pth", space_id="mbconv-small")
    assert "'mbconv-small'" in message
    assert SPACE in hint
