"""The benchmark of updates: its rows, on a machine with little installed, and its complaints."""

import importlib
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pyarrow as pa
import pytest
import torch

from pwmray import results
from tests.imports import BLOCKED, HEAVY, ROOT

ABSENT = (*HEAVY, "optuna", "imageio", "scipy", "rich")
START = "machine.CPU_PRODUCT = (512, 512, 512)\nsys.exit(update.main())"
PROGRAM = BLOCKED.format(modules="machine, update", blocked=ABSENT) + START
SMALL = ("--size", "laptop", "--device", "cpu", "--threads", "1", "--repeat", "1", "--batch", "4")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs into one file, the second of two copies: what each prints, its rows, the file."""
    out = tmp_path_factory.mktemp("update") / "rows.arrow"
    turns = ("--variants", "baseline,fullflow", "--repeat", "3")  # the least: others work, too
    copies = ("--variants", "baseline", "--methodologies", "frozen", "--copies", "2")
    return [(run("--out", out, *options), rows(out), out) for options in (turns, copies)]


@pytest.fixture
def benchmark(monkeypatch):
    """Import modules of the benchmark by name, as its script does."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setattr(importlib.import_module("machine"), "CPU_PRODUCT", (64, 64, 64))
    return importlib.import_module


def run(*options):
    command = [sys.executable, "-c", PROGRAM, *SMALL, *map(str, options)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "benchmarks")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def rows(path):
    return results.read_table(path).to_pylist()


def test_run_has_a_row_for_each_case(runs):
    _, found, _ = runs[0]
    assert [(row["methodology"], row["variant"]) for row in found] == [
        (methodology, variant)
        for methodology in ("frozen", "finetuned", "pretrain")
        for variant in ("baseline", "fullflow")
    ]
    assert [row["wm_iterations"] for row in found] == [0, 0, 1, 1, 1, 1]
    assert {row["batch_size"] for row in found} == {4}


def test_rows_tell_times_operations_and_machine(runs, benchmark):
    _, found, _ = runs[0]
    cpu = benchmark("machine").processor()
    for row in found:
        assert row["ratio"] == pytest.approx(row["reference_ms"] / row["ms"])
        assert row["gflop_per_second"] == pytest.approx(1e3 * row["gflop"] / row["ms"])
        assert 0 < row["share_of_peak"] < 1
        assert row["first_ms"] > row["ms"] > 0
        assert row["peak_mib"] > 0
        assert row["torch_version"] == torch.__version__
        assert (row["device"], row["gpu"]) == ("cpu", "")
        assert row["cpu"]
        assert row["cpu"] == cpu
        assert (row["kernels"], row["cuda_graph"]) == ("off", "off")


@pytest.mark.parametrize(
    ("lines", "name"),
    [
        ("cpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n\nmodel\t: 1\n",
         "AMD EPYC (family 25, model 17)"),
        ("model name\t: Neoverse\nCPU part\t: 0xd40\n", "Neoverse"),
        ("processor\t: 0\n", "by platform"),
        (None, "by platform"),
    ],
)  # fmt: skip
def test_processors_of_one_name_are_told_apart(lines, name, benchmark, tmp_path, monkeypatch):
    machine, path = benchmark("machine"), tmp_path / "cpuinfo"
    if lines is not None:
        path.write_text(lines)
    monkeypatch.setattr(machine, "CPUINFO", path)
    monkeypatch.setattr("platform.processor", lambda: "by platform")
    assert machine.processor() == name


def test_both_updates_come_to_the_same_weights(runs):
    _, found, _ = runs[0]
    assert 0 < max(row["agreement"] for row in found) < 1e-4  # of the step


def test_table_has_a_line_for_each_row(runs):
    printed, found, _ = runs[0]
    lines = [line.split() for line in printed[3:]]
    cases = [[row["size"], row["variant"], row["methodology"]] for row in found]
    assert [line[:3] for line in lines] == cases
    for line, row in zip(lines, found, strict=True):
        plain = [f"{row['reference_ms']:.1f}", f"{row['ratio']:.2f}"]
        assert line[3:8] == ["4", str(row["wm_iterations"]), f"{row['ms']:.1f}", *plain]
        rates = [f"{row['gflop']:.1f}", f"{row['gflop_per_second']:.1f}"]
        assert line[8:11] == [f"{row['updates_per_second']:.2f}", *rates]
        share, memory = f"{row['share_of_peak']:.0%}", f"{row['peak_mib']:.0f}"
        assert line[11:] == [share, memory, f"{row['agreement']:.1e}"]


def test_second_run_appends_its_row(runs):
    (_, before, _), (_, after, _) = runs
    assert after[:-1] == before


def test_copies_are_counted_together(runs):
    printed, (*_, row), _ = runs[1]
    line = printed[-1].split()
    assert (line[6:8], line[-1]) == (["-", "-"], "-")
    assert (row["num_copies"], row["num_threads"]) == (2, 1)
    assert row["reference_ms"] is row["ratio"] is row["agreement"] is None
    assert 0 < row["updates_per_second"] <= 2 * 1e3 / row["ms"] * (1 + 1e-6)


def test_weights_that_differ_are_named_and_the_time_is_profiled(
    benchmark, tmp_path, monkeypatch, capsys
):
    update, workload = benchmark("update"), benchmark("workload")
    ours = workload.ours
    monkeypatch.setattr(
        workload, "ours", lambda case, *rest: ours(replace(case, batch_size=5), *rest)
    )
    options = ("--variants", "baseline", "--methodologies", "pretrain")
    files = ("--out", str(tmp_path / "rows.arrow"), "--profile", str(tmp_path / "profile"))

    assert update.main([*SMALL, *options, *files]) == 1

    assert "error: weights differ by more than " in (message := capsys.readouterr().err)
    assert message.endswith(": laptop-baseline-pretrain\n")
    assert "aten::addmm" in (tmp_path / "profile" / "laptop-baseline-pretrain.txt").read_text()
    trace = json.loads((tmp_path / "profile" / "laptop-baseline-pretrain.json").read_text())
    assert trace["traceEvents"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "laptop,6"], "unknown size '6'; valid: laptop, 1, 5, 19, 48, 317"),
        (["--variants", "flow"], "unknown variant 'flow'; did you mean 'flowwm'? valid: "),
        (["--methodologies", "joint"], "unknown methodology 'joint'"),
        (["--dtype", "float16"], "unknown dtype 'float16'; did you mean 'bfloat16'? valid: "),
        (["--device", "cpu", "--dtype", "tf32"], "learner.matmul is 'tf32', which a CPU lacks"),
        (["--device", "tpu"], "unknown device 'tpu'"),
        (["--repeat", "0"], "repeat is 0; it must be at least 1"),
        (["--batch", "-1"], "batch is -1; it must be at least 1"),
        (["--copies", "two"], "argument --copies: invalid int value: 'two'"),
        (["--copies", "2", "--profile", "x"], "--profile is of one process, and --copies is 2"),
    ],
)
def test_bad_option_is_named(options, message, benchmark, capsys):
    assert benchmark("update").main(options) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {message}")
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_nothing_is_measured_as_compiled_that_cannot_be(benchmark, tmp_path, capsys, monkeypatch):
    update, out = benchmark("update"), tmp_path / "rows.arrow"
    monkeypatch.setattr(update, "reason_against", lambda device: "no C++ compiler")
    assert update.main([*SMALL, "--compile", "--out", str(out)]) == 2
    assert capsys.readouterr().err == "error: compile=off: no C++ compiler\n"
    assert not out.exists()


@pytest.mark.parametrize("methodology", ["frozen", "pretrain"])
@pytest.mark.parametrize("copies", ["1", "2"])
def test_rows_say_what_was_computed_by_kernels_and_with_the_graph(
    methodology, copies, benchmark, tmp_path
):
    out = tmp_path / "rows.arrow"
    chosen = ("--variants", "baseline", "--methodologies", methodology, "--copies", copies)
    assert benchmark("update").main([*SMALL, "--compile", *chosen, "--out", str(out)]) == 0
    (row,) = rows(out)
    assert (row["kernels"], row["cuda_graph"]) == ("on", "off")


def test_what_was_timed_without_a_graph_although_it_was_asked_for_is_printed(runs, benchmark):
    row = {**runs[0][1][0], "cuda_graph": "off: CUDA out of memory"}
    (_, said) = benchmark("update_table").as_line(row).splitlines()
    assert said == "  cuda_graph off: CUDA out of memory"


def test_rows_are_added_to_those_of_before_they_told_of_kernels(runs, benchmark, tmp_path):
    path, table = tmp_path / "rows.arrow", results.read_table(runs[0][2])
    results.write_table(path, table.drop_columns(["kernels", "cuda_graph"]))
    before = rows(path)
    (row,) = rows(runs[0][2])[:1]
    benchmark("update_table").append(path, row)
    nothing = {"kernels": None, "cuda_graph": None}
    assert rows(path) == [*({**old, **nothing} for old in before), row]


def test_file_of_other_rows_is_left_as_it_is(benchmark, tmp_path, capsys):
    path = tmp_path / "rows.arrow"
    results.write_table(path, pa.table({"epoch": [1]}))
    assert benchmark("update").main(["--out", str(path)]) == 2
    assert "rows.arrow has other columns than this version's" in capsys.readouterr().err
    assert rows(path) == [{"epoch": 1}]


def failed(error):
    future = Future()
    future.set_exception(error)
    return future


class Growing(torch.nn.Module):
    """Weights that an update makes larger by `step`."""

    def __init__(self, step):
        super().__init__()
        self.weights = torch.nn.Parameter(torch.zeros(3))
        self.step = step

    @torch.no_grad()
    def update(self):
        self.weights += self.step


def test_times_are_the_least_of_the_repeats_and_weights_are_compared_after_one(
    benchmark, monkeypatch
):
    machine, timing, workload = map(benchmark, ("machine", "timing", "workload"))
    seconds = iter([9.0, 8.0, 4.0, 3.0, 6.0, 2.0])  # ours, plain; then plain before ours
    monkeypatch.setattr(machine, "time_call", lambda call, device: call() or next(seconds))
    sides = Growing(1.0), Growing(2.0)
    ours, plain = (workload.Side(side.update, side, "on", "off: no GPU") for side in sides)
    monkeypatch.setattr(workload, "ours", lambda *_: ours)
    monkeypatch.setattr(workload, "plain", lambda *_: plain)
    setup, called = timing.Setup(torch.device("cpu"), 1, True, 2, 1, True), []

    times = timing.time_in_turns(None, setup, lambda: called.append(1), None)

    assert (times.ms, times.updates_per_second, times.reference_ms) == (2000.0, 0.5, 4000.0)
    assert times.agreement == 0.5  # 1 and 2 after a step of 2
    assert (times.kernels, times.cuda_graph) == ("on", "off: no GPU")
    assert len(called) == setup.num_calls == 6


def test_updates_of_copies_are_counted_from_the_first_start_to_the_last_end(benchmark, monkeypatch):
    timing = benchmark("timing")
    copies = [
        timing._Copy(10.0, 14.0, 1.0, 100.0, "on", "on"),
        timing._Copy(11.0, 16.0, 3.0, 50.0, "off: no compiler", "on"),
    ]
    futures = [Future() for _ in copies]
    for future, copy in zip(futures, copies, strict=True):
        future.set_result(copy)
    given = iter(futures)
    pool = SimpleNamespace(submit=lambda *_: next(given))
    monkeypatch.setattr(timing, "ProcessPoolExecutor", lambda *_: nullcontext(pool))
    manager = nullcontext(SimpleNamespace(Barrier=lambda num: None))
    context = SimpleNamespace(Manager=lambda: manager)
    monkeypatch.setattr(timing, "multiprocessing", SimpleNamespace(get_context=lambda _: context))

    times = timing.time_copies(None, timing.Setup(torch.device("cpu"), 1, True, 2, 2, False))

    assert times.ms == 1e3 * (4.0 + 5.0) / 4
    assert times.updates_per_second == pytest.approx(4 / 6.0)
    assert (times.first_ms, times.peak_mib) == (3000.0, 150.0)
    assert (times.kernels, times.cuda_graph) == ("off: no compiler", "on")


def test_peaks_are_those_of_the_fastest_product_and_copy(benchmark, monkeypatch):
    machine, cpu = benchmark("machine"), torch.device("cpu")
    monkeypatch.setattr(machine, "CPU_PRODUCT", (30, 50, 70))
    monkeypatch.setattr(machine, "_COPIED_BYTES", 1000)
    seconds = iter([4.0, 2.0, 3.0, 5.0] * 2)
    monkeypatch.setattr(machine, "time_call", lambda call, device: next(seconds))
    assert machine.measure_peak("float32", cpu) == pytest.approx(2 * 30 * 50 * 70 / 2.0 / 1e9)
    assert machine.measure_bandwidth(cpu) == 2 * 1000 / 2.0  # read and written


def test_copy_that_memory_was_short_for_is_told_from_those_that_waited(benchmark):
    copies = [failed(threading.BrokenBarrierError()), failed(torch.OutOfMemoryError("no room"))]
    with pytest.raises(ValueError, match=r"--copies is 2, .* memory is short: no room"):
        benchmark("timing")._check_copies(copies)


def test_plain_update_is_computed_as_torch_does_by_itself(benchmark):
    machine = benchmark("machine")
    torch.set_float32_matmul_precision("medium")
    with machine.precision_of_torch():
        assert torch.get_float32_matmul_precision() == "highest"
    assert torch.get_float32_matmul_precision() == "medium"


def test_roofline_counts_what_products_read_and_write(benchmark):
    roofline = benchmark("roofline")
    a, b = torch.zeros(2, 3), torch.zeros(3, 5)
    with roofline._Bytes() as products:
        a @ b
        torch.addmm(torch.zeros(5), a, b)
        torch.bmm(a[None], b[None])
        a + 1
    assert products.total == 3 * 4 * (2 * 3 + 3 * 5 + 2 * 5)


def test_roofline_takes_the_last_row_of_each_case_on_the_last_machine(benchmark):
    roofline = benchmark("roofline")
    case = dict.fromkeys(roofline.CASE, 1) | {"variant": "baseline"}
    here = {"gpu": "", "cpu": "new", "num_threads": 2, "num_copies": 1}
    given = [
        {**case, **here, "cpu": "old", "ms": 1},
        {**case, **here, "ms": 2},
        {**case, **here, "variant": "fullflow", "ms": 3},
        {**case, **here, "size": "5", "ms": 4},
        {**case, **here, "num_copies": 2, "ms": 5},
        {**case, **here, "ms": 6},
    ]
    assert [row["ms"] for row in roofline.latest(given, "baseline")] == [6, 4]


def test_roofline_refuses_a_folder_at_once(benchmark, tmp_path, capsys):
    assert benchmark("roofline").main([str(tmp_path), "--rows", "absent"]) == 2
    assert capsys.readouterr().err == f"error: Is a directory: {tmp_path}\n"


def test_roofline_is_drawn_of_the_rows(runs, benchmark, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark("machine"), "_COPIED_BYTES", 2**20)
    out = tmp_path / "roofline.png"
    assert benchmark("roofline").main([str(out), "--rows", str(runs[1][2])]) == 0
    assert out.stat().st_size > 10_000
