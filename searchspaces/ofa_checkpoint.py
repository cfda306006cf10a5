"""Reads the checkpoints that the authors of once-for-all published into supernets of the `ofa-...` spaces.

    supernet = load_ofa_checkpoint(Path("ofa_mbv3_d234_e346_k357_w1.0"), space_id="ofa-mobilenetv3-w1.0")

A file is either {"state_dict": {key: tensor}} or the inner mapping alone, in any spelling that `searchspaces.ofa_keys`
knows, and with or without the prefix of torch's DataParallel. Counters of seen batches (`num_batches_tracked`) have no
use here; they are ignored, there or not.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from searchspaces.errors import SpaceError
from searchspaces.ofa_keys import OFA_SPACES, PARALLEL_PREFIX, ofa_keys, plain_key
from searchspaces.registry import get_space
from searchspaces.tensor_files import load_tensor_file

if TYPE_CHECKING:
    import torch

    from searchspaces.elastic.supernet import Supernet

Shape = tuple[int, ...]

_CLASSIFIER = "classifier.linear.weight"
_CLASSES = 1000
_IGNORED = "num_batches_tracked"
_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class OfaImport:
    """What became of a checkpoint file.

    Attributes:
        supernet: holds the file's weights; in eval mode.
        num_tensors, num_elements: how many were copied: parameters and running statistics.
        ignored_keys: keys of the file that have no use here.
        prefix: what all keys of the file began with and was cut off; empty if nothing was.
    """

    supernet: "Supernet"
    num_tensors: int
    num_elements: int
    ignored_keys: tuple[str, ...]
    prefix: str = ""


def load_ofa_checkpoint(path: Path | str, *, space_id: str, num_classes: int | None = None) -> "Supernet":
    """Read a once-for-all checkpoint into a supernet in eval mode; see `import_ofa_checkpoint`.

    Subnets that you `extract` need their own normalisation statistics before their accuracy means anything.

    Raises:
        SpaceError: as `import_ofa_checkpoint`.
    """
    return import_ofa_checkpoint(path, space_id=space_id, num_classes=num_classes).supernet


def import_ofa_checkpoint(path: Path | str, *, space_id: str, num_classes: int | None = None) -> OfaImport:
    """Read a once-for-all checkpoint and say what was read.

    Every key and every shape is compared with those of the space before anything is copied. No code in the file runs.

    Args:
        path: a published file, or one in their layout.
        space_id: one of the `ofa-...` spaces.
        num_classes: what the file's classifier must have; None takes what it has.

    Raises:
        SpaceError: no such space; the file is missing, damaged, no checkpoint or contains code; or its keys and
            shapes are not those of the space (the first difference is named), or a number is not finite.
    """
    path = Path(path)
    if space_id not in OFA_SPACES:
        raise SpaceError(
            f"once-for-all checkpoints fit no space {space_id!r}", hint=f"they fit: {', '.join(OFA_SPACES)}"
        )
    found = _tensors(load_tensor_file(path), path=path)
    prefix = PARALLEL_PREFIX if all(key.startswith(PARALLEL_PREFIX) for key in found) else ""
    found = {key.removeprefix(prefix): tensor for key, tensor in found.items()}
    (name, times), *_ = Counter(plain_key(key) for key in found).most_common(1)
    if times > 1:
        names = ", ".join(key for key in found if plain_key(key) == name)
        raise SpaceError(f"{path} has one tensor under several names: {names}", hint="keep one of them")
    ignored = tuple(key for key in found if key.endswith(_IGNORED))
    by_name = {plain_key(key): key for key in found if not key.endswith(_IGNORED)}
    num_classes = _num_classes(by_name, found, path=path, wanted=num_classes)
    supernet = get_space(space_id).build_supernet(num_classes=num_classes)
    keys = ofa_keys(supernet.state_dict(), space_id=space_id)
    difference = _difference(by_name, found, expected=_expected_shapes(supernet, keys))
    if difference is not None:
        raise SpaceError(
            f"{path} does not fit space {space_id!r}: {difference}",
            hint=_hint_of_space(by_name, found, num_classes=num_classes),
        )
    weights = {ours: found[by_name[plain_key(theirs)]] for ours, theirs in keys.items()}
    _check_finite(weights, keys=keys, path=path)
    supernet.load_state_dict(weights, strict=True)
    return OfaImport(
        supernet=supernet.eval(),
        num_tensors=len(weights),
        num_elements=sum(tensor.numel() for tensor in weights.values()),
        ignored_keys=ignored,
        prefix=prefix,
    )


def _tensors(content: object, *, path: Path) -> "dict[str, torch.Tensor]":
    import torch

    layout = 'a file holds {"state_dict": {key: tensor}} or the inner mapping alone'
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise SpaceError(f"{path} holds a {type(content).__name__}, not the tensors of a network", hint=layout)
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise SpaceError(f"{path} holds a {type(value).__name__} under {key!r}, not a tensor", hint=layout)
        if not value.is_floating_point() and not key.endswith(_IGNORED):
            raise SpaceError(f"{path} holds {value.dtype} under {key!r}, expected floating-point numbers", hint=layout)
    return {key: value.detach() for key, value in content.items()}


def _check_finite(weights: "Mapping[str, torch.Tensor]", *, keys: Mapping[str, str], path: Path) -> None:
    import torch

    wrong = [keys[ours] for ours, tensor in weights.items() if not torch.isfinite(tensor).all()]
    if wrong:
        raise SpaceError(
            f"{path} holds numbers that are not finite in {len(wrong)} tensors{_some(wrong)}",
            hint="its training went wrong or the file is damaged: use another checkpoint",
        )


def _num_classes(
    by_name: Mapping[str, str], found: "Mapping[str, torch.Tensor]", *, path: Path, wanted: int | None
) -> int:
    """Classes of the file's classifier; where it has none, the published number: the comparison reports it then."""
    shape = found[by_name[_CLASSIFIER]].shape if _CLASSIFIER in by_name else ()
    if len(shape) != 2:
        return _CLASSES
    num_classes = shape[0]
    if wanted is not None and num_classes != wanted:
        raise SpaceError(
            f"the classifier of {path} has {num_classes} classes, {wanted} were asked for",
            hint="leave num_classes out to take the file's",
        )
    return num_classes


def _expected_shapes(supernet: "Supernet", keys: Mapping[str, str]) -> dict[str, tuple[str, Shape]]:
    """Published key and shape of everything that the supernet holds, by plain key."""
    state = supernet.state_dict()
    return {plain_key(theirs): (theirs, tuple(state[ours].shape)) for ours, theirs in keys.items()}


def _difference(
    by_name: Mapping[str, str],
    found: "Mapping[str, torch.Tensor]",
    *,
    expected: Mapping[str, tuple[str, Shape]],
) -> str | None:
    """The first difference in the order of the network, and how many there are; None if all keys and shapes agree."""
    missing = {name: key for name, (key, _) in expected.items() if name not in by_name}
    extra = [key for name, key in by_name.items() if name not in expected]
    reshaped = {
        name: key for name, key in by_name.items() if name in expected and tuple(found[key].shape) != expected[name][1]
    }
    if not (missing or extra or reshaped):
        return None
    name = next((name for name in expected if name in missing or name in reshaped), None)
    if name is None:
        first = f"{extra[0]} {_shown(found[extra[0]].shape)} is not expected"
    elif name in missing:
        first = f"{missing[name]} is missing, expected {_shown(expected[name][1])}"
    else:
        first = (
            f"{reshaped[name]} has shape {_shown(found[reshaped[name]].shape)}, expected {_shown(expected[name][1])}"
        )
    return (
        f"{first}; in all {len(reshaped)} with other shapes, {len(missing)} missing{_some(list(missing.values()))}, "
        f"{len(extra)} not expected{_some(extra)}"
    )


def _hint_of_space(by_name: Mapping[str, str], found: "Mapping[str, torch.Tensor]", *, num_classes: int) -> str:
    for space_id in OFA_SPACES:
        supernet = get_space(space_id).build_supernet(num_classes=num_classes)
        expected = _expected_shapes(supernet, ofa_keys(supernet.state_dict(), space_id=space_id))
        if _difference(by_name, found, expected=expected) is None:
            return f"its keys and shapes are those of space {space_id!r}: pass that one"
    return f"it fits none of {', '.join(OFA_SPACES)}: is it a whole supernet of once-for-all?"


def _shown(shape: Shape) -> str:
    return str(list(shape))


def _some(keys: list[str]) -> str:
    return f" ({', '.join(keys[:_SHOWN])}{', ...' if len(keys) > _SHOWN else ''})" if keys else ""
