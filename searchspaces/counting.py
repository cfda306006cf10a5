"""Slots of operator tables that several spaces share: convolution, sum, pool, classifier.

Letters as in `searchspaces.graph`: N architectures. Sizes are heights (= widths) of square feature maps in pixels. The
functions return what `OpTableBuilder.add` returns, and read what it reads.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from searchspaces.graph import Counts, OpTableBuilder, Slots

Mask = npt.NDArray[np.bool_]


def halved(size: Counts) -> Counts:
    """Size after a stride of 2 with "same" padding: half, rounded up."""
    return -(-size // 2)


def add_conv(
    build: OpTableBuilder,
    name: str,
    *,
    stage: int,
    c_in: Counts | int,
    c_out: Counts | int,
    sizes: tuple[Counts, Counts],
    kernel: Counts | int = 1,
    present: Mask | None = None,
    depthwise: bool = False,
    norm: bool = True,
    reads: Sequence[Slots] | None = None,
) -> Slots:
    """Add a convolution without bias, with its batch normalisation (2 params a channel) and activation.

    Args:
        build: the table under construction.
        name: slot name.
        stage: elastic stage, -1 for fixed parts.
        c_in: input channels; not used where `depthwise`.
        c_out: output channels.
        sizes: size of the input and of the output.
        kernel: kernel size.
        present: which architectures have it, all if None.
        depthwise: one input channel for each output channel.
        norm: whether a batch normalisation follows.
        reads: what it reads, the slot before it if None.
    """
    in_N, out_N = sizes
    weights = c_out * (1 if depthwise else c_in) * kernel**2
    return build.add(
        name,
        kind="depthwise" if depthwise else "conv",
        stage=stage,
        macs=weights * out_N**2,
        params=weights + (2 * c_out if norm else 0),
        input_elements=(c_out if depthwise else c_in) * in_N**2,
        output_elements=c_out * out_N**2,
        present=present,
        reads=reads,
    )


def add_sum(
    build: OpTableBuilder,
    name: str,
    *,
    stage: int,
    channels: Counts | int,
    size: Counts,
    reads: Sequence[Slots],
    terms: Counts | int = 2,
    present: Mask | None = None,
) -> Slots:
    """Add an element-wise sum of `terms` feature maps, those in `reads` that are not `NOTHING`."""
    elements = channels * size**2
    return build.add(
        name,
        kind="add",
        stage=stage,
        macs=0,
        params=0,
        input_elements=terms * elements,
        output_elements=elements,
        present=present,
        reads=reads,
    )


def add_pool(
    build: OpTableBuilder,
    name: str,
    *,
    stage: int,
    channels: Counts | int,
    sizes: tuple[Counts, Counts | int],
    params: Counts | int = 0,
    present: Mask | None = None,
    reads: Sequence[Slots] | None = None,
) -> Slots:
    """Add a pooling layer; it has no multiply-accumulate operations, and `params` only where a norm belongs to it."""
    in_size, out_size = sizes
    return build.add(
        name,
        kind="pool",
        stage=stage,
        macs=0,
        params=params,
        input_elements=channels * in_size**2,
        output_elements=channels * out_size**2,
        present=present,
        reads=reads,
    )


def add_tail(
    build: OpTableBuilder, *, channels: Counts | int, size: Counts, num_classes: int, norm: bool = False
) -> None:
    """Add the global average pool, with a batch normalisation before it where `norm`, and the linear classifier."""
    add_pool(build, "pool", stage=-1, channels=channels, sizes=(size, 1), params=2 * channels if norm else 0)
    build.add(
        "classifier",
        kind="linear",
        stage=-1,
        macs=channels * num_classes,
        params=(channels + 1) * num_classes,
        input_elements=channels,
        output_elements=num_classes,
    )
