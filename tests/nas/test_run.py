"""Run directories: made, opened, refused."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import nas
from nas.errors import CheckpointError, RunError
from nas.run import SCHEMA_VERSION, create_run, open_run, require_writable
from searchspaces import get_space
from tests.nas.predicted_run import add_device, evaluated_genomes, latency_ms, predicted_run
from tests.nas.tiny_run import SPACE, TinyRun, create_tiny_run

NOBODY = 65534


def edit_info(run: TinyRun, **changed: object) -> None:
    path = run.path / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


@contextmanager
def unwritable(path: Path) -> Iterator[None]:
    """Nobody may write to `path`; root, whom no permission stops, looks at it as somebody else."""
    path.chmod(0o555)
    real_user = os.getuid()
    if real_user == 0:
        os.setresuid(NOBODY, -1, -1)
    try:
        yield
    finally:
        if real_user == 0:
            os.setresuid(0, -1, -1)
        path.chmod(0o755)


def test_a_run_opens_as_it_was_made(tmp_path: Path) -> None:
    made = create_run(
        tmp_path / "runs" / "new",
        name="quickstart",
        recipe_text="name: quickstart\n",
        recipe_sha256="ab" * 32,
        space="mbconv-small",
        space_settings={"resolutions": [16, 24]},
        num_classes=7,
        device_id="onnxruntime-cpu",
    )
    opened = open_run(str(made.path))
    assert opened.info == made.info
    assert opened.info.schema_version == SCHEMA_VERSION
    assert opened.space.space_id == get_space("mbconv-small", resolutions=(16, 24)).space_id
    assert opened.recipe_path.read_text() == "name: quickstart\n"


def test_every_run_has_an_id_of_its_own(tmp_path: Path) -> None:
    assert create_tiny_run(tmp_path / "a").info.run_id != create_tiny_run(tmp_path / "b").info.run_id


def test_a_new_run_has_empty_tables_and_an_empty_front(tmp_path: Path) -> None:
    run = create_tiny_run(tmp_path / "run")
    assert len(run.evaluations()) == len(run.measurements()) == len(run.verifications()) == 0
    assert run.front().points == ()


def test_the_package_offers_open_run(tmp_path: Path) -> None:
    create_tiny_run(tmp_path / "run")
    assert nas.open_run(tmp_path / "run").info.name == "tiny"
    with pytest.raises(AttributeError, match="nonsense"):
        nas.nonsense  # noqa: B018  # type: ignore[attr-defined]


def test_a_directory_with_other_files_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="holds files that are not a run's") as caught:
        create_tiny_run(tmp_path)
    assert "--run-dir" in caught.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_recipe_of_the_users_own_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("name: precious\n")
    with pytest.raises(RunError, match="not a run's"):
        create_tiny_run(tmp_path)
    assert (tmp_path / "recipe.yaml").read_text() == "name: precious\n"


def test_making_a_run_goes_on_after_a_kill_before_its_last_file(tmp_path: Path) -> None:
    create_tiny_run(tmp_path / "run")
    (tmp_path / "run" / "run.json").unlink()
    (tmp_path / "run" / ".tmp-0123456789ab-run.json").write_text('{"schema_ver')
    (tmp_path / "run" / ".lock").touch()
    create_tiny_run(tmp_path / "run")
    assert open_run(tmp_path / "run").info.name == "tiny"


def test_a_finished_run_is_not_made_again(tmp_path: Path) -> None:
    run = create_tiny_run(tmp_path / "run")
    with pytest.raises(RunError, match="not a run's"):
        create_tiny_run(tmp_path / "run")
    assert open_run(run.path).info == run.info


def test_a_file_in_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    for place in (tmp_path / "run", tmp_path / "run" / "below"):
        with pytest.raises(RunError, match=f"cannot create the run directory {place}: ") as caught:
            create_tiny_run(place)
        assert "--run-dir" in caught.value.hint
        with pytest.raises(RunError, match="is not a run directory"):
            open_run(place)


def test_a_dangling_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").symlink_to(tmp_path / "nowhere" / "at-all")
    with pytest.raises(RunError, match="cannot create the run directory"):
        create_tiny_run(tmp_path / "run")


def test_a_directory_without_permission_is_refused(tmp_path: Path) -> None:
    with unwritable(tmp_path), pytest.raises(RunError, match=f"{tmp_path} is not writable") as caught:
        require_writable(tmp_path)
    assert "--run-dir" in caught.value.hint
    require_writable(tmp_path)


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_a_directory_without_run_json_is_no_run(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match=r"is not a run directory \(run\.json is missing\)") as caught:
        open_run(tmp_path / name)
    assert caught.value.hint


@pytest.mark.parametrize("content", ["", '{"schema_version": 1', "[]", '"text"', "{}", '{"schema_version": "one"}'])
def test_a_damaged_run_json_is_refused_with_its_name(tmp_path: Path, content: str) -> None:
    run = create_tiny_run(tmp_path / "run")
    (run.path / "run.json").write_text(content)
    with pytest.raises(RunError, match=r"run\.json is damaged") as caught:
        open_run(run.path)
    assert caught.value.hint


def test_unknown_keys_are_refused(tmp_path: Path) -> None:
    run = create_tiny_run(tmp_path / "run")
    edit_info(run, surprise=1)
    with pytest.raises(RunError, match=r"damaged: .*surprise"):
        open_run(run.path)


@pytest.mark.parametrize("version", [0, SCHEMA_VERSION + 1])
def test_another_layout_version_is_refused_whatever_its_keys(tmp_path: Path, version: int) -> None:
    run = create_tiny_run(tmp_path / "run")
    edit_info(run, schema_version=version, surprise=1)
    with pytest.raises(RunError, match=f"layout version {version}, this program reads {SCHEMA_VERSION}") as caught:
        open_run(run.path)
    assert "version of archsmith" in caught.value.hint


def test_a_run_without_supernet_says_which_stage_is_missing(tmp_path: Path) -> None:
    run = create_tiny_run(tmp_path / "run")
    for lacking in (run.supernet, run.checkpoint_dir, run.checkpoint_sha256):
        with pytest.raises(RunError, match="no trained supernet") as caught:
            lacking()
        assert caught.value.hint == f"nas train {run.path}"


def test_a_run_without_predictor_says_which_stage_is_missing(trained: TinyRun, profiled: TinyRun) -> None:
    with pytest.raises(RunError, match="no latency predictor for device 'onnxruntime-cpu'") as caught:
        trained.predictor()
    assert str(caught.value).endswith("nothing was profiled there yet")
    assert caught.value.hint == f"nas profile {trained.path}"
    with pytest.raises(RunError, match=r"for device 'toaster': .*; profiled devices: onnxruntime-cpu"):
        profiled.predictor("toaster")
    assert profiled.predictor().device_id == "onnxruntime-cpu"


def test_the_supernet_comes_back_in_eval_mode(trained: TinyRun) -> None:
    supernet = trained.supernet()
    assert not supernet.training
    assert supernet.space.space_id == SPACE.space_id


def test_a_damaged_supernet_is_refused_with_its_file(run_copy: TinyRun) -> None:
    weights = run_copy.checkpoint_dir() / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=str(weights)):
        run_copy.supernet()
    with pytest.raises(CheckpointError, match=str(weights)):
        run_copy.checkpoint_sha256()


def test_the_front_of_another_device_is_empty(verified: TinyRun) -> None:
    assert verified.front(device="toaster").points == ()
    assert verified.front().points


def test_a_device_that_joins_prices_what_was_evaluated_before(tmp_path: Path) -> None:
    run = predicted_run(tmp_path / "run")
    before = run.evaluations()
    assert run.devices() == ("d",)
    assert run.evaluations_on("parallel").empty
    assert not run.front(device="parallel").points
    add_device(run, "parallel")
    assert run.devices() == ("d", "parallel")
    rows = run.evaluations_on("parallel")
    assert set(rows["device_id"]) == {"parallel"}
    assert rows[["candidate_id", "accuracy"]].equals(before[["candidate_id", "accuracy"]])
    true_N = latency_ms(run, evaluated_genomes(run), device="parallel")
    np.testing.assert_allclose(rows["latency_predicted_ms"].to_numpy(dtype=float), true_N, rtol=0.02)
    front = run.front(device="parallel")
    assert (front.device_id, front.provenance, front.split) == ("parallel", "predicted", "search")
    assert front.points[-1].accuracy == before["accuracy"].max()
    assert run.front().device_id == "d"
    assert run.evaluations().equals(before)


def test_the_newest_row_of_a_candidate_is_priced(tmp_path: Path) -> None:
    run = predicted_run(tmp_path / "run")
    add_device(run, "parallel")
    again = run.evaluations().iloc[0].to_dict() | {"accuracy": 0.999}
    run.evaluations_table.append([{str(key): value for key, value in again.items()}])
    rows = run.evaluations_on("parallel")
    assert rows["candidate_id"].is_unique
    assert rows.set_index("candidate_id")["accuracy"][again["candidate_id"]] == 0.999
    assert len(run.evaluations_on("d")) == len(rows)


def test_a_row_more_changes_no_price(tmp_path: Path) -> None:
    run = predicted_run(tmp_path / "run")
    add_device(run, "parallel")
    before = run.evaluations_on("parallel").set_index("arch_id")["latency_predicted_ms"]
    # Other weights of a few architectures, at another place in the table.
    known = run.evaluations().iloc[::7].to_dict("records")
    tuned = [{**row, "candidate_id": f"{row['arch_id']}-tuned", "weights_kind": "fine-tuned"} for row in known]
    run.evaluations_table.append([{str(key): value for key, value in row.items()} for row in tuned])
    rows = run.evaluations_on("parallel")
    assert len(rows) == len(before) + len(known)
    assert (rows["latency_predicted_ms"] == rows["arch_id"].map(before)).all()
