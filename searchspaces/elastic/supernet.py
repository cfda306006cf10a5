"""The supernet: one set of weights, every subnet an argument of `forward`."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn

from searchspaces.architecture import Architecture
from searchspaces.elastic.blocks import Step, bind_steps, extract_steps
from searchspaces.errors import SpaceError
from searchspaces.space import SearchSpace


class Supernet(nn.Module, ABC):
    """Weights shared by all architectures of a space.

    The architecture is an argument, never state: calls in any order or in several threads give the same results.
    A subclass builds its elastic modules and lists, in `plan`, which of them a subnet runs and how they are cut.
    """

    def __init__(self, space: SearchSpace, *, num_classes: int) -> None:
        super().__init__()
        if num_classes < 2:
            raise SpaceError(
                f"num_classes must be at least 2, got {num_classes}", hint="count the classes of the data set"
            )
        self.space = space
        self.num_classes = num_classes

    @abstractmethod
    def plan(self, arch: Architecture) -> list[Step]:
        """The modules that `arch` runs, in order, each with its cut; called with valid architectures only."""

    def forward(self, x_NCHW: torch.Tensor, arch: Architecture) -> torch.Tensor:
        """Compute logits (N, num_classes) of the subnet `arch`.

        Args:
            x_NCHW: images (or series, NCT) that the loader has already brought to `space.input_shape(arch)`.
            arch: a subnet of this supernet's space.

        Raises:
            SpaceError: an architecture of another space, or inputs of another shape; no tensor is touched before.
        """
        self.space.validate(arch)
        expected = self.space.input_shape(arch)
        if tuple(x_NCHW.shape[1:]) != expected:
            raise SpaceError(
                f"architecture {arch.arch_id} takes inputs of shape (N, {', '.join(map(str, expected))}), "
                f"got {tuple(x_NCHW.shape)}",
                hint="let the loader resize: `preprocessing.prepare(inputs, shape=space.input_shape(arch))`",
            )
        return bind_steps(self.plan(arch))(x_NCHW)

    def sort_channels(self, *, opened: Mapping[str, int]) -> None:
        """Order channels by importance, before smaller expand ratios or widths are opened.

        Subnets that are open already keep their function: channels move only within the groups that the opened
        sizes cut off. Each supernet says which channels it sorts: those inside the blocks (`mbconv-small`, `ofa-...`;
        the stage widths of `ofa-resnet50d` keep their order) or those of whole stages (`conv1d-sensor`). A supernet
        without sliced channels has nothing to do.

        Args:
            opened: kind of choice -> how many of its largest values are in use already (1: only the largest); all of
                a kind that is not named.

        Raises:
            SpaceError: a kind without any value in use.
        """

    def extract(self, arch: Architecture) -> nn.Module:
        """A plain torch network in eval mode with a copy of the subnet's weights; equal to `forward` in eval mode.

        Raises:
            SpaceError: an architecture of another space.
        """
        self.space.validate(arch)
        return extract_steps(self.plan(arch)).eval()

    if TYPE_CHECKING:

        def __call__(self, x_NCHW: torch.Tensor, arch: Architecture) -> torch.Tensor:
            """Typed `nn.Module.__call__`."""
