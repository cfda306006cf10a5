"""The limits of a recipe's search, and whether anything can meet them: asked before something is lost for them."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments.recipe import Recipe
from experiments.workload import recipe_device
from hardware.device import Device
from hardware.measuring import measure
from nas.data import DataSplits
from nas.deployment import Deployment
from nas.objectives import LATENCY, Limit
from nas.pricing import (
    Compute,
    Pricer,
    count_costs,
    further_limit,
    further_name,
    infeasible,
    reached,
    require_reachable,
    search_limits,
)
from nas.run import Run
from predictors import PredictorError
from searchspaces import SearchSpace


def asked_limits(recipe: Recipe) -> tuple[Limit, ...]:
    """What the search keeps to: its own limits, and one on the latency of each further device that has one."""
    further = [(one.id, one.limits.latency_ms) for one in recipe.devices]
    return (
        *search_limits(recipe.search.limits.model_dump()),
        *(further_limit(device_id, value) for device_id, value in further if value is not None),
    )


def make_pricer(run: Run, *, recipe: Recipe, device: Device) -> Pricer:
    """Prices architectures on a device; on the recipe's own also for the further devices that have limits.

    Raises:
        RunError: the device was not profiled.
    """
    limited = [one.id for one in recipe.devices if one.limits.latency_ms is not None]
    of_search = limited if device.spec.device_id == recipe.device.id else []
    return Pricer(
        run.space,
        predictor=run.predictor(device.spec.device_id),
        further=[run.predictor(one) for one in of_search if run.predictor_dir(one).exists()],
        num_classes=run.info.num_classes,
        precision=device.spec.precision,
    )


def require_reachable_again(run: Run, *, recipe: Recipe, device: Device, data: DataSplits) -> None:
    """Refuse limits that nothing can meet before a profiled run takes them over: it would have no front any more.

    Where nothing predicts a latency that is limited, the smallest subnet is measured, untrained.

    Raises:
        InfeasibleError: names the smallest reachable values.
    """
    try:
        costs = make_pricer(run, recipe=recipe, device=device).costs
    except PredictorError:  # by an older version: the search fits it anew
        costs = count_costs(run.space, num_classes=run.info.num_classes, precision=device.spec.precision)
    _require_all(asked_limits(recipe), costs=costs, recipe=recipe, space=run.space, device=device, data=data)


def require_reachable_untrained(recipe: Recipe, *, space: SearchSpace, device: Device, data: DataSplits) -> None:
    """Count, and measure the smallest subnet, untrained, before hours are spent on limits that nothing can meet.

    It is measured on each device whose latency is limited: the recipe's own, `device`, and the further ones.

    Raises:
        InfeasibleError: names the smallest reachable values.
    """
    costs = count_costs(space, num_classes=data.num_classes, precision=device.spec.precision)
    _require_all(asked_limits(recipe), costs=costs, recipe=recipe, space=space, device=device, data=data)


def _require_all(
    limits: Sequence[Limit],
    *,
    costs: Mapping[str, Compute],
    recipe: Recipe,
    space: SearchSpace,
    device: Device,
    data: DataSplits,
) -> None:
    """Those on what can be computed together, each other one by a measurement."""
    require_reachable(space, costs=costs, limits=[limit for limit in limits if limit.name in costs], seed=recipe.seed)
    further = {further_name(one.id): one.id for one in recipe.devices}
    for limit in limits:
        if limit.name in costs:
            continue
        if limit.name == LATENCY.name:
            _require_fast_enough(limit, device=device, recipe=recipe, space=space, data=data)
        elif limit.name in further:
            there = recipe_device(recipe, device_id=further[limit.name])
            _require_fast_enough(limit, device=there, recipe=recipe, space=space, data=data)


def _require_fast_enough(limit: Limit, *, device: Device, recipe: Recipe, space: SearchSpace, data: DataSplits) -> None:
    smallest = space.smallest
    with tempfile.TemporaryDirectory(prefix="archsmith-") as folder:
        artifact = Deployment(device, data=data).build(
            space.build_supernet(num_classes=data.num_classes).extract(smallest),
            shape=space.input_shape(smallest),
            path=Path(folder) / f"smallest.{device.backend.artifact_format}",
        )
        measured = measure(device, artifact, protocol="quick", rng=np.random.default_rng(recipe.seed))
    if limit.violation(measured.low) > 0:
        reachable = reached(limit, value=measured.p50, arch=smallest, provenance=measured.provenance)
        raise infeasible(space, limits=[limit], reachable=[reachable], binding=[limit])
