"""The figures: what they show, what hovering says, and that their pages work alone, offline and in a sandbox."""

import functools
import html
import json
import queue
import re
import shutil
import subprocess
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from experiments.tracking.figures import hypervolume_figure, pareto_figure, predictor_figure, write_html

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def evaluations(*, slowest_ms: float = 0.2, num: int = 6) -> pd.DataFrame:
    latency = np.geomspace(0.1, slowest_ms, num)
    return pd.DataFrame(
        {
            "candidate_id": [f"candidate-{n}" for n in range(num)],
            "arch_id": [f"{n:012x}" for n in range(num)],
            "weights_kind": ["inherited"] * (num - 1) + ["fine-tuned"],
            "accuracy": np.linspace(0.90, 0.96, num),
            "accuracy_low": np.linspace(0.88, 0.94, num),
            "accuracy_high": np.linspace(0.91, 0.97, num),
            "latency_predicted_ms": latency,
            "latency_predicted_low_ms": 0.95 * latency,
            "latency_predicted_high_ms": 1.05 * latency,
            "in_range": [True] * (num - 1) + [False],
            "macs": 1_250_000,
            "params": 43_210,
        }
    )


def verifications(evaluated: pd.DataFrame) -> pd.DataFrame:
    rows = evaluated.head(4)
    return rows.assign(
        accuracy=[0.89, 0.93, 0.92, 0.95],
        accuracy_low=[0.87, 0.91, 0.90, 0.93],
        accuracy_high=[0.91, 0.95, 0.94, 0.97],
        accuracy_search=rows["accuracy"],
        accuracy_inherited=[0.885, float("nan"), 0.9, 0.9],
        latency_ms=rows["latency_predicted_ms"] * 1.1,
        latency_low_ms=rows["latency_predicted_ms"] * 1.08,
        latency_high_ms=rows["latency_predicted_ms"] * 1.13,
        provenance="measured",
        suspect=[False, True, True, False],
    )


def front(verified: pd.DataFrame) -> list[dict[str, object]]:
    return [
        {
            "arch_id": row["arch_id"],
            "candidate": row["candidate_id"],
            "accuracy": row["accuracy"],
            "accuracy_interval": [row["accuracy_low"], row["accuracy_high"]],
            "accuracy_inherited": None if np.isnan(row["accuracy_inherited"]) else row["accuracy_inherited"],
            "latency_ms": row["latency_ms"],
            "latency_interval_ms": [row["latency_low_ms"], row["latency_high_ms"]],
            "latency_predicted_ms": row["latency_predicted_ms"],
            "provenance": row["provenance"],
            "macs": row["macs"],
            "params": row["params"],
        }
        for row in verified.to_dict("records")
        if row["candidate_id"] != "candidate-2"
    ]


def measured(num: int = 20) -> pd.DataFrame:
    latency = np.geomspace(0.1, 1.0, num)
    return pd.DataFrame(
        {
            "arch_id": [f"{n:012x}" for n in range(num)],
            "held_out": np.arange(num) % 4 == 0,
            "latency_ms": latency,
            "latency_low_ms": 0.99 * latency,
            "latency_high_ms": 1.01 * latency,
            "latency_predicted_ms": 1.02 * latency,
            "latency_predicted_low_ms": 0.9 * latency,
            "latency_predicted_high_ms": 1.1 * latency,
        }
    )


def trace(figure: go.Figure, name: str) -> go.Scatter:
    (found,) = [trace for trace in figure.data if trace.name.startswith(name)]
    return found


@pytest.fixture
def pareto() -> go.Figure:
    evaluated = evaluations()
    verified = verifications(evaluated)
    return pareto_figure(front(verified), evaluated, verified, title="quickstart & co")


def test_front_other_verified_points_and_predictions_are_told_apart(pareto: go.Figure) -> None:
    assert len(trace(pareto, "verified front").x) == 3
    assert len(trace(pareto, "verified, not on the front").x) == 1
    assert len(trace(pareto, "evaluated").x) == 6
    assert "3 on the front, 4 verified, 6 evaluated" in pareto.layout.title.text
    assert "quickstart &amp; co" in pareto.layout.title.text
    assert "(ms)" in pareto.layout.xaxis.title.text
    assert "(%)" in pareto.layout.yaxis.title.text


def test_the_front_is_drawn_as_stairs_with_both_intervals_as_bars(pareto: go.Figure) -> None:
    points = trace(pareto, "verified front")
    assert points.line.shape == "hv"
    assert list(points.x) == sorted(points.x)
    assert points.error_y.array == pytest.approx([0.02, 0.02, 0.02])
    assert points.error_x.array[0] == pytest.approx(0.1 * 0.03)
    assert points.error_x.arrayminus[0] == pytest.approx(0.1 * 0.02)


def test_hovering_over_the_front_says_everything(pareto: go.Figure) -> None:
    text = trace(pareto, "verified front").text[0]
    for words in (
        "000000000000",
        "inherited",
        "candidate candidate-0",
        "accuracy 89.0 %  [87.0 %, 91.0 %]",
        "on the search split 90.0 %, inherited 88.5 %",
        "latency 0.11 ms  [0.108 ms, 0.113 ms]",
        "predicted 0.1 ms (-9.1% of measured)",
        "1.25 M MACs, 43.2 k params",
        "provenance: measured",
    ):
        assert words in text
    assert "suspect" not in text
    assert "inherited -" in trace(pareto, "verified front").text[1]
    assert "suspect" in trace(pareto, "verified front").text[1]


def test_suspect_points_have_another_symbol_and_predictions_say_that_they_are(pareto: go.Figure) -> None:
    assert trace(pareto, "verified, not on the front").marker.symbol == ("x",)
    assert "provenance: predicted" in trace(pareto, "evaluated").text[0]
    assert "outside the range" in trace(pareto, "evaluated").text[5]


def test_text_from_outside_is_escaped() -> None:
    evaluated = evaluations().assign(arch_id="<script>alert(1)</script>")
    verified = verifications(evaluated)
    figure = pareto_figure(front(verified), evaluated, verified, title="<b onload=x>")
    texts = [text for part in figure.data for text in part.text] + [figure.layout.title.text]
    assert not any("<script" in text or "<b onload" in text for text in texts)


@pytest.mark.parametrize(("slowest_ms", "kind"), [(0.35, None), (0.5, "log")])
def test_latency_is_logarithmic_from_a_span_of_four_on(slowest_ms: float, kind: str | None) -> None:
    evaluated = evaluations(slowest_ms=slowest_ms)
    axis = pareto_figure([], evaluated, verifications(evaluated).head(0)).layout.xaxis
    assert axis.type == kind
    if kind == "log":
        assert "0.2" in axis.ticktext
        assert 10 ** axis.range[0] < 0.1
        assert 10 ** axis.range[1] > 0.5


def test_a_few_failed_subnets_do_not_squash_the_front() -> None:
    evaluated = evaluations()
    verified = verifications(evaluated)
    points = front(verified)
    evaluated.loc[5, "accuracy"] = 0.1
    figure = pareto_figure(points, evaluated, verified)
    assert figure.layout.yaxis.autorangeoptions.minallowed == pytest.approx(0.89 - 3 * 0.06)
    assert "1 of them below the frame" in figure.layout.title.text
    assert pareto_figure(points, evaluations(), verified).layout.yaxis.autorangeoptions.minallowed is None


def test_baselines_are_marked_and_wait_for_their_latency() -> None:
    evaluated = evaluations()
    verified = verifications(evaluated)
    point = {"name": "resnet & co", "candidate": "x", "accuracy": 0.94, "latency_ms": 0.15, "weights_kind": "baseline"}
    figure = pareto_figure(front(verified), evaluated, verified, baselines=[point, point | {"latency_ms": None}])
    shown = trace(figure, "baseline")
    assert (shown.x, shown.y) == ((0.15,), (0.94,))
    assert "resnet &amp; co" in shown.text[0]
    assert all(one.name != "baseline" for one in pareto_figure(front(verified), evaluated, verified).data)


def test_a_predicted_front_is_called_so() -> None:
    evaluated = evaluations()
    verified = verifications(evaluated)
    points = [point | {"provenance": "predicted"} for point in front(verified)]
    assert trace(pareto_figure(points, evaluated, verified.head(0)), "predicted front")


def test_figures_of_nothing_say_so() -> None:
    evaluated = evaluations()
    for figure in (
        pareto_figure([], evaluated.head(0), verifications(evaluated).head(0)),
        predictor_figure(measured().head(0)),
        hypervolume_figure([]),
    ):
        assert figure.layout.annotations[0].text == "Nothing to show yet"


def test_the_predictor_figure_marks_held_out_subnets_and_shows_the_bands() -> None:
    points = measured()
    points.loc[3, "latency_predicted_ms"] = float("nan")
    figure = predictor_figure(points, scores="mean error 3.2 %")
    assert len(trace(figure, "held out (5)").x) == 5
    assert len(trace(figure, "used for fitting (14)").x) == 14
    assert {"within 5%", "within 10%"} <= {part.name for part in figure.data}
    assert "mean error 3.2 %" in figure.layout.title.text
    assert trace(figure, "held out").error_y.array[0] == pytest.approx(0.1 * (1.1 - 1.02))
    assert figure.layout.xaxis.type == figure.layout.yaxis.type == "log"


def test_the_hypervolume_figure_counts_evaluations_from_one() -> None:
    figure = hypervolume_figure([0.1, 0.2, 0.2, float("nan"), 0.4])
    assert list(figure.data[0].x) == [1, 2, 3, 4, 5]
    low, high = figure.layout.yaxis.range
    assert low < 0.1
    assert high > 0.4


def test_a_page_is_self_contained_and_the_same_for_the_same_figure(pareto: go.Figure, tmp_path: Path) -> None:
    write_html(pareto, tmp_path / "a.html")
    write_html(pareto, tmp_path / "b.html")
    page = (tmp_path / "a.html").read_text()
    assert page == (tmp_path / "b.html").read_text()
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=", page)
    assert "plotly.js v" in page[:2000]
    assert '"showSendToCloud": false' in page
    assert "<title>quickstart &amp; co</title>" in page


FRAME = """<!doctype html><body style="margin:0"><iframe sandbox="allow-scripts" srcdoc="{page}"
style="width:1000px;height:700px;border:0"></iframe><script>
addEventListener("message", event => fetch("/report", {{method: "POST", body: event.data}}));</script></body>"""

# Runs inside the sandbox after plotly has drawn, and tells the page around it what is there.
REPORT = """<script>addEventListener("load", () => setTimeout(() => {
const drawn = document.querySelectorAll(".scatterlayer .point").length;
const fetched = performance.getEntriesByType("resource").map(entry => entry.name);
let stored = true; try { localStorage; } catch { stored = false; }
parent.postMessage(JSON.stringify({drawn, fetched, stored}), "*"); }, 500));</script>"""


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium")
def test_a_page_is_drawn_in_a_sandbox_that_allows_scripts_only(pareto: go.Figure, tmp_path: Path) -> None:
    write_html(pareto, tmp_path / "pareto.html")
    page = (tmp_path / "pareto.html").read_text().replace("</body>", REPORT + "</body>")
    (tmp_path / "frame.html").write_text(FRAME.format(page=html.escape(page)))
    reports: queue.Queue[bytes] = queue.Queue()

    class Server(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_POST(self) -> None:
            reports.put(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Server, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    assert CHROMIUM is not None
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += ["--disable-sync", f"--user-data-dir={tmp_path / 'profile'}", "--remote-debugging-port=0"]
    address = f"http://127.0.0.1:{server.server_address[1]}/frame.html"
    with (tmp_path / "browser.log").open("wb") as log:
        browser = subprocess.Popen([CHROMIUM, *flags, address], stdout=log, stderr=log)
    try:
        report = json.loads(reports.get(timeout=120))
    finally:
        browser.terminate()
        browser.wait(timeout=30)
        server.shutdown()
        server.server_close()
    assert report == {"drawn": 3 + 1 + 6, "fetched": [], "stored": False}


def test_axes_headings_and_hover_name_the_metric() -> None:
    evaluated = evaluations()
    verified = verifications(evaluated)
    points = [{**point, "metric": "macro-f1"} for point in front(verified)]
    figure = pareto_figure(points, evaluated.assign(metric="macro-f1"), verified.assign(metric="macro-f1"))
    assert figure.layout.yaxis.title.text == "Macro F1 (%)"
    assert "confidence intervals of macro F1" in figure.layout.title.text
    assert all("macro F1 " in text for trace in figure.data for text in trace.text)
    progress = hypervolume_figure([0.1, 0.2], metric="balanced-accuracy")
    assert progress.layout.yaxis.title.text == "Hypervolume (balanced accuracy x ms)"
    assert "balanced accuracy on the search split" in progress.layout.title.text
