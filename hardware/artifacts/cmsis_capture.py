"""Torch modules on their way to bakenn: normalisation in the form that it knows, and the calibration inputs that count.

bakenn takes the operators in its list and refuses the rest. Three things that networks with built-in preprocessing
contain are rewritten first, exactly: what does nothing in inference (casts to float32, copies) goes; a shift and
scale of every channel by constants, as (x - mean) / std, becomes one depthwise 1x1 convolution; an adaptive average
pooling of a series to length 1 becomes a mean.
"""

import copy
import operator
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hardware.errors import MeasurementError

if TYPE_CHECKING:
    import torch
    from torch import fx

# bakenn evaluates calibration inputs in Python, about 1.5 s per million MACs and input.
NUM_CALIBRATION_INPUTS = 4

_NOTHING = (
    "aten.alias.default",
    "aten.clone.default",
    "aten.contiguous.default",
    "aten.detach.default",
    "aten.lift_fresh_copy.default",
    "aten.to.dtype",
)
_AFFINE: dict[str, Callable[[Any, Any], Any]] = {
    "aten.add.Tensor": operator.add,
    "aten.sub.Tensor": operator.sub,
    "aten.mul.Tensor": operator.mul,
    "aten.rsub.Scalar": lambda x, constant: constant - x,
    "aten.div.Tensor": operator.truediv,
}


def simplified(module: "torch.nn.Module", *, example: "torch.Tensor") -> "fx.GraphModule":
    """Return what `module` computes in evaluation mode, in operators that bakenn knows; `module` is left as it was.

    Args:
        module: takes one float32 tensor, returns one.
        example: an input of batch 1.

    Raises:
        MeasurementError: the module does not run on the example or cannot be captured, or it has operators that
            bakenn does not know; all of them are named.
    """
    import torch

    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            evaluated = copy.deepcopy(module).eval()
            exported = torch.export.export(evaluated, (example,), strict=False).module(check_guards=False)
            assert isinstance(exported, torch.fx.GraphModule)
            # Exported modules unpack their arguments and refuse eval(); a plain one of the same graph does neither.
            exported.graph.set_codegen(torch.fx.graph.CodeGen())
            graph_module = torch.fx.GraphModule(exported, exported.graph).eval()
            _fold_constants(graph_module)
            _drop_what_does_nothing(graph_module)
            _affine_to_convolution(graph_module)
            _adaptive_to_mean(graph_module)
            graph_module.graph.eliminate_dead_code()
            graph_module.delete_all_unused_submodules()
            graph_module.recompile()
    # torch.export raises whatever the module's own forward raises, and several types of its own.
    except Exception as e:
        raise MeasurementError(
            f"{type(module).__name__} cannot be captured for an input of shape {tuple(example.shape)}: {e}",
            hint="check that the module takes one tensor of this shape, and that its forward has no branches on values",
        ) from e
    _require_known(graph_module, name=type(module).__name__)
    return graph_module


def widest_inputs(module: "fx.GraphModule", *, calibration: "torch.Tensor", num: int) -> "torch.Tensor":
    """Choose the inputs whose activations together span most of the ranges that all inputs span.

    All inputs are run in torch. The first choice is the input whose ranges, averaged over all activations, come
    closest to those of all inputs; each further one is the input that adds most.

    Args:
        module: takes one input.
        calibration: inputs (N, ...).
        num: how many to choose; all are returned if there are no more.

    Returns:
        Inputs (min(N, num), ...), the first choice first.
    """
    if len(calibration) <= num:
        return calibration
    low_NE, high_NE = _ranges(module, calibration=calibration)
    width_E = np.maximum(high_NE.max(axis=0) - low_NE.min(axis=0), np.finfo(np.float32).tiny)
    chosen: list[int] = []
    low_E, high_E = np.zeros_like(width_E), np.zeros_like(width_E)
    for _ in range(num):
        spanned_NE = np.maximum(high_NE, high_E) - np.minimum(low_NE, low_E)
        score_N = (spanned_NE / width_E).mean(axis=1)
        score_N[chosen] = -1.0
        best = int(score_N.argmax())
        chosen.append(best)
        low_E, high_E = np.minimum(low_E, low_NE[best]), np.maximum(high_E, high_NE[best])
    return calibration[chosen]


def _ranges(module: "fx.GraphModule", *, calibration: "torch.Tensor") -> tuple[NDArray[Any], NDArray[Any]]:
    """Lowest and highest value, zero included, of every input and activation: (N, E) each."""
    import torch

    class Recorder(torch.fx.Interpreter):
        """Notes the range of whatever a node computes."""

        def run_node(self, n: torch.fx.Node) -> Any:  # noqa: ANN401
            value = super().run_node(n)
            if n.op in ("placeholder", "call_function") and isinstance(value, torch.Tensor):
                low, high = torch.aminmax(value)
                row.append((min(float(low), 0.0), max(float(high), 0.0)))
            return value

    rows: list[list[tuple[float, float]]] = []
    with torch.no_grad():
        for x in calibration:
            row: list[tuple[float, float]] = []
            Recorder(module).run(x[None])
            rows.append(row)
    ranges_NE2 = np.array(rows, dtype=np.float64)
    return ranges_NE2[..., 0], ranges_NE2[..., 1]


def _require_known(graph_module: "fx.GraphModule", *, name: str) -> None:
    from bakenn.frontends.torch_export import ALLOWED_ATEN_TARGETS

    used = [str(node.target) for node in _calls(graph_module)]
    unknown = sorted(set(used) - set(ALLOWED_ATEN_TARGETS))
    if unknown:
        raise MeasurementError(
            f"{name} has operators that bakenn does not know: {', '.join(unknown)}",
            hint=f"use other layers; known are {', '.join(ALLOWED_ATEN_TARGETS)}",
        )


def _calls(graph_module: "fx.GraphModule") -> list["fx.Node"]:
    return [n for n in graph_module.graph.nodes if n.op == "call_function" and str(n.target).startswith("aten.")]


def _constant(graph_module: "fx.GraphModule", node: object) -> "torch.Tensor | None":
    """The tensor that a node stands for, None if it depends on the input."""
    import torch

    if not isinstance(node, torch.fx.Node) or node.op != "get_attr":
        return None
    value: Any = operator.attrgetter(str(node.target))(graph_module)
    return value if isinstance(value, torch.Tensor) else None


def _fold_constants(graph_module: "fx.GraphModule") -> None:
    """Compute now what depends on no input."""
    from torch.fx.node import map_arg

    for node in _calls(graph_module):
        values = {argument: _constant(graph_module, argument) for argument in node.all_input_nodes}
        if not values or any(value is None for value in values.values()):
            continue
        arguments, keywords = map_arg((node.args, node.kwargs), values.__getitem__)
        assert callable(node.target)
        name = f"folded_{node.name}"
        graph_module.register_buffer(name, node.target(*arguments, **keywords).clone())
        with graph_module.graph.inserting_before(node):
            _replace(node, graph_module.graph.get_attr(name))


def _drop_what_does_nothing(graph_module: "fx.GraphModule") -> None:
    import torch

    for node in _calls(graph_module):
        if str(node.target) == "aten._assert_tensor_metadata.default":
            graph_module.graph.erase_node(node)
        elif str(node.target) in _NOTHING:
            source = node.args[0]
            assert isinstance(source, torch.fx.Node)
            if source.meta["val"].dtype == node.meta["val"].dtype:
                _replace(node, source)


def _affine_to_convolution(graph_module: "fx.GraphModule") -> None:
    """Every chain of shifts and scales by a constant a channel: one depthwise 1x1 convolution of the chain's start."""
    import torch

    chains: dict[fx.Node, tuple[fx.Node, torch.Tensor, torch.Tensor]] = {}
    for node in _calls(graph_module):
        if str(node.target) not in _AFFINE or len(node.args) != 2 or node.kwargs:
            continue
        factors = [_per_channel(graph_module, operand, like=node) for operand in node.args]
        if (factors[0] is None) == (factors[1] is None) or (factors[0] is not None and _divides(node)):
            continue
        source = node.args[0] if factors[0] is None else node.args[1]
        assert isinstance(source, torch.fx.Node)
        if source.meta["val"].shape != node.meta["val"].shape:
            continue
        zero_C = torch.zeros(int(node.meta["val"].shape[1]), dtype=torch.float64)
        start, scale_C, shift_C = chains.get(source, (source, zero_C + 1, zero_C))
        # f is affine: its values at 0 and 1 of the chain's start tell shift and scale.
        at_0, at_1 = (
            _AFFINE[str(node.target)](*(x if factor is None else factor for factor in factors))
            for x in (shift_C, scale_C + shift_C)
        )
        chains[node] = (start, at_1 - at_0, at_0)
    for node, (start, scale_C, shift_C) in chains.items():
        _insert_depthwise(graph_module, node, start=start, scale_C=scale_C, shift_C=shift_C)


def _divides(node: "fx.Node") -> bool:
    return str(node.target) == "aten.div.Tensor"


def _per_channel(graph_module: "fx.GraphModule", operand: object, *, like: "fx.Node") -> "torch.Tensor | None":
    """A constant operand as float64 (C,), None if it depends on the input or differs within a channel."""
    import torch

    result = like.meta["val"]
    value = torch.tensor(operand) if isinstance(operand, (int, float)) else _constant(graph_module, operand)
    if value is None or result.ndim not in (3, 4) or value.ndim > result.ndim:
        return None
    shape = (1,) * (result.ndim - value.ndim) + tuple(value.shape)
    if any(size != 1 for axis, size in enumerate(shape) if axis != 1):
        return None
    return value.double().reshape(-1).expand(result.shape[1])


def _insert_depthwise(
    graph_module: "fx.GraphModule",
    node: "fx.Node",
    *,
    start: "fx.Node",
    scale_C: "torch.Tensor",
    shift_C: "torch.Tensor",
) -> None:
    import torch

    spatial = node.meta["val"].ndim - 2
    convolution = torch.ops.aten.conv2d.default if spatial == 2 else torch.ops.aten.conv1d.default
    graph_module.register_buffer(f"{node.name}_scale", scale_C.float().reshape(-1, 1, *([1] * spatial)).clone())
    graph_module.register_buffer(f"{node.name}_shift", shift_C.float().clone())
    with graph_module.graph.inserting_before(node):
        weight, bias = (graph_module.graph.get_attr(f"{node.name}_{name}") for name in ("scale", "shift"))
        ones, zeros = [1] * spatial, [0] * spatial
        arguments = (start, weight, bias, ones, zeros, ones, len(scale_C))
        new = graph_module.graph.call_function(convolution, arguments)
    new.meta["val"] = node.meta["val"]
    _replace(node, new)


def _adaptive_to_mean(graph_module: "fx.GraphModule") -> None:
    import torch

    for node in _calls(graph_module):
        if str(node.target) == "aten.adaptive_avg_pool1d.default" and list(node.args[1]) == [1]:  # type: ignore[arg-type]
            with graph_module.graph.inserting_before(node):
                new = graph_module.graph.call_function(torch.ops.aten.mean.dim, (node.args[0], [-1], True))
            new.meta["val"] = node.meta["val"]
            _replace(node, new)


def _replace(node: "fx.Node", new: "fx.Node") -> None:
    node.replace_all_uses_with(new)
    node.graph.erase_node(node)
