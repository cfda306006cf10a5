import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardware.errors import StorageError
from hardware.files import (
    has_manifest,
    read_json,
    read_manifest,
    sha256_file,
    staged_file,
    write_bytes,
    write_json,
    write_manifest,
    write_text,
)


def finished_directory(directory: Path) -> Path:
    write_bytes(directory / "weights.bin", bytes(range(256)))
    write_text(directory / "parts" / "card.txt", "latency \u00b5s")
    write_manifest(directory, files=["weights.bin", "parts/card.txt"], details={"alpha": 0.1, "names": ["a", None]})
    return directory


def break_write(monkeypatch: pytest.MonkeyPatch, *, function: str, error: int) -> None:
    def fail(*_: object) -> int:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, function, fail)


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "down" / "file.bin"
    write_bytes(path, b"old")
    write_bytes(path, b"")
    assert path.read_bytes() == b""
    write_bytes(path, b"new" * 1_000_000)
    assert path.read_bytes() == b"new" * 1_000_000
    assert list(path.parent.iterdir()) == [path]


def test_the_mode_of_a_file_follows_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_text(tmp_path / "file", "x")
    finally:
        os.umask(old)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("function", ["write", "fsync"])
def test_a_full_disk_keeps_the_old_file_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    path = tmp_path / "card.json"
    write_json(path, {"a": 1})
    with monkeypatch.context() as context:
        break_write(context, function=function, error=errno.ENOSPC)
        with pytest.raises(StorageError, match=r"card\.json: No space left on device") as caught:
            write_json(path, {"a": 2})
    assert "free some disk space" in caught.value.hint
    assert read_json(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.faults
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_really_full_file_system_keeps_the_old_file(tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("this container may not mount")
    try:
        write_bytes(place / "file", b"old")
        with pytest.raises(StorageError, match="No space left"):
            write_bytes(place / "file", b"new" * 100_000)
        assert (place / "file").read_bytes() == b"old"
        assert [path.name for path in place.iterdir()] == ["file"]
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_place_that_is_a_file_is_named(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "x")
    with pytest.raises(StorageError, match=r"file/inner"):
        write_text(tmp_path / "file" / "inner", "x")


def test_an_interrupted_block_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    write_text(path, "old")

    def write_half() -> None:
        with staged_file(path) as temporary:
            assert temporary.suffix == ".onnx"
            temporary.write_text("half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_staged_file_that_was_never_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="never"), staged_file(tmp_path / "never"):
        pass


@pytest.mark.parametrize("value", [float("nan"), {"a": float("inf")}, {"a": object()}])
def test_what_is_not_json_is_refused_before_anything_is_written(tmp_path: Path, value: object) -> None:
    with pytest.raises(StorageError, match="not JSON") as caught:
        write_json(tmp_path / "value.json", value)  # type: ignore[arg-type]
    assert "None" in caught.value.hint
    with pytest.raises(StorageError, match="not JSON"):
        write_manifest(tmp_path, files=[], details={"x": value})  # type: ignore[dict-item]
    assert list(tmp_path.iterdir()) == []


@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=8,
    )
)
def test_json_round_trips(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    path = tmp_path_factory.mktemp("json") / "value.json"
    write_json(path, value)  # type: ignore[arg-type]
    assert read_json(path) == value


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\x00\xff\xfe"])
def test_a_torn_json_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "card.json").write_bytes(content)
    with pytest.raises(StorageError, match=r"card\.json is damaged"):
        read_json(tmp_path / "card.json")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for read in (read_json, sha256_file):
        with pytest.raises(StorageError, match=r"nowhere\.json: No such file"):
            read(tmp_path / "nowhere.json")


def test_a_manifest_round_trips(tmp_path: Path) -> None:
    assert not has_manifest(tmp_path)
    manifest = read_manifest(finished_directory(tmp_path))
    assert has_manifest(tmp_path)
    assert sorted(manifest.files) == ["parts/card.txt", "weights.bin"]
    assert manifest.files["weights.bin"].size_bytes == 256
    assert manifest.files["weights.bin"].sha256 == sha256_file(tmp_path / "weights.bin")
    assert manifest.details == {"alpha": 0.1, "names": ["a", None]}


def test_a_directory_without_manifest_was_never_finished(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="never finished"):
        read_manifest(tmp_path)


def test_a_missing_file_of_a_manifest_is_named(tmp_path: Path) -> None:
    (finished_directory(tmp_path) / "parts" / "card.txt").unlink()
    for verify in (True, False):
        with pytest.raises(StorageError, match=r"card\.txt is missing"):
            read_manifest(tmp_path, verify=verify)


def test_a_shortened_file_is_found_without_checksums(tmp_path: Path) -> None:
    (finished_directory(tmp_path) / "weights.bin").write_bytes(b"short")
    with pytest.raises(StorageError, match=r"weights\.bin is damaged: 5 bytes, the manifest says 256"):
        read_manifest(tmp_path, verify=False)


def test_a_flipped_bit_is_found_by_the_checksum(tmp_path: Path) -> None:
    path = finished_directory(tmp_path) / "weights.bin"
    path.write_bytes(b"\x01" + path.read_bytes()[1:])
    read_manifest(tmp_path, verify=False)
    with pytest.raises(StorageError, match=r"weights\.bin is damaged: its SHA-256"):
        read_manifest(tmp_path)


def test_a_changed_detail_is_found(tmp_path: Path) -> None:
    path = finished_directory(tmp_path) / "manifest.json"
    path.write_text(path.read_text().replace("0.1", "0.9"))
    with pytest.raises(StorageError, match=r"manifest\.json is damaged") as caught:
        read_manifest(tmp_path)
    assert str(tmp_path) in caught.value.hint


@pytest.mark.parametrize("content", ["[]", "{}", '{"schema": 1, "files": 3, "details": {}, "digest": ""}', '{"sch'])
def test_a_torn_manifest_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(StorageError, match=r"manifest\.json is damaged"):
        read_manifest(tmp_path)


def test_a_manifest_of_a_later_version_asks_for_an_update(tmp_path: Path) -> None:
    path = finished_directory(tmp_path) / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 99}))
    with pytest.raises(StorageError, match="schema 99") as caught:
        read_manifest(tmp_path)
    assert "update" in caught.value.hint


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "manifest.json", "", "a/../../b"])
def test_a_manifest_covers_only_its_own_directory(tmp_path: Path, name: str) -> None:
    with pytest.raises(StorageError, match="cannot cover"):
        write_manifest(tmp_path, files=[name], details={})


def test_a_manifest_for_a_missing_file_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"absent\.bin"):
        write_manifest(tmp_path, files=["absent.bin"], details={})
    assert not has_manifest(tmp_path)


@pytest.mark.faults
def test_a_kill_at_any_moment_leaves_one_whole_version(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_json(path, {"n": 0, "filling": "0" * 200_000})
    program = textwrap.dedent(
        f"""
        import itertools, pathlib
        from hardware.files import write_json
        print("ready", flush=True)
        for n in itertools.count(1):
            write_json(pathlib.Path({str(path)!r}), {{"n": n, "filling": str(n % 10) * 200_000}})
            print(n, flush=True)
        """
    )
    for num_writes in (1, 2, 5):
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            for _ in range(1 + num_writes):
                child.stdout.readline()
            child.send_signal(signal.SIGKILL)
        value = read_json(path)
        assert isinstance(value, dict)
        assert isinstance(value["n"], int)
        assert value["n"] >= num_writes
        assert value["filling"] == str(value["n"] % 10) * 200_000
