"""The commands `nas devices list | show | measure | calibrate | check`."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from experiments.cli_options import err_console, out_console
from experiments.cli_spaces import Format, FormatOption

if TYPE_CHECKING:
    import pandas as pd

    from hardware.device import Connectors, Device
    from hardware.measurement import CostMeasurement
    from searchspaces import SearchSpace

app = typer.Typer(help="Devices: what networks cost where they will run.", no_args_is_help=True)


DeviceArgument = Annotated[
    str, typer.Argument(metavar="DEVICE", help="Device id, see `nas devices list`.", show_default=False)
]
DeviceOption = Annotated[str, typer.Option("--device", metavar="ID", help="Device id, see `nas devices list`.")]
SpaceOption = Annotated[
    str,
    typer.Option("--space", metavar="SPACE|FILE", help="A space's name, or a YAML file with `name` and `settings`."),
]
ClassesOption = Annotated[int, typer.Option("--classes", min=2, help="Classes of the classifier.")]


class Protocol(StrEnum):
    """Names of measurement protocols."""

    quick = "quick"
    standard = "standard"
    mlperf = "mlperf"


class Quantity(StrEnum):
    """What is predicted."""

    latency = "latency"
    latency_p99 = "latency_p99"
    energy = "energy"


ProtocolOption = Annotated[Protocol, typer.Option("--protocol", help="How thoroughly.")]
ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", min=1, help="Threads of one inference; default: 1, or as in devices.yaml."),
]
BatchOption = Annotated[
    int | None, typer.Option("--batch", min=1, help="Images of one inference; default: 1, or as in devices.yaml.")
]
AddressOption = Annotated[
    str | None, typer.Option("--address", metavar="HOST:PORT", help="Ray cluster, for a device on one of its nodes.")
]

_SHOWN = (
    *("arch_id", "candidate_id", "purpose", "p50", "low", "high", "p90", "p99", "quantile", "unit", "provenance"),
    *("protocol", "threads", "batch", "suspect_reason", "utc_time"),
)


@app.command("list")
def list_(format_: FormatOption = Format.table) -> None:
    """List the devices that can be measured on. Example: nas devices list."""
    from hardware import list_devices

    statuses = list_devices(connectors=_connectors())
    if format_ is Format.json:
        rows = [
            {
                "device": one.device_id,
                "backend": one.backend,
                "available": one.available,
                "reason": one.reason,
                "hint": one.hint,
                "versions": dict(one.versions),
            }
            for one in statuses
        ]
        typer.echo(json.dumps(rows, indent=2))
        return
    for status in statuses:
        text = "available" if status.available else f"not available: {status.reason} ({status.hint})"
        typer.echo(f"{status.device_id}  {text}")


@app.command()
def show(
    device: DeviceArgument,
    space: Annotated[str | None, typer.Option("--space", metavar="ID", help="Only this space's measurements.")] = None,
    format_: FormatOption = Format.table,
) -> None:
    """Show what was measured on a device, and who measures or waits on it now.

    Examples:
        nas devices show onnxruntime-cpu

        nas devices show onnxruntime-cpu --space mbconv-small --format json
    """
    from hardware import get_device
    from hardware.lease import UnitLock
    from hardware.records import FILES, measured_spaces, measurement_table

    chosen = get_device(device, connectors=_connectors())
    # The lock of a device elsewhere lies there.
    status = UnitLock(chosen.spec.physical_unit()).status() if chosen.host is None else None
    known = measured_spaces(device)
    if space is not None and known and space not in known:
        raise typer.BadParameter(f"{device} has measurements of {', '.join(known)}, none of {space!r}")
    spaces = known if space is None else [space]
    tables = {name: measurement_table(device, space_id=name).read() for name in spaces}
    if format_ is Format.json:
        held = (
            None
            if status is None
            else {
                "measuring": None if status.measuring is None else str(status.measuring),
                "computing": [str(holder) for holder in status.computing],
                "waiting": [str(waiter) for waiter in status.waiting],
            }
        )
        measurements = {name: _rows(frame) for name, frame in tables.items()}
        typer.echo(json.dumps({"device": device, "unit": held, "measurements": measurements}, indent=2))
        return
    if status is None:
        typer.echo(f"who measures on {device} now is known where it is, at {chosen.spec.location}")
    else:
        for holder in () if status.measuring is None else (status.measuring,):
            typer.echo(f"measured on by {holder}")
        for holder in status.computing:
            typer.echo(f"computed on by {holder}")
        for waiter in status.waiting:
            typer.echo(f"waited for by {waiter}")
    if not any(len(frame) for frame in tables.values()):
        typer.echo(f"nothing was measured on {device} yet; measure: nas devices measure MODEL.onnx --device {device}")
    for name, frame in tables.items():
        shown = Table(title=f"{device}, {name}: {len(frame)} measurements", title_justify="left")
        headings = (
            "network",
            "for",
            "median",
            "95 % interval",
            "p90",
            "p99",
            "unit",
            "provenance",
            "how",
            "UTC",
            "note",
        )
        for heading in headings:
            shown.add_column(heading, justify="right" if heading in ("median", "p90", "p99") else "left")
        for row in _rows(frame):
            shown.add_row(
                str(row["candidate_id"] if name == FILES else row["arch_id"]),
                str(row["purpose"]),
                f"{row['p50']:.5g}",
                f"{row['low']:.5g} - {row['high']:.5g}",
                f"{row['p90']:.5g}",
                f"{row['p99']:.5g}",
                str(row["unit"]),
                str(row["provenance"]),
                f"{row['protocol']}, {row['threads']} thread(s), batch {row['batch']}",
                str(row["utc_time"])[:16],
                escape(str(row["suspect_reason"])),
            )
        out_console(width=160).print(shown)


@app.command()
def measure(
    what: Annotated[
        str,
        typer.Argument(
            metavar="MODEL.onnx|ARCH",
            help="Any ONNX file with one input of fixed size, for devices of ONNX Runtime and OpenVINO; or an "
            "architecture as JSON text, a file with it, 'smallest' or 'largest' of --space.",
            show_default=False,
        ),
    ],
    device: DeviceOption = "onnxruntime-cpu",
    space: SpaceOption = "mbconv-small",
    classes: ClassesOption = 10,
    protocol: ProtocolOption = Protocol.standard,
    threads: ThreadsOption = None,
    batch: BatchOption = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            "--calibration",
            metavar="FILE.npy",
            help="Real inputs (N, ...) of MODEL.onnx, which an int8 device makes it int8 with; the first 256 are used.",
        ),
    ] = None,
    address: AddressOption = None,
    format_: FormatOption = Format.table,
) -> None:
    """Measure a network and keep the record.

    Examples:
        nas devices measure model.onnx --device onnxruntime-cpu --threads 2

        nas devices measure model.onnx --device openvino-cpu-int8 --calibration inputs.npy

        nas devices measure largest --space ofa-mobilenetv3-w1.0 --classes 1000 --device openvino-cpu-int8
    """
    from hardware import get_device

    chosen = get_device(device, threads=threads, batch=batch, connectors=_connectors())
    with _connected(address):
        if what.lower().endswith(".onnx"):
            record = _measure_file(chosen, Path(what), calibration=calibration, protocol=protocol)
        elif calibration is not None:
            raise typer.BadParameter("--calibration goes with an ONNX file, architectures have random weights")
        else:
            record = _measure_architecture(chosen, what, space=_space(space), classes=classes, protocol=protocol)
    if format_ is Format.json:
        typer.echo(json.dumps(_document(record), indent=2))
        return
    if record.provenance != "measured":
        # Counted once: there is nothing to take a median of.
        typer.echo(
            f"{record.quantity} {record.p50:,.0f} {'' if record.unit == record.quantity else record.unit}".rstrip()
        )
        typer.echo(f"provenance  {record.provenance}")
        for name, value in record.also.items():
            typer.echo(f"{name}    {value:,.0f}")
        return
    typer.echo(f"{record.quantity} {record.p50:.5g} {record.unit} ({record.provenance}, median)")
    typer.echo(f"interval    {record.low:.5g} - {record.high:.5g} {record.unit} ({record.level:.0%})")
    typer.echo(f"p90, p99    {record.p90:.5g}, {record.p99:.5g} {record.unit}")
    if record.quantile != 0.5:
        typer.echo(f"reported    {record.reported:.5g} {record.unit}: percentile {record.quantile:.0%} of {protocol}")
    for name, value in record.also.items():
        typer.echo(f"{name}    {value:,.0f}")
    typer.echo(f"measured    {record.num_rounds} rounds of {record.runs_per_round} runs, drift {record.drift:+.1%}")
    if record.suspect:
        err_console().print(f"[yellow]suspect[/yellow]: {escape(record.suspect_reason)}", highlight=False)


@app.command()
def calibrate(
    device: DeviceArgument,
    space: SpaceOption = "mbconv-small",
    samples: Annotated[int, typer.Option("--samples", help="Subnets that the predictor is fitted to.")] = 20,
    held_out: Annotated[int, typer.Option("--held-out", help="Further subnets that judge it.")] = 8,
    classes: ClassesOption = 10,
    quantity: Annotated[
        Quantity, typer.Option("--quantity", help="Which predictor to judge; all that was measured is fitted.")
    ] = Quantity.latency,
    protocol: ProtocolOption = Protocol.quick,
    threads: ThreadsOption = None,
    batch: BatchOption = None,
    transfer: Annotated[
        bool,
        typer.Option(
            help="Build on what other devices' calibrations of the space have found; int8 on the same device's in fp32."
        ),
    ] = True,
    operators: Annotated[
        bool,
        typer.Option(
            "--operators", help="Measure every block by itself as well, and build on the sums of an operator table."
        ),
    ] = False,
    table: Annotated[
        Path | None,
        typer.Option(
            "--table",
            metavar="FILE",
            help="With --operators: write the operator table to FILE as well (.json or .yaml), as once-for-all does.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Chooses the subnets.")] = 0,
    address: AddressOption = None,
    format_: FormatOption = Format.table,
) -> None:
    """Measure the subnets that tell most, fit the predictors and say how wrong they are.

    Examples:
        nas devices calibrate onnxruntime-cpu --space ofa-mobilenetv3-w1.0 --classes 1000 --samples 20

        nas devices calibrate openvino-cpu --space ofa-mobilenetv3-w1.0 --classes 1000 --samples 10 --transfer

        nas devices calibrate onnxruntime-cpu-int8 --samples 10 --quantity latency_p99

        nas devices calibrate onnxruntime-cpu --space mbconv-small --samples 10 --operators --table operators.json
    """
    from experiments.calibration_answer import calibration_document, calibration_text
    from experiments.console import ConsoleReporter
    from hardware import get_device
    from hardware.device import fp32_sibling
    from hardware.records import CalibrationSettings
    from nas.calibrate import calibrate as run
    from nas.calibrate import calibrated_elsewhere
    from predictors import write_operator_table

    if table is not None and not operators:
        raise typer.BadParameter("--table writes what --operators measures: give both")
    chosen = get_device(device, threads=threads, batch=batch, connectors=_connectors())
    searched = _space(space)
    sibling, settings = fp32_sibling(chosen), CalibrationSettings.of(chosen.spec, num_classes=classes)
    with _connected(address), ConsoleReporter(err_console()) as reporter:
        sources = (
            calibrated_elsewhere(
                device, space=searched, settings=settings, sibling=sibling, on_message=reporter.message
            )
            if transfer
            else []
        )
        told = f", building on {', '.join(one.device_id for one in sources)}" if sources else ""
        reporter.stage("calibrate", text=f"{samples} + {held_out} subnets on {device}{told}")
        found = run(
            chosen,
            searched,
            quantity=quantity,
            sources=sources,
            samples=samples,
            held_out=held_out,
            num_classes=classes,
            protocol=protocol,
            seed=seed,
            on_part=(lambda done, total: reporter.progress(done, total, text="parts")) if operators else None,
            on_built=lambda done, total: reporter.progress(done, total, text="files"),
            on_round=lambda done, total: reporter.progress(done, total, text="rounds"),
        )
        reporter.done(f"held-out error {found.scores.mape_percent:.1f} %")
        if table is not None and found.parts is not None:
            write_operator_table(table, found.parts.table)
    provenance = chosen.backend.provenance
    if format_ is Format.json:
        typer.echo(json.dumps(calibration_document(found, provenance=provenance), indent=2))
    else:
        typer.echo("\n".join(calibration_text(found, provenance=provenance, table=table)))


@app.command()
def check(
    device: DeviceArgument,
    address: AddressOption = None,
    format_: FormatOption = Format.table,
) -> None:
    """Check a device where it is; one in quarantine is used again if all is well. Example: nas devices check pi."""
    from hardware.connections import check_device
    from hardware.errors import DeviceError

    with _connected(address):
        items = check_device(device, connectors=_connectors())
    if format_ is Format.json:
        typer.echo(json.dumps([{"name": one.name, "ok": one.ok, "detail": one.detail} for one in items], indent=2))
    else:
        for item in items:
            typer.echo(f"{'ok' if item.ok else 'NO':3} {item.name:10} {item.detail}")
    if failed := [item.name for item in items if not item.ok]:
        raise DeviceError(
            f"device {device!r} cannot be measured on: {', '.join(failed)}",
            hint=f"repair that, then: nas devices check {device}",
        )


def _connectors() -> "Connectors":
    from experiments.ray.device_host import ray_connectors

    return ray_connectors()


@contextmanager
def _connected(address: str | None) -> Iterator[None]:
    """Connected to a Ray cluster, if there is an address."""
    if address is None:
        yield
        return
    from experiments.ray.cluster import connect

    with connect(address):
        yield


def _measure_file(device: "Device", path: Path, *, calibration: Path | None, protocol: str) -> "CostMeasurement":
    from experiments.console import ConsoleReporter
    from experiments.measure_file import measure_file

    with ConsoleReporter(err_console()) as reporter:
        reporter.stage("measure", text=f"{path.name} on {device.spec.device_id}")
        record = measure_file(
            device,
            path,
            calibration=calibration,
            protocol=protocol,
            on_progress=lambda done, total: reporter.progress(done, total, text="rounds"),
        )
        reporter.done("kept in the device's table")
    return record


def _measure_architecture(
    device: "Device", what: str, *, space: "SearchSpace", classes: int, protocol: str
) -> "CostMeasurement":
    from experiments.console import ConsoleReporter
    from nas.calibrate import measure_architectures
    from searchspaces import Architecture

    if what in ("smallest", "largest"):
        arch = space.smallest if what == "smallest" else space.largest
    else:
        arch = Architecture.from_json(_architecture_text(what))
        space.validate(arch)
    with ConsoleReporter(err_console()) as reporter:
        reporter.stage("measure", text=f"{arch.arch_id} on {device.spec.device_id}")
        found = measure_architectures(
            device,
            space,
            {arch: "measure"},
            num_classes=classes,
            protocol=protocol,
            seed=0,
            on_built=lambda done, total: reporter.progress(done, total, text="files"),
            on_round=lambda done, total: reporter.progress(done, total, text="rounds"),
        )
        reporter.done("kept in the device's table")
    return found[arch]


def _architecture_text(what: str) -> str:
    """JSON text as it is, or what a file holds."""
    if what.lstrip().startswith("{"):
        return what
    try:
        return Path(what).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise typer.BadParameter(
            f"{what!r} is no MODEL.onnx, no architecture as JSON text or a file with it, and neither 'smallest' nor "
            f"'largest' ({e})"
        ) from e


def _space(where: str) -> "SearchSpace":
    from experiments.spaces import find_space

    return find_space(where)


def _document(record: "CostMeasurement") -> dict[str, object]:
    row = record.to_row()
    row["versions"], row["also"] = dict(record.versions), dict(record.also)
    row["utc_time"] = record.utc_time.isoformat(timespec="seconds")
    return row


def _rows(frame: "pd.DataFrame") -> list[dict[str, object]]:
    rows = frame[list(_SHOWN)].assign(utc_time=frame["utc_time"].astype(str)).to_dict("records")
    return [{str(key): value for key, value in row.items()} for row in rows]
