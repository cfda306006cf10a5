"""One tiny run, taken through all stages once a session; a test that changes something copies it first."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.datasets import load_dataset
from experiments.recipe_settings import DataSettings
from hardware.device import Device, get_device
from nas.data import DataSplits
from nas.pricing import Pricer
from nas.profile import profile_device
from nas.refine import FineTuning, choose_for_refinement, read_refined
from nas.search.loop import Evaluated, run_search
from nas.search.pool import SerialPool
from nas.search.study import open_study
from nas.training.context import LocalContext
from nas.training.loop import train_supernet
from nas.verify import VerifySettings
from tests.nas.tiny_run import (
    PROFILE,
    REFINE,
    SEARCH,
    SEED,
    SPACE,
    TRAIN,
    TinyRun,
    copy_run,
    create_tiny_run,
    fresh_supernet,
    ignore,
    make_bench,
    make_pricer,
    price_by_macs,
    record_evaluated,
    record_refined,
    verify_all,
)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Sums in one order, so that equal computations are equal bit by bit."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data() -> DataSplits:
    """Real digits: 697 to train on."""
    return load_dataset(DataSettings(dataset="digits", search=400, verify=400, report=300), seed=SEED)


@pytest.fixture(scope="session")
def device() -> Device:
    return get_device("onnxruntime-cpu")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, data: DataSplits) -> TinyRun:
    """A run whose supernet has its epoch."""
    run = create_tiny_run(tmp_path_factory.mktemp("trained"))
    train_supernet(fresh_supernet(), data=data, settings=TRAIN, directory=run.train_dir, context=LocalContext())
    return run


@pytest.fixture(scope="session")
def profiled(tmp_path_factory: pytest.TempPathFactory, trained: TinyRun, data: DataSplits, device: Device) -> TinyRun:
    """A run whose device has a predictor, fitted to real measurements."""
    run = copy_run(trained, tmp_path_factory.mktemp("profiled") / "run")
    profile_device(make_bench(run, data=data, device=device), settings=PROFILE, on_progress=ignore, on_message=ignore)
    return run


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory, profiled: TinyRun, data: DataSplits, device: Device) -> TinyRun:
    """A run with its twelve evaluations of real inherited subnets."""
    run = copy_run(profiled, tmp_path_factory.mktemp("searched") / "run")
    bench = make_bench(run, data=data, device=device)

    def record(evaluated: Sequence[Evaluated]) -> None:
        record_evaluated(bench, evaluated)

    run_search(
        open_study(run.study_path, name="tiny", pricer=make_pricer(run), settings=SEARCH),
        pricer=make_pricer(run),
        pool=SerialPool(bench.judge.judge),
        settings=SEARCH,
        known={},
        record=record,
        on_progress=ignore,
    )
    return run


@pytest.fixture(scope="session")
def refined(tmp_path_factory: pytest.TempPathFactory, searched: TinyRun, data: DataSplits, device: Device) -> TinyRun:
    """A run with two fine-tuned candidates."""
    run = copy_run(searched, tmp_path_factory.mktemp("refined") / "run")
    bench = make_bench(run, data=data, device=device)
    tuning = FineTuning(judge=bench.judge, space=SPACE, data=data, store=run.candidates, settings=REFINE)
    for arch in choose_for_refinement(run.evaluations(), device_id="onnxruntime-cpu", num=REFINE.candidates):
        tuning.run(arch, directory=run.refine_dir(arch.arch_id), on_epoch=ignore)
        found = read_refined(run.refine_dir(arch.arch_id))
        assert found is not None
        record_refined(bench, found, pricer=make_pricer(run))
    return run


@pytest.fixture(scope="session")
def verified(tmp_path_factory: pytest.TempPathFactory, refined: TinyRun, data: DataSplits, device: Device) -> TinyRun:
    """A run with a verified front."""
    run = copy_run(refined, tmp_path_factory.mktemp("verified") / "run")
    verify_all(
        make_bench(run, data=data, device=device),
        pricer=make_pricer(run),
        settings=VerifySettings(candidates=5, protocol="quick", seed=SEED),
        on_progress=ignore,
    )
    return run


@pytest.fixture(scope="session")
def macs_pricer() -> Pricer:
    """Prices of the tiny space without a device."""
    return price_by_macs(SPACE, SPACE.sample_many(40, np.random.default_rng(SEED)))


@pytest.fixture
def run_copy(tmp_path: Path, trained: TinyRun) -> TinyRun:
    """A trained run that the test may change."""
    return copy_run(trained, tmp_path / "run")
