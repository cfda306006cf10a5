import logging
import os
import warnings

import pytest

from hardware.artifacts.silence import essence, silenced


def test_nothing_comes_through_and_all_of_it_is_heard(capfd: pytest.CaptureFixture[str]) -> None:
    with silenced() as heard:
        print("from Python")
        os.write(1, b"from C\n")
        os.write(2, b"a complaint from C\n")
        warnings.warn("a warning", stacklevel=1)
        text = heard.text()
    assert capfd.readouterr() == ("", "")
    for line in ("from Python", "from C", "a complaint from C"):
        assert line in text


def test_the_streams_are_back_after_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    def break_down() -> None:
        with silenced():
            os.write(1, b"unheard\n")
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        break_down()
    print("after")
    os.write(2, b"after, too\n")
    assert capfd.readouterr() == ("after\n", "after, too\n")


def test_what_was_printed_is_logged_for_those_who_look(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="hardware.artifacts.silence"), silenced():
        os.write(2, b"an operator is missing\n")
    assert "an operator is missing" in caplog.text


def test_warnings_of_others_do_not_set_up_the_logging_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    with silenced():
        logging.warning("a converter's advice")  # noqa: LOG015
    assert root.handlers == []


def test_the_essence_of_an_error_is_one_line() -> None:
    error = RuntimeError("Lowering not found:\n  aten.x\n\nOriginal traceback:\nFile 1\nFile 2")
    assert essence(error) == "Lowering not found: aten.x"
