"""What a plain torch network really does for one image, counted by hooks: the check of operator tables."""

from collections import Counter

import torch
from torch import nn

from searchspaces.elastic.blocks import Shortcut
from searchspaces.elastic.resnet import ProjectionShortcut
from searchspaces.graph import OpTable

Count = tuple[str, int, int, int]  # kind, macs, input elements, output elements


class Sum(nn.Module):
    """A sum of feature maps that a hook can see."""

    def forward(self, *terms: torch.Tensor) -> torch.Tensor:
        return torch.stack(terms).sum(dim=0)


def counted(network: nn.Module, image_NCHW: torch.Tensor) -> Counter[Count]:
    """Every convolution, pool, sum and linear layer that runs on one image; what has no input is a sum of no terms."""
    counts: Counter[Count] = Counter()

    def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        taken, made = sum(x.numel() for x in inputs), output.numel()
        if isinstance(module, nn.Conv2d):
            kind = "depthwise" if module.groups > 1 else "conv"
            counts[kind, made * module.weight[0].numel(), taken, made] += 1
        elif isinstance(module, nn.Linear):
            counts["linear", made * module.in_features, taken, made] += 1
        elif isinstance(module, nn.AdaptiveAvgPool2d | nn.AvgPool2d | nn.MaxPool2d):
            counts["pool", 0, taken, made] += 1
        elif isinstance(module, Shortcut | ProjectionShortcut):
            counts["add", 0, 2 * made, made] += 1
        elif isinstance(module, Sum) and len(inputs) > 1:
            counts["add", 0, taken, made] += 1
        elif not inputs:
            counts["add", 0, 0, made] += 1

    hooks = [module.register_forward_hook(hook) for module in network.modules()]
    try:
        with torch.no_grad():
            network.eval()(image_NCHW)
    finally:
        for handle in hooks:
            handle.remove()
    return counts


def told(table: OpTable, row: int) -> Counter[Count]:
    """The same from one row of an operator table."""
    return Counter((op.kind, op.macs, op.input_elements, op.output_elements) for op in table.graph(row).operators)


def num_params(network: nn.Module) -> int:
    """Learnable parameters."""
    return sum(parameter.numel() for parameter in network.parameters())
