"""Networks for eager torch as one safe file: a list of calls of known functions, and tensors.

torch's own ways to store a network whole are no files of ours: a pickled module runs whatever its author wrote, and
`torch.export.load` unpickles (with weights_only=False) whatever an archive declares to be pickled. Here a file holds a
JSON list of calls, of the functions in `hardware.artifacts.torch_functions` and no others, and the constants as
safetensors. Reading it builds numbers, strings and tensors; nothing in it is code.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from hardware.artifacts.artifact import Artifact
from hardware.artifacts.torch_functions import int8_functions, int8_layers, torch_functions
from hardware.errors import MeasurementError
from hardware.files import sha256_file, write_bytes

if TYPE_CHECKING:
    import torch

FORMAT = "torch.safetensors"
_SCHEMA = 1
# The slash keeps it apart from the names of parameters.
_PROGRAM = "/program"
_AGAIN = "build the artifact again with the device's backend"


@dataclass(frozen=True, slots=True)
class Value:
    """The result of an earlier call, by number; number 0 is the network's input."""

    number: int


@dataclass(frozen=True, slots=True)
class Constant:
    """A tensor of the file, by name."""

    name: str


@dataclass(frozen=True, slots=True)
class TargetDevice:
    """Stands for the device that the program is loaded on."""


# One of these; None, a bool, int, float, str, slice, Ellipsis, dtype or memory format; or a list or tuple of them.
Argument: TypeAlias = Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call.

    Attributes:
        function: a name of `hardware.artifacts.torch_functions`.
        args, kwargs: what it is called with.
        results: numbers of the values that it gives.
        unpacked: whether it returns a sequence of tensors, one a number, instead of one tensor.
    """

    function: str
    args: tuple[Argument, ...]
    kwargs: Mapping[str, Argument]
    results: tuple[int, ...]
    unpacked: bool = False

    def values(self) -> set[int]:
        """Numbers of the values that the call takes."""
        return {part.number for part in _parts([*self.args, *self.kwargs.values()]) if isinstance(part, Value)}


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchProgram:
    """A network as calls in a row.

    Attributes:
        calls: in order.
        constants: tensors by name.
        output: number of the value that is the network's output.
        channels_last: whether images and their weights may lie in memory channels last, as CPUs compute fastest.
        input_shape, input_dtype, output_shape, precision: see `Artifact`.
    """

    calls: tuple[Call, ...]
    constants: "Mapping[str, torch.Tensor]"
    output: int
    channels_last: bool
    input_shape: tuple[int, ...]
    input_dtype: str
    output_shape: tuple[int, ...]
    precision: str


def write_program(program: TorchProgram, *, path: Path) -> Artifact:
    """Write a program as one file, whole or not at all.

    Raises:
        MeasurementError: a call has an argument that files cannot hold; the message names function and argument.
        StorageError: the file cannot be written.
    """
    import torch
    from safetensors.torch import save

    body = {
        "schema": _SCHEMA,
        "calls": [_encode_call(call) for call in program.calls],
        "output": program.output,
        "channels_last": program.channels_last,
        "input_shape": program.input_shape,
        "input_dtype": program.input_dtype,
        "output_shape": program.output_shape,
        "precision": program.precision,
    }
    text = json.dumps(body, allow_nan=False, separators=(",", ":")).encode("ascii")
    # Two constants may share memory, as the halves of one tensor do: safetensors wants each on its own.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in program.constants.items()}
    write_bytes(path, save({**tensors, _PROGRAM: torch.frombuffer(bytearray(text), dtype=torch.uint8)}))
    return _describe(program, path=path)


def open_program(path: Path) -> Artifact:
    """Describe a program file.

    Raises:
        StorageError: the file is missing.
        MeasurementError: it is no program file, or of a newer version.
    """
    sha256_file(path)
    return _describe(parse_program(path.read_bytes(), path=path), path=path)


def parse_program(content: bytes, *, path: Path) -> TorchProgram:
    """Return the program in a file's content.

    Raises:
        MeasurementError: the content is no program, of a newer version, or calls a function that is not allowed.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(content)
        body = json.loads(bytes(tensors.pop(_PROGRAM).tolist()))
        if body["schema"] > _SCHEMA:
            raise MeasurementError(
                f"{path} has schema {body['schema']}, this version of archsmith reads {_SCHEMA}",
                hint="update archsmith: pip install --upgrade archsmith",
            )
        program = TorchProgram(
            calls=tuple(_decode_call(call) for call in body["calls"]),
            constants=tensors,
            output=int(body["output"]),
            channels_last=bool(body["channels_last"]),
            input_shape=tuple(map(int, body["input_shape"])),
            input_dtype=str(body["input_dtype"]),
            output_shape=tuple(map(int, body["output_shape"])),
            precision=str(body["precision"]),
        )
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, IndexError) as e:
        raise MeasurementError(f"{path} is no program for torch: {type(e).__name__} {e}", hint=_AGAIN) from e
    _check(program, path=path)
    return program


def _describe(program: TorchProgram, *, path: Path) -> Artifact:
    return Artifact(
        path=path,
        format=FORMAT,
        sha256=sha256_file(path),
        size_bytes=path.stat().st_size,
        input_shape=program.input_shape,
        input_dtype=program.input_dtype,
        output_shape=program.output_shape,
        precision=program.precision,
    )


def _check(program: TorchProgram, *, path: Path) -> None:
    """Refuse calls of unknown functions and of values that are not there yet."""
    allowed = {*torch_functions(), *int8_functions(), *int8_layers()}
    num_values = 1
    for call in program.calls:
        if call.function not in allowed:
            raise MeasurementError(
                f"{path} calls {call.function!r}, which is not among the allowed functions", hint=_AGAIN
            )
        names = {part.name for part in _parts([*call.args, *call.kwargs.values()]) if isinstance(part, Constant)}
        later = [number for number in call.values() if not 0 <= number < num_values]
        following = tuple(range(num_values, num_values + len(call.results)))
        if later or not names <= set(program.constants) or not following or call.results != following:
            raise MeasurementError(f"{path} is damaged: {call.function} has something that is not there", hint=_AGAIN)
        num_values += len(following)
    if not 0 <= program.output < num_values:
        raise MeasurementError(f"{path} is damaged: it has no output", hint=_AGAIN)


def _parts(arguments: Iterable[Argument]) -> Iterable[Argument]:
    for argument in arguments:
        if isinstance(argument, list | tuple):
            yield from _parts(argument)
        else:
            yield argument


def _encode_call(call: Call) -> dict[str, Any]:
    try:
        return {
            "function": call.function,
            "args": [_encode(argument) for argument in call.args],
            "kwargs": {name: _encode(argument) for name, argument in call.kwargs.items()},
            "results": call.results,
            "unpacked": call.unpacked,
        }
    except TypeError as e:
        raise MeasurementError(
            f"{call.function} cannot be stored: {e}", hint="call it with numbers, strings and tensors"
        ) from e


def _decode_call(body: Mapping[str, Any]) -> Call:
    return Call(
        function=str(body["function"]),
        args=tuple(_decode(argument) for argument in body["args"]),
        kwargs={str(name): _decode(argument) for name, argument in body["kwargs"].items()},
        results=tuple(map(int, body["results"])),
        unpacked=bool(body["unpacked"]),
    )


def _encode(argument: Argument) -> Any:  # noqa: ANN401
    """JSON of an argument: a list is a list, everything that JSON does not know is an object with one key."""
    import torch

    # bool is an int, and torch.Size a tuple.
    if argument is None or isinstance(argument, bool | int | str):
        return argument
    if isinstance(argument, float):
        return argument if math.isfinite(argument) else {"float": repr(argument)}
    if isinstance(argument, list):
        return [_encode(part) for part in argument]
    if isinstance(argument, tuple):
        return {"tuple": [_encode(part) for part in argument]}
    if isinstance(argument, Value):
        return {"value": argument.number}
    if isinstance(argument, Constant):
        return {"constant": argument.name}
    if isinstance(argument, TargetDevice):
        return {"device": "target"}
    if isinstance(argument, slice):
        return {"slice": [argument.start, argument.stop, argument.step]}
    if argument is Ellipsis:
        return {"ellipsis": True}
    if isinstance(argument, torch.dtype | torch.memory_format):
        kind = "dtype" if isinstance(argument, torch.dtype) else "memory_format"
        return {kind: str(argument).removeprefix("torch.")}
    raise TypeError(f"an argument is {argument!r}, a {type(argument).__name__}")


def _decode(value: Any) -> Argument:  # noqa: ANN401
    import torch

    if isinstance(value, list):
        return [_decode(part) for part in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind in ("dtype", "memory_format"):
        found = getattr(torch, str(content))
        if not isinstance(found, torch.dtype | torch.memory_format):
            raise ValueError(f"{content!r} is no {kind}")
        return found
    makers: dict[str, Callable[[Any], Argument]] = {
        "float": float,
        "tuple": lambda parts: tuple(_decode(part) for part in parts),
        "value": lambda number: Value(int(number)),
        "constant": lambda name: Constant(str(name)),
        "device": lambda _: TargetDevice(),
        "slice": lambda ends: slice(*ends),
        "ellipsis": lambda _: Ellipsis,
    }
    return makers[kind](content)
