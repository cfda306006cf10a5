"""Networks that the authors of once-for-all published for single devices, rebuilt from their facts."""

from typing import TypedDict

from searchspaces.architecture import Architecture
from searchspaces.errors import SpaceError
from searchspaces.graph import Counts, OpTable
from searchspaces.ofa_mbconv import SPACES, OfaLists, OfaMBConvSpace


class PublishedStage(TypedDict):
    """One stage: output channels, and kernel and expand ratio of every block that it has."""

    width: int
    ks: list[int]
    e: list[int]


class PublishedNetwork(TypedDict):
    """What is read of the facts of a published network; other keys may be there.

    `stem` is the channels of the first convolution, `image_size` the resolution in pixels.
    """

    stem: int
    image_size: int
    stages: list[PublishedStage]


def published_network(entry: PublishedNetwork) -> tuple[OfaMBConvSpace, Architecture]:
    """The space and the architecture of a published network, which `space.build_supernet(...).extract(arch)` builds.

    Some have resolutions outside the grid of the registered spaces (236, 260 pixels), so the space is the registered
    one whose channels fit, with the network's own resolution as its only one.

    Raises:
        SpaceError: the channels fit no registered space, or a block is none of its blocks.
    """
    widths = [stage["width"] for stage in entry["stages"]]
    for factory in SPACES.values():
        space = factory(resolutions=[entry["image_size"]])
        own = space.config.stages
        if (entry["stem"], widths) == (space.config.stem_channels, [stage.channels for stage in own]):
            break
    else:
        raise SpaceError(
            f"no once-for-all space has stem {entry['stem']} and stage channels {widths}",
            hint=f"known are the networks of {', '.join(SPACES)}",
        )
    lists = OfaLists(ks=[], e=[], d=[len(stage["ks"]) for stage in entry["stages"]], resolution=entry["image_size"])
    for stage, layout in zip(entry["stages"], own, strict=True):
        absent = layout.depths[-1] - len(stage["ks"])
        lists["ks"] += stage["ks"] + [layout.kernels[0]] * absent
        lists["e"] += stage["e"] + [layout.expands[0]] * absent
    return space, space.from_ofa(**lists)


def published_macs(table: OpTable) -> Counts:
    """MACs (N,) of each architecture of a table for 1000 classes, counted as the published figures are.

    They count every convolution outside squeeze-excite units and the classifier; they leave out squeeze-excite,
    normalisation, activations, pooling and shortcuts. All 50 published networks agree within the rounding of the
    published figures (0.05 million); with squeeze-excite the difference is up to 1.2 %.
    """
    total_N: Counts = table.macs[:, [kind != "se" for kind in table.kinds]].sum(axis=1)
    return total_N
