"""NAS-Bench-201's CIFAR-10 network in plain torch, written from the paper: the check of the tables of that space."""

import torch
from torch import nn

from searchspaces.nasbench201 import EDGES
from tests.searchspaces.hooks import Sum


class Operator(nn.Sequential):
    """Layers that the table counts as one operator."""


class Zeros(nn.Module):
    """A map of zeros that a hook can see."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.shape = (1, channels, size, size)

    def forward(self) -> torch.Tensor:
        return torch.zeros(self.shape)


def relu_conv_norm(c_in: int, c_out: int, *, kernel: int, stride: int = 1) -> Operator:
    conv = nn.Conv2d(c_in, c_out, kernel, stride=stride, padding=kernel // 2, bias=False)
    return Operator(nn.ReLU(), conv, nn.BatchNorm2d(c_out))


def edge(op: str, channels: int) -> nn.Module:
    if op == "avg_pool_3x3":
        return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    return relu_conv_norm(channels, channels, kernel=int(op[-1])) if "conv" in op else nn.Sequential()


class Cell(nn.Module):
    """The edges run in the order of their numbers; a node that nothing ends in is zeros, made when it is read."""

    def __init__(self, ops: tuple[str, ...], channels: int, size: int) -> None:
        super().__init__()
        self.ops = ops
        self.edges = nn.ModuleList(edge(op, channels) for op in ops)
        self.sums = nn.ModuleList(Sum() for _ in range(3))
        self.zeros = nn.ModuleList(Zeros(channels, size) for _ in range(3))

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        nodes = [x_NCHW]
        for node in (1, 2, 3):
            terms = [
                self.edges[n](nodes[source])
                for n, (source, target) in enumerate(EDGES)
                if target == node and self.ops[n] != "none"
            ]
            is_read = node == 3 or any(EDGES[n][0] == node and op != "none" for n, op in enumerate(self.ops))
            if len(terms) > 1:
                nodes.append(self.sums[node - 1](*terms))
            elif terms:
                nodes.append(terms[0])
            else:
                nodes.append(self.zeros[node - 1]() if is_read else x_NCHW)
        return nodes[-1]


class Reduction(nn.Module):
    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            relu_conv_norm(c_in, c_out, kernel=3, stride=2), relu_conv_norm(c_out, c_out, kernel=3)
        )
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(c_in, c_out, 1, bias=False))
        self.sum = Sum()

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        body_NCHW = self.body(x_NCHW)
        total: torch.Tensor = self.sum(self.shortcut(x_NCHW), body_NCHW)
        return total


def reference(ops: tuple[str, ...], *, num_classes: int) -> nn.Sequential:
    layers: list[nn.Module] = [Operator(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16))]
    for channels, size in ((16, 32), (32, 16), (64, 8)):
        if channels > 16:
            layers.append(Reduction(channels // 2, channels))
        layers += [Cell(ops, channels, size) for _ in range(5)]
    pool = Operator(nn.BatchNorm2d(64), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    return nn.Sequential(*layers, pool, nn.Flatten(), nn.Linear(64, num_classes))
