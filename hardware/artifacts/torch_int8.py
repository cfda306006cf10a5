"""Static post-training quantisation of torch programs.

Convolutions and linear layers compute in int8: weights symmetric with one scale an output channel, activations uint8
with the range that they have on the calibration inputs (Jacob et al., CVPR 2018, doi:10.1109/CVPR.2018.00286). A batch
norm behind a convolution is folded into it, a ReLU becomes part of the kernel; hard-swish and the addition of two
quantised tensors stay quantised; everything else computes in float32 between a conversion and the next.
"""

import inspect
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from hardware.artifacts.calibration import whole_batches
from hardware.artifacts.torch_program import Argument, Call, Constant, TorchProgram, Value
from hardware.artifacts.torch_runner import TorchRunner
from hardware.errors import MeasurementError
from searchspaces.errors import Hinted

if TYPE_CHECKING:
    import torch

_CONVOLUTIONS = {"functional.conv1d": "int8.conv1d", "functional.conv2d": "int8.conv2d"}
_CONVOLUTION_ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_LINEAR_ARGUMENTS = ("input", "weight", "bias")
_RELUS = ("functional.relu", "torch.relu", "Tensor.relu", "torch.relu_", "Tensor.relu_")
_ADDITIONS = ("Tensor.add", "torch.add", "Tensor.add_")
# 7 of 8 bits: processors without VNNI instructions add two products in 16 bits, which may overflow with 8.
_MOST_WEIGHT = 63
_MOST_ACTIVATION = 255
_SMALLEST_SCALE = 1e-8


def quantize_program(program: TorchProgram, *, calibration: "torch.Tensor") -> TorchProgram:
    """Return the program with its convolutions and linear layers in int8; input and output stay float32.

    Args:
        program: in fp32.
        calibration: inputs (N, ...).

    Raises:
        MeasurementError: the calibration inputs do not fit, the program has nothing to quantise, torch's kernels refuse
            a layer, or the result has nothing to do with the fp32 network.
    """
    import torch

    with torch.no_grad():
        folded = _fold_batch_norms(program)
        try:
            ranges = _ranges(folded, calibration=calibration)
            quantised = _Quantiser(folded, ranges=ranges).quantised()
            _compare(program, quantised, calibration=calibration)
        except Hinted:
            raise
        except RuntimeError as e:
            raise MeasurementError(
                f"cannot quantise a network for inputs of shape {program.input_shape} with calibration inputs of shape "
                f"{tuple(calibration.shape)}: {e}",
                hint="check the shape of the calibration inputs, or measure the network in fp32",
            ) from e
    return quantised


def _compare(program: TorchProgram, quantised: TorchProgram, *, calibration: "torch.Tensor") -> None:
    """Refuse an int8 program whose outputs are worse than zeros would be."""
    import torch

    x = torch.from_numpy(next(whole_batches(calibration, size=program.input_shape[0])))
    runners = (TorchRunner(program), TorchRunner(quantised))
    expected, found = (runner(runner.place(x)) for runner in runners)
    error, largest = float((found - expected).norm()), float(expected.norm())
    if not error <= largest:
        raise MeasurementError(
            f"the int8 outputs differ from the fp32 outputs by {error:.3g}, whose own norm is {largest:.3g}",
            hint="calibrate with real inputs, or measure the network in fp32",
        )


def _ranges(program: TorchProgram, *, calibration: "torch.Tensor") -> dict[int, tuple[float, float]]:
    """Smallest and largest number of every floating value over all calibration inputs; zero is always within."""
    import torch

    found: dict[int, tuple[float, float]] = {}

    def watch(number: int, value: torch.Tensor) -> None:
        if value.is_floating_point() and value.numel():
            low, high = found.get(number, (0.0, 0.0))
            smallest, largest = (float(bound) for bound in value.aminmax())
            found[number] = (min(low, smallest), max(high, largest))

    runner = TorchRunner(program)
    for batch in whole_batches(calibration, size=program.input_shape[0]):
        runner(runner.place(torch.from_numpy(batch)), watch=watch)
    return found


def _fold_batch_norms(program: TorchProgram) -> TorchProgram:
    """Put every batch norm that follows a convolution, and nothing else does, into the convolution."""
    import torch
    from torch.nn import functional

    uses = _uses(program)
    constants = dict(program.constants)
    calls: list[Call] = []
    made_by: dict[int, int] = {}
    for call in program.calls:
        if call.function == "functional.batch_norm" and isinstance(call.args[0], Value):
            source = call.args[0].number
            norm = inspect.signature(functional.batch_norm).bind(*call.args, **call.kwargs)
            norm.apply_defaults()
            given = norm.arguments
            layer = calls[made_by[source]] if source in made_by else None
            named = _convolution(layer, constants=constants) if layer is not None else None
            if layer is not None and named is not None and uses[source] == 1 and not given["training"]:
                name, weight = f"/folded/{len(calls)}/weight", constants[named["weight"].name]
                mean, var = constants[given["running_mean"].name], constants[given["running_var"].name]
                scale = torch.rsqrt(var + given["eps"])
                if given["weight"] is not None:
                    scale = scale * constants[given["weight"].name]
                bias = constants[named["bias"].name] if named["bias"] is not None else torch.zeros_like(mean)
                shift = constants[given["bias"].name] if given["bias"] is not None else torch.zeros_like(mean)
                constants[name] = weight * scale.view(-1, *(1 for _ in weight.shape[1:]))
                constants[f"/folded/{len(calls)}/bias"] = (bias - mean) * scale + shift
                named.update(weight=Constant(name), bias=Constant(f"/folded/{len(calls)}/bias"))
                calls[made_by[source]] = replace(layer, args=tuple(named.values()), kwargs={}, results=call.results)
                made_by[call.results[0]] = made_by[source]
                continue
        made_by.update(dict.fromkeys(call.results, len(calls)))
        calls.append(call)
    return replace(program, calls=tuple(calls), constants=constants)


def _uses(program: TorchProgram) -> Counter[int]:
    """How many calls take each value; the output counts as one more."""
    uses = Counter(number for call in program.calls for number in call.values())
    uses[program.output] += 1
    return uses


def _convolution(call: Call, *, constants: "Mapping[str, torch.Tensor]") -> dict[str, Any] | None:
    """The arguments of a convolution by name, or None if it is something else or has no fixed weights."""
    if call.function not in _CONVOLUTIONS:
        return None
    defaults = {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}
    return _layer(call, names=_CONVOLUTION_ARGUMENTS, defaults=defaults, constants=constants)


def _layer(
    call: Call, *, names: Sequence[str], defaults: Mapping[str, Any], constants: "Mapping[str, torch.Tensor]"
) -> dict[str, Any] | None:
    given = {**dict(zip(names, call.args, strict=False)), **call.kwargs}
    named = {name: given[name] if name in given else defaults[name] for name in names}
    fixed = isinstance(named["input"], Value) and isinstance(named["weight"], Constant)
    if not fixed or not (named["bias"] is None or isinstance(named["bias"], Constant)):
        return None
    # A string asks for the padding of "same" or "valid", which the int8 kernels do not know.
    return None if isinstance(named.get("padding"), str) else named


@dataclass(slots=True)
class _Form:
    """Where a value of the old program is in the new one: as float32, as quint8, or both."""

    plain: int | None = None
    quantised: int | None = None


@dataclass(slots=True)
class _Quantiser:
    program: TorchProgram
    ranges: Mapping[int, tuple[float, float]] = field(kw_only=True)
    calls: list[Call] = field(default_factory=list)
    constants: "dict[str, torch.Tensor]" = field(default_factory=dict)
    forms: dict[int, _Form] = field(default_factory=lambda: {0: _Form(plain=0)})
    num_values: int = 1
    num_layers: int = 0

    def quantised(self) -> TorchProgram:
        """The whole program."""
        uses = _uses(self.program)
        users = {number: call for call in self.program.calls for number in call.values()}
        done: set[int] = set()
        for call in self.program.calls:
            if call.results[0] in done:
                continue
            layer = self._as_layer(call)
            if layer is None:
                self._other(call)
                continue
            result = call.results[0]
            user = users.get(result)
            relu = user is not None and uses[result] == 1 and _is_relu(user)
            if relu and user is not None:
                # The kernel ends where the range does, so one range serves ReLU and ReLU6.
                result = user.results[0]
                done.add(result)
            self._add_layer(call, layer, result=result, relu=relu)
        if not self.num_layers:
            raise MeasurementError(
                "the network has no convolution and no linear layer that could be computed in int8",
                hint="measure it in fp32",
            )
        output = self._plain(self.program.output)
        return replace(self.program, calls=tuple(self.calls), constants=self.constants, output=output, precision="int8")

    def _as_layer(self, call: Call) -> dict[str, Any] | None:
        if call.function == "functional.linear":
            return _layer(call, names=_LINEAR_ARGUMENTS, defaults={"bias": None}, constants=self.program.constants)
        return _convolution(call, constants=self.program.constants)

    def _add_layer(self, call: Call, layer: Mapping[str, Any], *, result: int, relu: bool) -> None:
        import torch

        weight = self.program.constants[layer["weight"].name].to(torch.float32)
        scales = weight.abs().flatten(1).amax(1).clamp(min=_SMALLEST_SCALE * _MOST_WEIGHT) / _MOST_WEIGHT
        rounded = torch.round(weight / scales.view(-1, *(1 for _ in weight.shape[1:])))
        bias = torch.zeros(len(weight)) if layer["bias"] is None else self.program.constants[layer["bias"].name]
        name = f"/int8/{self.num_layers}"
        self.num_layers += 1
        self.constants[f"{name}/weight"] = rounded.clamp(-_MOST_WEIGHT, _MOST_WEIGHT).to(torch.int8)
        self.constants[f"{name}/scales"] = scales
        self.constants[f"{name}/bias"] = bias.to(torch.float32)
        args: list[Argument] = [Value(self._quantised(layer["input"].number))]
        args += [Constant(f"{name}/{part}") for part in ("weight", "scales", "bias")]
        if call.function in _CONVOLUTIONS:
            dims = weight.ndim - 2
            args.append([_expanded(layer[part], dims=dims) for part in ("stride", "padding", "dilation")])
            args.append(layer["groups"])
        args += [*self._scale(result), relu]
        function = _CONVOLUTIONS.get(call.function, "int8.linear")
        self.forms[result] = _Form(quantised=self._emit(function, args))

    def _other(self, call: Call) -> None:
        """Everything that is no layer: quantised where a kernel is known and the inputs are, plain otherwise."""
        inputs = [part.number for part in call.args if isinstance(part, Value)]
        quantised = [self.forms[number].quantised for number in inputs]
        result = call.results[0]
        if call.function == "functional.hardswish" and quantised[0] is not None:
            number = self._emit("int8.hardswish", [Value(quantised[0]), *self._scale(result)])
            self.forms[result] = _Form(quantised=number)
        elif call.function in _ADDITIONS and len(call.args) == 2 and not call.kwargs and _all_there(quantised, 2):
            args = [*(Value(self._quantised(number)) for number in inputs), *self._scale(result)]
            self.forms[result] = _Form(quantised=self._emit("int8.add", args))
        else:
            moved = replace(
                call,
                args=tuple(self._moved(part) for part in call.args),
                kwargs={name: self._moved(part) for name, part in call.kwargs.items()},
            )
            numbers = tuple(range(self.num_values, self.num_values + len(call.results)))
            self.num_values += len(numbers)
            self.calls.append(replace(moved, results=numbers))
            self.forms.update({old: _Form(plain=new) for old, new in zip(call.results, numbers, strict=True)})

    def _moved(self, argument: Argument) -> Argument:
        if isinstance(argument, Value):
            return Value(self._plain(argument.number))
        if isinstance(argument, Constant):
            self.constants[argument.name] = self.program.constants[argument.name]
        if isinstance(argument, list | tuple):
            return type(argument)(self._moved(part) for part in argument)
        return argument

    def _emit(self, function: str, args: Sequence[Argument]) -> int:
        number = self.num_values
        self.num_values += 1
        self.calls.append(Call(function=function, args=tuple(args), kwargs={}, results=(number,)))
        return number

    def _plain(self, number: int) -> int:
        form = self.forms[number]
        if form.plain is None:
            assert form.quantised is not None
            form.plain = self._emit("Tensor.dequantize", [Value(form.quantised)])
        return form.plain

    def _quantised(self, number: int) -> int:
        import torch

        form = self.forms[number]
        if form.quantised is None:
            assert form.plain is not None
            args = [Value(form.plain), *self._scale(number), torch.quint8]
            form.quantised = self._emit("torch.quantize_per_tensor", args)
        return form.quantised

    def _scale(self, number: int) -> tuple[float, int]:
        """Scale and zero point of the quantised form of a value."""
        low, high = self.ranges[number]
        scale = max((high - low) / _MOST_ACTIVATION, _SMALLEST_SCALE)
        return scale, min(_MOST_ACTIVATION, max(0, round(-low / scale)))


def _is_relu(call: Call) -> bool:
    if call.function == "functional.hardtanh":
        bounds = [*call.args[1:3], *(call.kwargs[name] for name in ("min_val", "max_val") if name in call.kwargs)]
        return bounds == [0, 6]
    return call.function in (*_RELUS, "functional.relu6")


def _all_there(numbers: Sequence[int | None], expected: int) -> bool:
    return len(numbers) == expected and None not in numbers


def _expanded(value: int | Sequence[int], *, dims: int) -> list[int]:
    return [value] * dims if isinstance(value, int) else list(value)
