"""Channel numbers are rounded as in the published networks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchspaces.channels import round_channels, squeeze_channels


@pytest.mark.parametrize(
    ("channels", "rounded"), [(1, 8), (8.8, 8), (9, 16), (12, 16), (16, 16), (16.1, 16), (20, 24), (19, 24), (9.5, 16)]
)
def test_channels_are_rounded_to_eights_without_losing_a_tenth(channels: float, rounded: int) -> None:
    assert round_channels(channels) == rounded


@given(channels=st.floats(1, 4096))
def test_rounding_channels_never_loses_more_than_a_tenth(channels: float) -> None:
    assert round_channels(channels) % 8 == 0
    assert round_channels(channels) >= 0.9 * channels
    assert round_channels(channels) <= channels + 12


@pytest.mark.parametrize(
    ("channels", "squeezed"), [(144, 40), (240, 64), (480, 120), (672, 168), (960, 240), (816, 208), (16, 8)]
)
def test_squeezed_channels_are_those_of_the_published_weights(channels: int, squeezed: int) -> None:
    assert squeeze_channels(channels) == squeezed
