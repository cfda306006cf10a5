"""The command `nas portfolio`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from experiments.cli_options import err_console, out_console
from experiments.cli_spaces import Format, FormatOption

if TYPE_CHECKING:
    from nas.portfolio import Portfolio
    from nas.sharing import Shared, Target

_INFEASIBLE = 3


def portfolio(
    where: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.", show_default=False)],
    devices: Annotated[str, typer.Option("--devices", metavar="ID,ID", help="Profiled devices.", show_default=False)],
    budgets: Annotated[
        str,
        typer.Option(
            "--budgets",
            metavar="LIST",
            help="Largest latencies in ms: 0.1,0.2 for every device, or A=0.02:0.05,B=0.3 for each.",
            show_default=False,
        ),
    ],
    max_models: Annotated[int, typer.Option("--max-models", min=1, max=100, help="Most architectures.")] = 5,
    epsilon: Annotated[
        float, typer.Option("--epsilon", min=0.0, max=1.0, help="Accepted loss of accuracy, a fraction.")
    ] = 0.005,
    format_: FormatOption = Format.table,
) -> None:
    """Find the fewest architectures that serve all devices and budgets, and what sharing costs. Nothing is evaluated.

    The loss of a device and budget is the accuracy of its own best architecture minus that of the one that serves it.

    Examples:
        nas portfolio runs/quickstart --devices onnxruntime-cpu,openvino-cpu --budgets 0.03,0.1 --max-models 3

        nas portfolio runs/quickstart --devices onnxruntime-cpu,openvino-cpu \
            --budgets onnxruntime-cpu=0.03:0.06,openvino-cpu=0.1 --epsilon 0.01 --format json
    """
    from nas.run import open_run
    from nas.sharing import share

    run = open_run(where)
    targets = _targets(devices, budgets)
    shared = share(run, targets, max_models=max_models)
    chosen = _chosen(shared.portfolios, epsilon=epsilon)
    if format_ is Format.json:
        document = {
            "run": str(where),
            "space": run.space.space_id,
            "provenance": "predicted",
            "epsilon": epsilon,
            "max_models": max_models,
            "targets": [_target_document(shared, p) for p in range(len(targets))],
            "portfolios": [_portfolio_document(shared, one) for one in shared.portfolios],
            "chosen": None if chosen is None else shared.portfolios.index(chosen),
            "within_epsilon": chosen is not None and _within(chosen, epsilon=epsilon),
            "architectures": {
                shared.architectures[n].arch_id: json.loads(shared.architectures[n].to_json())
                for one in shared.portfolios
                for n in one.models
            },
        }
        typer.echo(json.dumps(document, indent=2))
        if chosen is None:
            raise typer.Exit(_INFEASIBLE)
        return
    out, err = out_console(width=160), err_console()
    if chosen is None:
        err.print(
            f"no {max_models} architectures together meet all {len(targets)} budgets: allow more (--max-models)",
            highlight=False,
        )
        raise typer.Exit(_INFEASIBLE)
    out.print(_price_table(shared, run_name=run.info.name))
    out.print(_serving_table(shared, chosen))
    if not _within(chosen, epsilon=epsilon):
        err.print(
            f"the worst loss is {chosen.worst_loss:.2%}, above {epsilon:.2%}: allow more architectures (--max-models)",
            highlight=False,
        )


def _targets(devices: str, budgets: str) -> "list[Target]":
    """One target for every device and budget, in their order."""
    from nas.sharing import Target

    ids = [part.strip() for part in devices.split(",")]
    if not all(ids) or len(set(ids)) < len(ids):
        raise typer.BadParameter(f"--devices {devices!r}: expected different device ids with commas between them")
    of_device: dict[str, list[float]] = {device_id: [] for device_id in ids}
    for part in budgets.split(","):
        name, sign, values = part.rpartition("=")
        name = name.strip()
        if sign and name not in of_device:
            raise typer.BadParameter(f"--budgets {part!r}: {name!r} is none of --devices {', '.join(ids)}")
        for text in values.split(":"):
            for device_id in [name] if sign else ids:
                of_device[device_id].append(_budget(text))
    without = [device_id for device_id, found in of_device.items() if not found]
    if without:
        raise typer.BadParameter(f"--budgets {budgets!r}: nothing for {', '.join(without)}")
    return [
        Target(device_id=device_id, latency_ms=budget)
        for device_id, found in of_device.items()
        for budget in dict.fromkeys(found)
    ]


def _budget(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value < float("inf"):
        raise typer.BadParameter(f"--budgets: {text!r} is no positive number of ms")
    return value


def _within(one: "Portfolio", *, epsilon: float) -> bool:
    return one.worst_loss <= epsilon + 1e-9


def _chosen(found: "list[Portfolio]", *, epsilon: float) -> "Portfolio | None":
    """The smallest portfolio within epsilon, or else the one that comes nearest."""
    return next((one for one in found if _within(one, epsilon=epsilon)), found[-1] if found else None)


def _price_table(shared: "Shared", *, run_name: str) -> Table:
    title = f"Price of sharing: predicted accuracy lost in {run_name}"
    table = Table(title=title, title_justify="left")
    for heading in ("models", "worst loss", "mean loss", "found", "arch ids"):
        table.add_column(heading, justify="left" if heading in ("found", "arch ids") else "right")
    for one in shared.portfolios:
        names = ", ".join(shared.architectures[n].arch_id for n in one.models)
        table.add_row(str(len(one.models)), f"{one.worst_loss:.2%}", f"{one.mean_loss:.2%}", one.method, names)
    return table


def _serving_table(shared: "Shared", chosen: "Portfolio") -> Table:
    table = Table(
        title=f"What {len(chosen.models)} architectures serve: all values are predicted", title_justify="left"
    )
    headings = ("device", "budget ms", "arch id", "accuracy, 90 %", "latency ms, 90 %", "evaluated", "loss", "note")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("device", "arch id", "note") else "right")
    for p, target in enumerate(shared.targets):
        one = _serving_document(shared, p, int(chosen.serving_P[p]))
        low, high = one["accuracy_interval"]
        fast, slow = one["latency_interval_ms"]
        notes = [] if slow <= target.latency_ms else ["may miss the budget"]
        notes += [] if one["in_range"] else ["unlike what was measured"]
        table.add_row(
            target.device_id,
            f"{target.latency_ms:g}",
            one["arch_id"],
            f"{one['accuracy']:.2%}  {low:.1%} - {high:.1%}",
            f"{one['latency_ms']:.4g}  {fast:.4g} - {slow:.4g}",
            "" if one["accuracy_evaluated"] is None else f"{one['accuracy_evaluated']:.2%}",
            f"{one['loss']:.2%}",
            ", ".join(notes),
        )
    return table


def _target_document(shared: "Shared", p: int) -> dict[str, object]:
    target = shared.targets[p]
    own = _serving_document(shared, p, int(shared.best_P[p]))
    return {"device": target.device_id, "latency_ms": target.latency_ms, "own_best": own}


def _portfolio_document(shared: "Shared", one: "Portfolio") -> dict[str, object]:
    return {
        "models": [shared.architectures[n].arch_id for n in one.models],
        "worst_loss": one.worst_loss,
        "mean_loss": one.mean_loss,
        "method": one.method,
        "serving": [
            {"device": target.device_id, "budget_ms": target.latency_ms, **_serving_document(shared, p, int(n))}
            for p, (target, n) in enumerate(zip(shared.targets, one.serving_P, strict=True))
        ],
    }


def _serving_document(shared: "Shared", p: int, n: int) -> dict[str, Any]:
    """What architecture n is for target p."""
    arch, accuracy = shared.architectures[n], shared.accuracy
    latency = shared.latency[shared.targets[p].device_id]
    return {
        "arch_id": arch.arch_id,
        "accuracy": float(accuracy.mean[n]),
        "accuracy_interval": [float(accuracy.lower[n]), float(accuracy.upper[n])],
        "accuracy_evaluated": shared.evaluated.get(arch.arch_id),
        "latency_ms": float(latency.mean[n]),
        "latency_interval_ms": [float(latency.lower[n]), float(latency.upper[n])],
        "in_range": bool(accuracy.in_range[n] and latency.in_range[n]),
        "loss": float(shared.loss_PN[p, n]),
    }
