"""The space of small images, 16 to 64 pixels: MBConv stages that a recipe can lay out; see `searchspaces.mbconv`."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields

from searchspaces.channels import round_channels
from searchspaces.errors import SpaceError
from searchspaces.mbconv import MBConvConfig, MBConvSpace, Stage
from searchspaces.settings import check_ascending, check_positive, checked_width, stage_place
from searchspaces.space import SearchSpace

_DEFAULT = MBConvConfig()
_STAGE_KEYS = tuple(field.name for field in fields(Stage))
_REQUIRED_KEYS = ("channels", "stride", "depths")
_EXAMPLE = "{channels: 16, stride: 1, depths: [1, 2, 3]}"


def mbconv_small(
    *,
    resolutions: Sequence[int] = _DEFAULT.resolutions,
    width: float = 1.0,
    in_channels: int = _DEFAULT.in_channels,
    stem_channels: int = _DEFAULT.stem_channels,
    stem_stride: int = _DEFAULT.stem_stride,
    stages: Sequence[Mapping[str, object]] | None = None,
    head_channels: int = _DEFAULT.head_channels,
    kernels: Sequence[int] = _DEFAULT.stages[0].kernels,
    expands: Sequence[int] = _DEFAULT.stages[0].expands,
    activation: str = _DEFAULT.activation,
) -> MBConvSpace:
    """Lay out a space of small images; the arguments may be plain lists and mappings, as a recipe gives them.

    Args:
        resolutions: allowed input sizes in pixels, ascending.
        width: multiplier of all channel numbers, which are then rounded to multiples of 8; 1 leaves them alone.
        in_channels: channels of the images.
        stem_channels: channels of the first convolution.
        stem_stride: its stride, 1 or 2.
        stages: one mapping a stage with `channels`, `stride` and `depths`, and `kernels`, `expands`, `activation` and
            `se` where the stage differs from the settings below; three stages by default.
        head_channels: channels of the last convolution.
        kernels: allowed depthwise kernels of every block, ascending odd numbers.
        expands: allowed expand ratios of every block, ascending.
        activation: "relu", "relu6" or "h-swish".

    Raises:
        SpaceError: settings that do not fit; the place is named, stages counted from 1.
    """
    width = checked_width(width)

    def scaled(name: str, channels: object) -> int:
        number = check_positive(name, channels)
        return number if width == 1 else round_channels(number * width)

    shared = {
        "kernels": check_ascending("kernels", kernels),
        "expands": check_ascending("expands", expands),
        "activation": activation,
    }
    if stages is None:
        stages = [
            {"channels": stage.channels, "stride": stage.stride, "depths": stage.depths} for stage in _DEFAULT.stages
        ]
    laid_out = []
    for place, stage in _placed(stages):
        _check_keys(place, stage)
        values = {**shared, **stage, "channels": scaled(f"{place}: channels", stage["channels"])}
        for name in ("depths", "kernels", "expands"):
            values[name] = check_ascending(f"{place}: {name}", values[name])
        laid_out.append(Stage(**values))  # type: ignore[arg-type]  # MBConvConfig checks the other types
    config = MBConvConfig(
        resolutions=check_ascending("resolutions", resolutions),
        in_channels=in_channels,
        stem_channels=scaled("stem_channels", stem_channels),
        stem_stride=stem_stride,
        stages=tuple(laid_out),
        head_channels=scaled("head_channels", head_channels),
        activation=activation,
    )
    return MBConvSpace(config)


def _placed(stages: object) -> list[tuple[str, Mapping[str, object]]]:
    """The stages with the names of their places, if they are a list of mappings."""
    if not isinstance(stages, list | tuple):
        raise SpaceError(f"stages must be a list of mappings, got {stages!r}", hint=f"for example stages: [{_EXAMPLE}]")
    placed = [(stage_place(number), stage) for number, stage in enumerate(stages)]
    for place, stage in placed:
        if not isinstance(stage, Mapping):
            raise SpaceError(f"{place} must be a mapping, got {stage!r}", hint=f"for example {_EXAMPLE}")
    return placed


def _check_keys(place: str, stage: Mapping[str, object]) -> None:
    for key in stage:
        if key not in _STAGE_KEYS:
            close = difflib.get_close_matches(str(key), _STAGE_KEYS, n=1)
            meant = f"did you mean {close[0]!r}? " if close else ""
            raise SpaceError(
                f"{place} has no setting {key!r}", hint=f"{meant}a stage's settings are: {', '.join(_STAGE_KEYS)}"
            )
    for key in _REQUIRED_KEYS:
        if key not in stage:
            raise SpaceError(f"{place}: {key} is missing", hint=f"a stage looks like {_EXAMPLE}")


SPACES: Mapping[str, Callable[..., SearchSpace]] = {"mbconv-small": mbconv_small}
