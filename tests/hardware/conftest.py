import pytest

from tests.hardware.built_once import BuiltOnce


@pytest.fixture(scope="module")
def built_once(tmp_path_factory: pytest.TempPathFactory) -> BuiltOnce:
    """Networks that are converted once a module."""
    return BuiltOnce(tmp_path_factory.mktemp("built"))
