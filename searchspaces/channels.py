"""Channel numbers as the once-for-all networks choose them (MobileNetV2's rule, CVPR 2018)."""


def round_channels(channels: float, *, divisor: int = 8) -> int:
    """Round to a multiple of `divisor`, at least `divisor`, up one step if more than 10 % would be lost."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def squeeze_channels(channels: int) -> int:
    """Channels between the two convolutions of a squeeze-excite unit on `channels` channels: a quarter, rounded."""
    return round_channels(channels // 4)
