"""A session small enough for tests of single stages: fresh weights count as trained, latency follows MACs."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from experiments.recipe import load_recipe
from experiments.session import Session, open_session
from hardware.cost import analytic_costs
from nas.training.checkpoints import Checkpoint, save_checkpoint
from predictors import fit_latency_predictor

RECIPE = """
name: small
data: {dataset: digits, search: 300, verify: 400, report: 300}
space: {name: mbconv-small, settings: {resolutions: [8, 12], width: 0.25, stem_stride: 1}}
train: {epochs: 1, recalibration_images: 100}
refine: {epochs: 1}
"""


def open_untrained(path: Path, *, text: str = RECIPE, changes: str = "") -> Session:
    """A new run in `path`/run; `changes` are further lines of the recipe."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "recipe.yaml").write_text(text + changes, encoding="utf-8")
    return open_session(load_recipe(path / "recipe.yaml"), path / "run")


def give_weights(session: Session, *, seed: int = 0) -> None:
    """Store a checkpoint of fresh weights, and a predictor that only looks at MACs."""
    run = session.run
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        weights = run.space.build_supernet(num_classes=10).state_dict()
    details = {"space_id": run.space.space_id, "weights_id": run.space.weights_id}
    checkpoint = Checkpoint(epoch=1, step=1, weights=weights, optimizer={}, details=details)
    save_checkpoint(run.train_dir / "checkpoints", checkpoint)
    give_predictor(session, "onnxruntime-cpu")


def give_predictor(session: Session, device_id: str) -> None:
    """Store the predictor of a device whose latency follows MACs."""
    run = session.run
    genomes_NG = np.unique(run.space.sample_many(20, np.random.default_rng(0)), axis=0)
    macs_N = analytic_costs(run.space.op_table(genomes_NG)).macs_N
    archs = [arch.to_json() for arch in run.space.architectures(genomes_NG)]
    table = pd.DataFrame({"architecture": archs, "latency_ms": 0.01 + 1e-7 * macs_N})
    predictor = fit_latency_predictor(table, space=run.space, device_id=device_id)
    predictor.save(run.predictor_dir(device_id))
