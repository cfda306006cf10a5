"""Exporters run modules in evaluation mode; afterwards every part is in its own mode again."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@contextmanager
def evaluating(module: "torch.nn.Module") -> Iterator[None]:
    """Every part of the module in evaluation mode, and afterwards in the mode that it was in.

    Parts may be in different modes, such as batch norms that stay frozen while the rest is trained.
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
