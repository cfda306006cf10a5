"""Where calibrations lie: one directory for each device, space, and settings that are not the usual ones."""

import pytest

from hardware.records import CalibrationSettings


@pytest.mark.parametrize("space_id", ["mbconv-small", "ofa-mobilenetv3-w1.0"])
@pytest.mark.parametrize(
    ("settings", "suffix"),
    [
        (CalibrationSettings(), ""),
        (CalibrationSettings(batch=8), ".batch8"),
        (CalibrationSettings(batch=8, threads=2, num_classes=1000), ".batch8.threads2.num_classes1000"),
    ],
)
def test_a_directory_names_what_is_not_as_usual(space_id: str, settings: CalibrationSettings, suffix: str) -> None:
    name = settings.directory_name(space_id)
    assert name == space_id + suffix
    assert CalibrationSettings.from_directory_name(name, space_id=space_id) == settings


@pytest.mark.parametrize("name", ["mbconv-small-1a2b", "mbconv", "mbconv-small.batch", "mbconv-small.threads2.batch8"])
def test_the_directory_of_something_else_has_no_settings(name: str) -> None:
    assert CalibrationSettings.from_directory_name(name, space_id="mbconv-small") is None
