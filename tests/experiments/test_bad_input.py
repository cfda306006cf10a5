"""What a user can get wrong: one clear message that names the value and the way out, the documented exit code."""

import shutil
from pathlib import Path

import pytest
import yaml

from experiments.recipe import load_recipe
from experiments.session import new_run, recipe_space
from hardware.backends.onnxruntime_cpu import OnnxRuntimeCpu
from hardware.device import list_devices
from nas.supernet_files import save_supernet
from tests.experiments.conftest import QUICKSTART, InProcess


def write_recipe(path: Path, **changes: object) -> Path:
    """The quickstart recipe with dotted keys changed (`__` for the dot)."""
    content = yaml.safe_load(QUICKSTART.read_text(encoding="utf-8"))
    for key, value in changes.items():
        *sections, last = key.split("__")
        target = content
        for section in sections:
            target = target[section]
        target[last] = value
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def imported(path: Path) -> Path:
    """A supernet directory of the quickstart's space."""
    recipe = load_recipe(QUICKSTART)
    supernet = recipe_space(recipe).build_supernet(num_classes=3)
    settings = recipe.space.settings
    save_supernet(path, supernet, space=recipe.space.name, space_settings=settings, provenance={})
    return path


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("train.epoch=3", "train.epochs"),
        ("train.epochs=ten", "'ten'"),
        ("train.epochs=0", "train.epochs"),
        ("search.sampler=nsga9", "nsga9"),
        ("space.settings.resolutions=[24, 16]", "[24, 16]"),
        ("nonsense", "nonsense"),
        ("train.workers=5", "train.workers: got 5, expected a divisor of batch_size 32"),
    ],
)
def test_a_wrong_key_type_or_value_is_named_and_ends_with_2(nas: InProcess, setting: str, named: str) -> None:
    result = nas("run", QUICKSTART, "--set", setting)
    assert result.code == 2
    assert named in result.err
    assert "try" in result.err
    assert not Path("runs").exists()


def test_a_resolution_that_the_space_cannot_have_ends_with_2(nas: InProcess) -> None:
    result = nas("run", QUICKSTART, "--set", "space.settings.resolutions=[4]")
    assert result.code == 2
    assert "stage 2 leaves 1 x 1 pixels of resolution 4" in result.err


def test_an_unknown_space_lists_the_known_ones(nas: InProcess) -> None:
    result = nas("run", QUICKSTART, "--set", "space.name=mbconv-smal")
    assert result.code == 2
    assert "did you mean 'mbconv-small'" in result.err


def test_a_missing_recipe_ends_with_2(nas: InProcess) -> None:
    result = nas("run", "no-such.yaml")
    assert result.code == 2
    assert "no-such.yaml" in result.err


def test_an_unknown_option_ends_with_2(nas: InProcess) -> None:
    assert nas("run", QUICKSTART, "--sett", "a=b").code == 2


def test_an_impossible_latency_limit_ends_with_3_and_names_the_smallest_reachable(nas: InProcess) -> None:
    result = nas("run", QUICKSTART, "--set", "search.limits.latency_ms=0.0001")
    assert result.code == 3
    assert "latency_ms <= 0.0001 ms" in result.err
    assert "the smallest reachable values, each by itself: latency_ms 0." in result.err
    assert "measured" in result.err
    assert not Path("runs/quickstart/run.json").exists()


def test_counts_that_nothing_can_have_end_with_3_and_name_what_binds(nas: InProcess) -> None:
    result = nas("run", QUICKSTART, "--set", "search.limits.params=1000", "--set", "search.limits.macs=1e9")
    assert result.code == 3
    text = " ".join(result.err.split())
    assert "meets macs <= 1e+09, params <= 1000; the smallest reachable values, each by itself: macs " in text
    assert "(estimated, " in text
    assert "params binds" in text
    assert not Path("runs/quickstart/run.json").exists()


def test_a_budget_of_nothing_ends_with_2_and_names_the_range(nas: InProcess) -> None:
    result = nas("run", QUICKSTART, "--set", "search.evaluations=0")
    assert result.code == 2
    assert "search.evaluations: got 0, expected an integer >= 1 and <= 1,000,000" in result.err


def test_a_missing_data_set_names_three_ways(nas: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    recipe = QUICKSTART.with_name("fashion_mnist.yaml")
    result = nas("run", recipe, "--set", f"data.path={empty}")
    assert result.code == 2
    for way in (str(empty), "data.path", "dataset-fashion-mnist"):
        assert way in result.err


def test_an_unwritable_run_directory_ends_with_2(nas: InProcess, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    result = nas("run", QUICKSTART, "--run-dir", tmp_path / "file" / "run")
    assert result.code == 2
    assert "cannot create the run directory" in result.err
    assert "--run-dir" in result.err


def test_a_directory_of_something_else_is_left_alone(nas: InProcess, tmp_path: Path) -> None:
    place = tmp_path / "thesis"
    place.mkdir()
    (place / "chapter1.tex").write_text("years of work", encoding="utf-8")
    result = nas("run", QUICKSTART, "--run-dir", place)
    assert result.code == 2
    assert "thesis" in result.err
    assert [path.name for path in place.iterdir()] == ["chapter1.tex"]
    assert (place / "chapter1.tex").read_text(encoding="utf-8") == "years of work"


def test_a_run_directory_of_another_recipe_names_the_first_difference(nas: InProcess, tmp_path: Path) -> None:
    new_run(load_recipe(QUICKSTART), tmp_path / "run", num_classes=10)
    result = nas("run", QUICKSTART, "--set", "train.epochs=7", "--run-dir", tmp_path / "run")
    assert result.code == 2
    assert f"train.epochs: {load_recipe(QUICKSTART).train.epochs} against 7" in result.err


def test_a_missing_runtime_ends_with_4(nas: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OnnxRuntimeCpu, "missing", lambda self: "package onnxruntime is not installed")
    result = nas("run", QUICKSTART)
    assert result.code == 4
    assert "onnxruntime is not installed" in result.err
    assert "pip install" in result.err


def test_an_unknown_device_ends_with_4_and_lists_the_known(nas: InProcess) -> None:
    result = nas("run", QUICKSTART, "--set", "device.id=phone")
    assert result.code == 4
    assert "onnxruntime-cpu" in result.err


@pytest.mark.parametrize("command", ["profile", "search", "refine", "verify", "export", "pareto", "sync", "ui"])
def test_a_stage_on_a_directory_that_is_no_run_ends_with_2(nas: InProcess, command: str, tmp_path: Path) -> None:
    result = nas(command, tmp_path)
    assert result.code == 2
    assert "is not a run directory" in result.err


def test_a_stage_before_its_turn_names_the_command_to_type(nas: InProcess, tmp_path: Path) -> None:
    new_run(load_recipe(QUICKSTART), tmp_path / "run", num_classes=10)
    assert f"nas train {tmp_path / 'run'}" in nas("profile", tmp_path / "run").err
    assert "has 0 of " in nas("search", tmp_path / "run").err
    assert f"nas train {tmp_path / 'run'}" in nas("verify", tmp_path / "run").err
    assert "nas verify" in nas("export", tmp_path / "run").err
    shown = nas("pareto", tmp_path / "run")
    assert shown.code == 0


def test_dry_run_writes_nothing_and_shows_the_plan(nas: InProcess) -> None:
    result = nas("run", QUICKSTART, "--dry-run")
    assert result.code == 0
    for text in ("architectures", "onnxruntime-cpu: found", "evaluations", "runs/quickstart would be made"):
        assert text in result.out
    assert list(Path.cwd().iterdir()) == []


def test_dry_run_looks_at_further_devices_too(nas: InProcess) -> None:
    result = nas("run", QUICKSTART, "--dry-run", "--set", "devices=[{id: torch-cpu, batch: 2}, {id: toaster}]")
    assert result.code == 4
    assert "torch-cpu: found" in result.out
    assert "toaster: unknown" in result.out


@pytest.mark.parametrize(
    ("settings", "open_settings"),
    [("{}", "in_channels and length as"), ("{length: 25}", "in_channels as"), ("{length: 25, in_channels: 12}", None)],
)
def test_dry_run_says_what_a_space_of_series_will_take_from_the_data(
    nas: InProcess, settings: str, open_settings: str | None
) -> None:
    result = nas("run", QUICKSTART.with_name("sensor.yaml"), "--set", f"space.settings={settings}", "--dry-run")
    assert result.code == 0
    assert ("as the data have them" in result.out) == (open_settings is not None)
    assert open_settings is None or open_settings in result.out


def test_dry_run_on_a_run_directory_says_whether_it_can_go_on(nas: InProcess, tmp_path: Path) -> None:
    new_run(load_recipe(QUICKSTART), tmp_path / "run", num_classes=10)
    same = nas("run", QUICKSTART, "--dry-run", "--run-dir", tmp_path / "run")
    assert same.code == 0
    assert squeezed("only what is missing would be done") in squeezed(same.out)
    other = nas("run", QUICKSTART, "--dry-run", "--run-dir", tmp_path / "run", "--set", "train.epochs=7")
    assert other.code == 2
    assert squeezed("train.epochs: 40 against 7") in squeezed(other.out)


def test_dry_run_without_the_device_ends_with_4(nas: InProcess) -> None:
    result = nas("run", QUICKSTART, "--dry-run", "--set", "device.id=phone")
    assert result.code == 4
    assert "phone: unknown" in result.out


def squeezed(text: str) -> str:
    """A table's text without its frame and line breaks."""
    return "".join(text.replace("\u2502", "").split())


def test_dry_run_names_method_phases_and_start(nas: InProcess, tmp_path: Path) -> None:
    start = imported(tmp_path / "start")
    recipe = ("--set", "train.method=progressive", "--from", start)
    result = nas("run", QUICKSTART, "--dry-run", *recipe)
    assert result.code == 0
    for text in ("progressive, 40 epochs", "phases: teacher (", "expand 2 (", f"from {start}", "content is checked"):
        assert squeezed(text) in squeezed(result.out), text


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        (("--set", "space.name=nasbench201", "--set", "space.settings={}"), "has no supernet"),
        (("--from", "nowhere"), "nowhere: it does not exist"),
        (("--set", "train.method=progressive", "--set", "train.epochs=2"), "set train.epochs to"),
        (("--set", "search.cache=[/nonexistent]"), "search.cache: /nonexistent is not a run directory"),
        (("--set", "data.augmentation=jitter-scale"), "'jitter-scale' is not for images; for images: none, shift,"),
    ],
)
def test_dry_run_refuses_what_the_run_would_refuse(nas: InProcess, setting: tuple[str, ...], named: str) -> None:
    result = nas("run", QUICKSTART, "--dry-run", *setting)
    assert result.code == 2
    assert squeezed(named) in squeezed(result.out + result.err)
    assert list(Path.cwd().iterdir()) == []


def test_a_refused_run_leaves_no_directory(nas: InProcess, tmp_path: Path) -> None:
    for command in ("run", "train"):
        result = nas(command, QUICKSTART, "--from", "nowhere", "--run-dir", tmp_path / "new")
        assert result.code == 2
        assert "nowhere: it does not exist" in result.err
        assert not (tmp_path / "new").exists()
    (tmp_path / "mine").mkdir()
    nas("run", QUICKSTART, "--from", "nowhere", "--run-dir", tmp_path / "mine")
    assert (tmp_path / "mine").is_dir()


def test_doctor_names_devices_and_data(nas: InProcess) -> None:
    result = nas("doctor")
    assert result.code == 0
    for text in ("onnxruntime-cpu", "fashion-mnist", "memory", "torch"):
        assert text in result.out


def test_quick_block_that_rots_is_found_by_every_run(nas: InProcess, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", quick={"train.epoch": 1})
    result = nas("run", recipe, "--dry-run")
    assert result.code == 2
    assert "train.epochs" in result.err


def test_a_copy_of_a_run_elsewhere_still_opens(nas: InProcess, tmp_path: Path) -> None:
    new_run(load_recipe(QUICKSTART), tmp_path / "run", num_classes=10)
    shutil.move(tmp_path / "run", tmp_path / "moved")
    assert nas("pareto", tmp_path / "moved", "--format", "json").code == 0


def test_a_device_that_the_run_does_not_know_is_refused_with_those_it_knows(nas: InProcess, tmp_path: Path) -> None:
    new_run(load_recipe(QUICKSTART), tmp_path / "run", num_classes=10)
    result = nas("pareto", tmp_path / "run", "--device", "phone")
    assert result.code == 2
    assert "onnxruntime-cpu" in result.err


@pytest.mark.parametrize("device", ["ethos-u55-128", "cortex-m4"])
def test_a_search_refuses_devices_whose_costs_are_counts(nas: InProcess, tmp_path: Path, device: str) -> None:
    reason = next(status.reason for status in list_devices() if status.device_id == device)
    if reason:
        pytest.skip(reason)
    result = nas("run", QUICKSTART, "--set", f"device.id={device}", "--run-dir", tmp_path / "run")
    assert result.code == 4
    assert "a search needs latencies in ms" in result.err
    assert not (tmp_path / "run").exists()
