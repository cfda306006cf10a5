"""Can a count stand in for the device? Rank correlations of proxies with measured costs, and what a search loses.

The same random subnets on every device: 200 on backends that build a network in about a second, the first 40 of them
on those that need more (LiteRT, ExecuTorch, accelerator, microcontroller); the smallest and the largest are among
them. Weights are random, costs do not depend on them; preprocessing is inside, as in what is deployed. Proxies are
MACs, parameters, bytes moved, roofline time and, as the least that one has to beat, the number of operators.

- Spearman's rho and Kendall's tau of each proxy with the cost, with a bootstrap interval over the subnets;
- front regret (with --supernet): the subnets on the front of (accuracy, proxy) have a hypervolume in (accuracy,
  measured cost), up to the lowest accuracy and the highest cost of all subnets; the part that it lacks of the true
  front's. The accuracies are those of a trained supernet's subnets on its search split, by torch in fp32 for all
  devices, so that all that differs is the proxy.

Suspect measurements (the tool measured them twice) are left out and counted. Everything finished is kept in --work, so
the benchmark can be stopped and goes on with the same command; records of suspect subnets are made again by --again.
The host should have nothing else to do; the load before the start is written down.

    python -m experiments.benchmarks.proxy_audit --work DIR [--supernet RUN] --out proxy_audit.json
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.benchmarks.audited_subnets import Costs, KeptAccuracies, KeptCosts, draw_subnets
from experiments.benchmarks.device_backends import available_devices
from experiments.benchmarks.harness import BenchmarkReport, benchmark_parser, start
from experiments.benchmarks.pictures import COLORS, GREY, Axis, Drawing
from experiments.benchmarks.proxies import (
    LEVEL,
    PROXIES,
    Correlation,
    Floats,
    Regret,
    front_regret,
    peaks_of,
    proxy_costs,
    rank_correlations,
)
from experiments.datasets import load_dataset
from experiments.recipe import load_recipe
from experiments.session import recipe_space
from experiments.workload import Workload, load_workload
from hardware.device import Device
from hardware.files import read_json, write_json, write_text
from hardware.lease import UnitLock
from hardware.protocol import PROTOCOLS
from hardware.roofline import Peaks, measure_peaks
from searchspaces import Architecture, OpTable
from searchspaces.errors import Hinted

NAME = "proxy_audit"
RECIPE = Path(__file__).parents[1] / "recipes" / "fashion_mnist.yaml"
FAST_BACKENDS = ("onnxruntime-cpu", "openvino-cpu", "torch-cpu", "onnxruntime-cuda", "torch-cuda")
DEVICES = (
    *("onnxruntime-cpu", "onnxruntime-cpu-int8", "openvino-cpu", "openvino-cpu-int8", "torch-cpu", "torch-cpu-int8"),
    *("litert-cpu", "litert-cpu-int8", "executorch-cpu", "executorch-cpu-int8"),
    *("ethos-u55-128", "ethos-u85-256", "cortex-m4", "cortex-m55", "onnxruntime-cuda", "torch-cuda"),
)
FEWEST = 3
_BATCH, _SLOW_BATCH = 20, 8
_PEAKS_TTL_S = 300.0
_LABELS = {"macs": "MACs", "bytes_moved": "bytes moved", "roofline": "roofline time"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Audited:
    """What the audit of one device found, by the name of the proxy.

    Attributes:
        num_subnets: with a measurement to be believed.
        spearman, kendall: correlations with the cost.
        regrets: front regrets; empty without accuracies.
    """

    num_subnets: int
    spearman: Mapping[str, Correlation]
    kendall: Mapping[str, Correlation]
    regrets: Mapping[str, Regret]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    parser = benchmark_parser(NAME, description=__doc__)
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="measurements are kept here")
    parser.add_argument("--devices", metavar="A,B,...", help=f"[default: {','.join(DEVICES)}, as far as available]")
    parser.add_argument("--subnets", type=int, default=200, metavar="N", help="on fast backends [default: %(default)s]")
    parser.add_argument("--slow-subnets", type=int, default=40, metavar="N", help="on others [default: %(default)s]")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="quick", help="[default: %(default)s]")
    parser.add_argument("--supernet", type=Path, metavar="RUN", help="a run with a trained supernet: space, accuracies")
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="space and data without --supernet [%(default)s]")
    parser.add_argument("--again", action="store_true", help="measure suspect subnets again")
    options, report = start(parser, argv)
    if min(options.subnets, options.slow_subnets) < FEWEST:
        parser.error(f"--subnets and --slow-subnets must be {FEWEST} or more")
    try:
        devices = available_devices(options.devices, default=DEVICES, report=report)
        return _Audit(options, report).run(devices)
    except Hinted as e:
        parser.error(f"{e}; {e.hint}")


class _Audit:
    """One audit: space, subnets, what is kept of them, and the report."""

    def __init__(self, options: argparse.Namespace, report: BenchmarkReport) -> None:
        self._options, self._report = options, report
        workload: Workload | None = None
        if options.supernet is not None:
            workload = load_workload(options.supernet)
            self._space, data, seed = workload.run.space, workload.data, workload.recipe.seed
            report.note("supernet", {"checkpoint": workload.run.checkpoint_dir().name, "run": str(options.supernet)})
        else:
            recipe = load_recipe(options.recipe)
            self._space, data, seed = recipe_space(recipe), load_dataset(recipe.data, seed=recipe.seed), recipe.seed
        self._numbers = (12, 4) if options.quick else (options.subnets, options.slow_subnets)
        self._archs = draw_subnets(self._space, num=max(self._numbers), seed=seed)
        self._costs = KeptCosts(
            options.work / "measurements", space=self._space, data=data, protocol=options.protocol, seed=seed
        )
        self._kept = None
        if workload is not None:
            self._kept = KeptAccuracies(options.work / "accuracies.json", workload=workload)
        self._num_classes = data.num_classes

    def run(self, devices: Sequence[Device]) -> int:
        """Measure what is missing, device by device, and report."""
        report, options = self._report, self._options
        for device in devices:
            self._costs.require_same_device(device)
        report.note("space_id", self._space.space_id)
        report.note("subnets", [arch.to_json() for arch in self._archs])
        report.note("protocol", options.protocol)
        host_peaks = self._host_peaks(devices)
        report.note("host_peaks", {"macs_per_s": host_peaks.macs_per_s, "bytes_per_s": host_peaks.bytes_per_s})
        accuracy_N = self._accuracies(max((len(self._subnets(device)) for device in devices), default=0))
        found = {}
        for device in devices:
            device_id = device.spec.device_id
            try:
                self._measure(device)
            # A device that breaks does not take the others away; what it has measured counts.
            except Hinted as e:
                report.skip(f"{device_id}: the rest", f"{e}; {e.hint}")
            if audited := self._audit(device, accuracy_N=accuracy_N, host_peaks=host_peaks):
                found[device_id] = audited
            report.save()
        self._show(found)
        if found:
            write_text(options.out.with_suffix(".svg"), draw_audit(found))
        return report.finish()

    def _subnets(self, device: Device) -> list[Architecture]:
        return self._archs[: self._numbers[0 if device.backend.name in FAST_BACKENDS else 1]]

    def _measure(self, device: Device) -> None:
        self._costs.measure_missing(
            device,
            self._subnets(device),
            batch=_BATCH if device.backend.name in FAST_BACKENDS else _SLOW_BATCH,
            again=self._options.again,
            say=self._report.say,
        )

    def _accuracies(self, num: int) -> Floats | None:
        if self._kept is None:
            self._report.skip("front regret", "needs accuracies, pass --supernet RUN, a run with a trained supernet")
            return None
        self._kept.judge_missing(self._archs[:num], say=self._report.say)
        return self._kept.accuracies(self._archs)

    def _host_peaks(self, devices: Sequence[Device]) -> Peaks:
        """This machine's, measured once for all calls: a roofline that changes from call to call compares nothing."""
        path: Path = self._options.work / "peaks.json"
        if not path.exists():
            unit = devices[0].spec.physical_unit() if devices else "host"
            with UnitLock(unit).measuring(owner=f"{NAME}: peaks of the host", ttl_s=_PEAKS_TTL_S):
                peaks = measure_peaks()
            write_json(path, {"macs_per_s": peaks.macs_per_s, "bytes_per_s": peaks.bytes_per_s})
        known = read_json(path)
        assert isinstance(known, dict)
        return Peaks(macs_per_s=float(known["macs_per_s"]), bytes_per_s=float(known["bytes_per_s"]), source="measured")

    def _audit(self, device: Device, *, accuracy_N: Floats | None, host_peaks: Peaks) -> Audited | None:
        """Add a device's figures; None, after a line that says so, if too few subnets are left."""
        report, device_id, archs = self._report, device.spec.device_id, self._subnets(device)
        costs = self._costs.costs(device_id, archs)
        good_N = np.isfinite(costs.values_N)
        self._describe(device_id, costs)
        if good_N.sum() < FEWEST:
            report.skip(
                device_id, f"{int(good_N.sum())} subnets have a measurement to be believed, {FEWEST} are needed"
            )
            return None
        proxies = self._proxies(device, host_peaks=host_peaks)
        cost_N = costs.values_N[good_N]
        ranks = {name: rank_correlations(values_N[good_N], cost_N) for name, values_N in proxies.items()}
        audited = Audited(
            num_subnets=len(cost_N),
            spearman={name: found["spearman"] for name, found in ranks.items()},
            kendall={name: found["kendall"] for name, found in ranks.items()},
            regrets={}
            if accuracy_N is None
            else {
                name: front_regret(accuracy_N[: len(archs)][good_N], values_N[good_N], cost_N)
                for name, values_N in proxies.items()
            },
        )
        self._record(device_id, audited)
        return audited

    def _proxies(self, device: Device, *, host_peaks: Peaks) -> dict[str, Floats]:
        peaks = peaks_of(device, host_peaks=host_peaks)
        if peaks is None:
            self._report.skip(f"{device.spec.device_id}: roofline", "the device's peaks are not known")
        table: OpTable = self._space.op_table(self._space.genomes(self._subnets(device)), num_classes=self._num_classes)
        return proxy_costs(table, peaks=peaks)

    def _describe(self, device_id: str, costs: Costs) -> None:
        good_N, report = costs.values_N[np.isfinite(costs.values_N)], self._report
        report.add(f"{device_id}/subnets", len(good_N))
        report.add(f"{device_id}/suspect", costs.num_suspect)
        report.add(f"{device_id}/missing", costs.num_missing)
        report.add(f"{device_id}/cost/unit", f"{costs.unit} ({costs.provenance})" if len(good_N) else None)
        report.add(f"{device_id}/cost/lowest", float(good_N.min()) if len(good_N) else None)
        report.add(f"{device_id}/cost/highest", float(good_N.max()) if len(good_N) else None)

    def _record(self, device_id: str, audited: Audited) -> None:
        add = self._report.add
        for metric in ("spearman", "kendall"):
            found: Mapping[str, Correlation] = getattr(audited, metric)
            for name, correlation in found.items():
                add(f"{device_id}/{name}/{metric}", correlation.value)
                add(f"{device_id}/{name}/{metric}_low", correlation.low)
                add(f"{device_id}/{name}/{metric}_high", correlation.high)
        for name, regret in audited.regrets.items():
            add(f"{device_id}/{name}/front_regret", regret.value)
            add(f"{device_id}/{name}/front_subnets", regret.num_chosen)
        for regret in list(audited.regrets.values())[:1]:
            add(f"{device_id}/front/subnets", regret.num_true)
            add(f"{device_id}/front/reference_accuracy", regret.reference[0])
            add(f"{device_id}/front/reference_cost", regret.reference[1])

    def _show(self, found: Mapping[str, Audited]) -> None:
        headings = ["device (subnets)", *(_LABELS.get(name, name) for name in PROXIES)]
        for metric, title in (("spearman", "Spearman's rho"), ("kendall", "Kendall's tau")):
            rows = [[_shown_device(*one), *_shown_correlations(getattr(one[1], metric))] for one in found.items()]
            self._report.show(f"{title} with the measured cost ({LEVEL:.0%} interval)", headings=headings, rows=rows)
        rows = [[_shown_device(*one), *_shown_regrets(one[1].regrets)] for one in found.items() if one[1].regrets]
        if rows:
            title = "Front regret: hypervolume lost by searching with the proxy"
            self._report.show(title, headings=[*headings, "true front"], rows=rows)


def _shown_device(device_id: str, audited: Audited) -> str:
    return f"{device_id} ({audited.num_subnets})"


def _shown_correlations(found: Mapping[str, Correlation]) -> list[str]:
    return [
        f"{found[name].value:.3f} ({found[name].low:.2f}..{found[name].high:.2f})" if name in found else ""
        for name in PROXIES
    ]


def _shown_regrets(found: Mapping[str, Regret]) -> list[str]:
    num_true = next(iter(found.values())).num_true
    return [*(f"{found[name].value:.2%}" if name in found else "" for name in PROXIES), str(num_true)]


def draw_audit(found: Mapping[str, Audited]) -> str:
    """SVG: a row a device; Spearman's rho with its interval on the left, front regret, if there is one, on the right.

    Args:
        found: by device id, at least one.
    """
    has_regrets = any(audited.regrets for audited in found.values())
    row, left, panel, top, bottom = 60, 150, 360, 90, 60
    height, width = top + bottom + row * len(found), left + (panel + 60) * (2 if has_regrets else 1)
    lows = [c.low for audited in found.values() for c in audited.spearman.values() if np.isfinite(c.low)]
    # From a round number below all of them.
    rho = Axis(low=np.floor(10 * min([*lows, 0.9])) / 10, high=1.0, start=left, end=left + panel)
    regrets = [100 * r.value for audited in found.values() for r in audited.regrets.values() if np.isfinite(r.value)]
    # Four steps of whole numbers where there is room for them.
    most = np.ceil(max([*regrets, 1.0]) / 4) * 4 if max([*regrets, 1.0]) > 2 else 2.0
    lost = Axis(low=0.0, high=most, start=left + panel + 60, end=left + 2 * panel + 60)
    drawing = Drawing(width=width, height=height)
    drawing.text(16, height - 25, "Proxies against the device", size=16, anchor="start")
    for place, name in enumerate(PROXIES):
        drawing.circle(20 + 105 * place, height - 46, radius=4, color=COLORS[place])
        drawing.text(30 + 105 * place, height - 50, _LABELS.get(name, name), anchor="start")
    _draw_axis(drawing, rho, title="Spearman's rho (line: interval)", form="{:.2f}", bottom=bottom, top=height - top)
    if has_regrets:
        _draw_axis(drawing, lost, title="front regret in %", form="{:.1f}", bottom=bottom, top=height - top)
    for number, (device_id, audited) in enumerate(found.items()):
        middle = height - top - row * (number + 0.5)
        drawing.text(left - 12, middle + 2, device_id, anchor="end")
        drawing.text(left - 12, middle - 14, f"{audited.num_subnets} subnets", anchor="end")
        for place, name in enumerate(PROXIES):
            y = middle + 8 * (len(PROXIES) / 2 - 0.5 - place)
            correlation, regret = audited.spearman.get(name), audited.regrets.get(name)
            if correlation is not None and np.isfinite([correlation.value, correlation.low, correlation.high]).all():
                ends = rho.clipped(correlation.low), rho.clipped(correlation.high)
                drawing.line(ends[0], y, ends[1], y, color=COLORS[place])
                drawing.circle(rho.clipped(correlation.value), y, radius=4, color=COLORS[place])
            if regret is not None and np.isfinite(regret.value):
                drawing.line(lost.start, y, lost.at(100 * regret.value), y, color=COLORS[place])
                drawing.circle(lost.at(100 * regret.value), y, radius=4, color=COLORS[place])
        drawing.line(left, middle - row / 2, width - 60, middle - row / 2)
    return drawing.svg()


def _draw_axis(drawing: Drawing, axis: Axis, *, title: str, form: str, bottom: float, top: float) -> None:
    for value in np.linspace(axis.low, axis.high, 5).tolist():
        drawing.line(axis.at(value), bottom, axis.at(value), top, color="#ddd")
        drawing.text(axis.at(value), bottom - 18, form.format(value))
    drawing.line(axis.start, top, axis.end, top, color=GREY)
    drawing.text((axis.start + axis.end) / 2, bottom - 40, title)


if __name__ == "__main__":
    raise SystemExit(main())
