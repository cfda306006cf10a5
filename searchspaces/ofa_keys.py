"""What the published once-for-all checkpoints call the tensors of the `ofa-...` supernets.

The published files and the public code (once-for-all at f03b267) spell the same key in several ways: the inner part of
a block is `mobile_inverted_conv` or `conv`, and elastic layers repeat a name (`bn.bn`, `conv.conv`, `linear.linear`)
that static ones do not.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class _Spelling:
    """How the published files of one family call our modules.

    Attributes:
        network: our module -> theirs, outside the stages.
        block: the same inside a block of a stage.
        blocks: what precedes the parts of block i; blocks of all stages are counted on.
        first: number of the first block of the first stage.
    """

    network: Mapping[str, str]
    block: Mapping[str, str]
    blocks: str
    first: int


_MBCONV_NETWORK = {
    "stem.conv": "first_conv.conv",
    "stem.norm": "first_conv.bn",
    "first_block.depthwise": "blocks.0.mobile_inverted_conv.depth_conv.conv",
    "first_block.depthwise_norm": "blocks.0.mobile_inverted_conv.depth_conv.bn",
    "first_block.project": "blocks.0.mobile_inverted_conv.point_linear.conv",
    "first_block.project_norm": "blocks.0.mobile_inverted_conv.point_linear.bn",
    "classifier": "classifier.linear",
}
_MBCONV_BLOCK = {
    "expand": "inverted_bottleneck.conv.conv",
    "expand_norm": "inverted_bottleneck.bn.bn",
    "depthwise": "depth_conv.conv.conv",
    "depthwise.transforms": "depth_conv.conv",
    "depthwise_norm": "depth_conv.bn.bn",
    "se.reduce": "depth_conv.se.fc.reduce",
    "se.expand": "depth_conv.se.fc.expand",
    "project": "point_linear.conv.conv",
    "project_norm": "point_linear.bn.bn",
}
_MOBILENETV3 = _Spelling(
    network={
        **_MBCONV_NETWORK,
        "head.conv": "final_expand_layer.conv",
        "head.norm": "final_expand_layer.bn",
        "mix": "feature_mix_layer.conv",
    },
    block=_MBCONV_BLOCK,
    blocks="mobile_inverted_conv",
    first=1,
)
_PROXYLESS = _Spelling(
    network={**_MBCONV_NETWORK, "head.conv": "feature_mix_layer.conv", "head.norm": "feature_mix_layer.bn"},
    block=_MBCONV_BLOCK,
    blocks="mobile_inverted_conv",
    first=1,
)
_RESNET50D = _Spelling(
    network={
        "stem.conv1.conv": "input_stem.0.conv.conv",
        "stem.conv1.norm": "input_stem.0.bn.bn",
        "stem.conv2.conv": "input_stem.1.conv.conv.conv",
        "stem.conv2.norm": "input_stem.1.conv.bn.bn",
        "stem.conv3.conv": "input_stem.2.conv.conv",
        "stem.conv3.norm": "input_stem.2.bn.bn",
        "classifier": "classifier.linear.linear",
    },
    block={
        **{f"conv{n}": f"conv{n}.conv.conv" for n in (1, 2, 3)},
        **{f"norm{n}": f"conv{n}.bn.bn" for n in (1, 2, 3)},
        "shortcut_conv": "downsample.conv.conv",
        "shortcut_norm": "downsample.bn.bn",
    },
    blocks="",
    first=0,
)
_SPELLINGS: Mapping[str, _Spelling] = {
    "ofa-mobilenetv3-w1.0": _MOBILENETV3,
    "ofa-mobilenetv3-w1.2": _MOBILENETV3,
    "ofa-proxyless-w1.3": _PROXYLESS,
    "ofa-resnet50d": _RESNET50D,
}
OFA_SPACES = tuple(_SPELLINGS)

PARALLEL_PREFIX = "module."
"""What torch's DataParallel and DistributedDataParallel put before every key of the network that they wrap."""


def ofa_keys(names: Iterable[str], *, space_id: str) -> dict[str, str]:
    """What the published files call the tensors of a supernet.

    Args:
        names: the keys of the supernet's state dict, in its order.
        space_id: the supernet's space, one of the `ofa-...` spaces.

    Returns:
        The published key by ours, in the published files' own spelling.
    """
    spelling = _SPELLINGS[space_id]
    places: dict[tuple[str, str], int] = {}
    keys = {}
    for name in names:
        module, _, leaf = name.rpartition(".")
        # The kernel transforms are parameters of the published layer and a dictionary of ours.
        theirs = f"{leaf}_matrix" if module.endswith(".transforms") else leaf
        if name.startswith("stages."):
            _, stage, block, part = module.split(".", 3)
            number = spelling.first + places.setdefault((stage, block), len(places))
            owner = ".".join(filter(None, ("blocks", str(number), spelling.blocks, spelling.block[part])))
        else:
            owner = spelling.network[module.removesuffix(".layer")]
        keys[name] = f"{owner}.{theirs}"
    return keys


def plain_key(key: str) -> str:
    """What all spellings of a key have in common: repeated names once, the inner part of a block as `conv`."""
    return re.sub(r"\.(conv|bn|linear)(?:\.\1)+(?=\.)", r".\1", key.replace(".mobile_inverted_conv.", ".conv."))
