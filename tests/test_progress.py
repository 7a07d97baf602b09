"""The time left that a sweep shows: by its trials' own pieces, not by the clock since it began."""

import errno
import io
import json
import os
import sys
import time

import pyarrow as pa
import pytest
from ray import cloudpickle
from rich.console import Console

from pwmray import plan, plan_text, registry, results, tables
from pwmray.commands.display import Display
from pwmray.driver.interruption import Interruption
from pwmray.driver.notify import Notices
from pwmray.driver.progress import SweepProgress
from pwmray.driver.retries import FirstDeaths
from pwmray.driver.scheduling import InOrder
from pwmray.driver.tune_callbacks import TuneWatch
from pwmray.driver.turns import Turns
from pwmray.registry import Record, Status
from tests.planned_sweeps import stand_at
from tests.tiny import sweep

NUM_TRIALS, EPOCHS, EPOCHS_A_ROW = 4, 40, 2
SECONDS = 2.0  # a row, so that what is left is told in seconds


@pytest.fixture
def started(tmp_path):
    """Return a sweep of four like trials of 20 rows, of which two run, and their fingerprints."""
    trials = [t for t in sweep.trials("longer", {"seed": range(20)}) if t.variant == "baseline"]
    trials = [t for t in trials if t.epochs == EPOCHS][:NUM_TRIALS]
    progress = SweepProgress(plan.make(sweep, "longer", trials, tmp_path), Notices("tiny", None))
    progress.__enter__()
    names = [trial.fingerprint for trial in trials]
    for name in names[:2]:
        progress.start(name)
    return progress, names


def seconds_left(progress):
    told = progress.line().split("; ")[-1]
    number, unit, _ = told.split()
    return float(number) * {"min": 60, "s": 1}[unit]


def test_trials_that_were_all_stopped_wait_and_are_not_taken_over(started, capsys):
    progress, names = started
    capsys.readouterr()
    progress.pause()
    progress.queue(names[0], None)
    assert "0 running, 0 failed, 4 waiting of 4" in progress.line()
    assert capsys.readouterr().out == ""


def test_trials_that_run_again_are_told_with_what_they_failed_of_or_as_taken_over(started, capsys):
    progress, names = started
    capsys.readouterr()
    progress.queue(names[0], "lack of memory")
    progress.queue(names[1], None)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("again ") and ", after lack of memory; tiny: " in first
    assert second.startswith("taken over ") and ", after" not in second


def test_time_left_is_unknown_before_the_first_row(started):
    progress, _ = started
    assert progress.line().endswith("time left: not known yet")


def test_end_of_a_trial_in_another_process_is_told_once(started, capsys):
    progress, names = started
    for _ in range(2):
        progress.settle(names[2], Record([{"status": "EVALUATED"}]))
        progress.settle(names[3], Record([{"status": "FAILED"}]))
    assert "1 done, 2 running, 1 failed, 0 waiting of 4" in progress.line()
    told = [line for line in capsys.readouterr().out.splitlines() if "another process" in line]
    assert [line.split()[0] for line in told] == ["done", "failed"]


def test_best_return_is_also_that_of_trials_done_before(tmp_path):
    done, unmeasured, left = sweep.trials("longer")[:3]
    for trial in (done, unmeasured):
        folder = registry.trial_folder(tmp_path, trial.fingerprint)
        registry.record(folder, Status.PENDING, config=trial.to_dict())
        for status in (Status.QUEUED, Status.RUNNING, Status.COMPLETED, Status.EVALUATED):
            registry.record(folder, status)
    empty = dict.fromkeys(results.CURVE.names)
    points = [(done, 2, 10.0), (done, 4, 70.0), (done, 6, 30.0), (unmeasured, 2, None)]
    rows = [
        {**empty, "trial": trial.fingerprint, "epoch": epoch, "return_mean": value}
        for trial, epoch, value in points
    ]
    table = pa.Table.from_pylist(rows, schema=results.CURVE)
    (tmp_path / "tiny").mkdir()
    results.write_table(tmp_path / "tiny" / "curves.arrow", table)
    planned = plan.make(sweep, "longer", [done, unmeasured, left], tmp_path)
    progress = SweepProgress(planned, Notices("", None))
    assert f"2 done, 0 running, 0 failed, 1 waiting of 3; best return: {done.variant} 70; " in (
        progress.line()
    )


def test_first_row_of_one_of_two_trials_tells_the_time_left(started):
    progress, names = started
    progress.report(names[0], EPOCHS_A_ROW, 1.0, SECONDS)
    rows_left = NUM_TRIALS * EPOCHS / EPOCHS_A_ROW - 1
    assert seconds_left(progress) == pytest.approx(rows_left / 2 * SECONDS, abs=0.5)


def test_what_a_trial_resumed_from_was_not_done_in_this_run(started):
    progress, names = started
    progress.report(names[0], EPOCHS - EPOCHS_A_ROW, 1.0, SECONDS)
    rows_left = (NUM_TRIALS - 1) * EPOCHS / EPOCHS_A_ROW + 1
    assert seconds_left(progress) == pytest.approx(rows_left / 2 * SECONDS, abs=0.5)


def test_trials_that_go_on_from_a_checkpoint_have_only_the_rest_left(tmp_path):
    trial, other = [t for t in sweep.trials("longer") if t.epochs == EPOCHS][:2]
    folder = registry.trial_folder(tmp_path, other.fingerprint)
    registry.queue(folder, other.to_dict())
    empty = dict.fromkeys(results.CURVE.names)
    rows = [{**empty, "trial": other.fingerprint, "epoch": 30, "return_mean": 5.0}]
    results.write_rows(folder / registry.CURVE_FILE, rows, results.CURVE)
    assert [t.epochs_done for t in plan.make(sweep, "longer", [trial, other], tmp_path).trials] == [
        0,
        0,  # without a checkpoint it begins anew
    ]
    (folder / registry.CHECKPOINT_FILE).touch()
    made = plan.make(sweep, "longer", [trial, other], tmp_path)
    assert [t.state for t in made.trials] == ["new", "resumes"]
    whole = made.trials[0].minutes
    assert made.minutes == pytest.approx(whole * (1 + 10 / EPOCHS))
    told = json.loads(plan_text.as_json(made, 1))
    assert told["minutes_to_run"] == pytest.approx(whole * (1 + 10 / EPOCHS), abs=0.01)

    progress = SweepProgress(made, Notices("tiny", None))
    progress.start(trial.fingerprint)
    progress.start(other.fingerprint)
    assert "best return: none yet" in progress.line()
    progress.report(trial.fingerprint, EPOCHS_A_ROW, 1.0, SECONDS)
    progress.finish(trial.fingerprint, {"return_mean": 1.0})
    assert seconds_left(progress) == pytest.approx(10 / EPOCHS_A_ROW * SECONDS, abs=0.5)


def test_final_evaluation_counts(started):
    progress, names = started
    for epoch in range(EPOCHS_A_ROW, EPOCHS + 1, EPOCHS_A_ROW):
        progress.report(names[0], epoch, 1.0, SECONDS)
    progress.report(names[0], EPOCHS, 1.0, EPOCHS / EPOCHS_A_ROW * SECONDS)
    progress.finish(names[0], {"return_mean": 1.0})
    rows_left = (NUM_TRIALS - 1) * EPOCHS / EPOCHS_A_ROW
    assert seconds_left(progress) == pytest.approx(rows_left / 2 * 2 * SECONDS, abs=0.5)


def test_time_left_is_known_before_the_first_row_where_finished_trials_price_it(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # a GPU here would not be priced by a CPU
    trials = [t for t in sweep.trials("longer") if t.variant == "baseline" and t.epochs == EPOCHS]
    done, left = trials[:2]
    folder = stand_at(tmp_path, done, Status.RUNNING, train_seconds=80.0, device="cpu")
    registry.record(folder, Status.COMPLETED, evaluation_seconds=0.0)
    registry.record(folder, Status.EVALUATED, evaluation_seconds=20.0)
    progress = SweepProgress(plan.make(sweep, "longer", [done, left], tmp_path), Notices("", None))
    assert progress.line().endswith("time left: not known yet")
    progress.start(left.fingerprint)
    assert seconds_left(progress) == 100.0
    progress.report(left.fingerprint, EPOCHS_A_ROW, 1.0, 2 * 80.0 * EPOCHS_A_ROW / EPOCHS)
    told = 2 * 80 * (1 - EPOCHS_A_ROW / EPOCHS) + 2 * 20
    assert seconds_left(progress) == pytest.approx(told, abs=30)  # in whole minutes


def test_final_evaluations_are_left_as_often_as_trials_not_as_rows(started):
    progress, names = started
    for name in names[:2]:
        for epoch in range(EPOCHS_A_ROW, EPOCHS + 1, EPOCHS_A_ROW):
            progress.report(name, epoch, 1.0, SECONDS)
    rows_left = 2 * EPOCHS / EPOCHS_A_ROW
    assert seconds_left(progress) == pytest.approx(rows_left / 2 * SECONDS, abs=0.5)
    progress.report(names[0], EPOCHS, 1.0, 30.0)
    progress.finish(names[0], {"return_mean": 1.0})
    assert seconds_left(progress) == pytest.approx((rows_left * SECONDS + 3 * 30.0) / 2, abs=0.5)


def test_time_left_is_never_nothing_while_a_final_evaluation_runs(started):
    progress, names = started
    for number, name in enumerate(names):
        for epoch in range(EPOCHS_A_ROW, EPOCHS + 1, EPOCHS_A_ROW):
            progress.report(name, epoch, 1.0, SECONDS)
        if number < NUM_TRIALS - 1:
            progress.fail(name, Record())
    assert progress.line().endswith("time left: not known yet")


def test_last_final_evaluation_is_left_while_it_runs(started):
    progress, names = started
    for name in names:
        for epoch in range(EPOCHS_A_ROW, EPOCHS + 1, EPOCHS_A_ROW):
            progress.report(name, epoch, 1.0, SECONDS)
    for name in names[1:]:
        progress.report(name, EPOCHS, 1.0, 30.0)
        progress.finish(name, {"return_mean": 1.0})
    assert seconds_left(progress) == 30.0


def test_failed_trial_is_not_left_and_makes_nothing_faster(started, tmp_path):
    progress, names = started
    progress.report(names[0], EPOCHS_A_ROW, 1.0, SECONDS)
    progress.fail(names[0], registry.read(tmp_path / "no trial"))
    progress.start(names[2])
    rows_left = (NUM_TRIALS - 1) * EPOCHS / EPOCHS_A_ROW
    assert seconds_left(progress) == pytest.approx(rows_left / 2 * SECONDS, abs=0.5)


def test_trials_that_run_elsewhere_share_what_is_left(started):
    progress, names = started
    progress.report(names[0], EPOCHS_A_ROW, 1.0, SECONDS)
    progress.finish(names[1], {"elsewhere": "another process"})
    progress.start(names[2])
    rows_left = NUM_TRIALS * EPOCHS / EPOCHS_A_ROW - 1
    assert seconds_left(progress) == pytest.approx(rows_left / 3 * SECONDS, abs=0.5)


def test_what_is_left_of_trials_elsewhere_is_read_from_their_curves(started, tmp_path, monkeypatch):
    progress, names = started
    for name in names[2:]:
        progress.finish(name, {"elsewhere": "x"})
    for name in names[:2]:
        for epoch in range(EPOCHS_A_ROW, EPOCHS + 1, EPOCHS_A_ROW):
            progress.report(name, epoch, 1.0, SECONDS)
        progress.finish(name, {"return_mean": 1.0})
    assert seconds_left(progress) == pytest.approx(EPOCHS / EPOCHS_A_ROW * SECONDS, abs=0.5)
    for name, epoch in zip(names[2:], (EPOCHS - EPOCHS_A_ROW, EPOCHS), strict=True):
        path = registry.trial_folder(tmp_path, name) / "curve.arrow"
        results.write_rows(path, [{"trial": name, "epoch": epoch}], results.CURVE)
    monkeypatch.setattr(progress, "_look_at", 0.0)
    assert seconds_left(progress) == pytest.approx(SECONDS, abs=0.5)


def print_on_terminal(monkeypatch):
    """Have stdout pass for a terminal; pytest replaces it between a fixture and its test."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")


def test_what_a_terminal_shows_does_not_keep_tune_from_pickling_who_tells_it(tmp_path, monkeypatch):
    print_on_terminal(monkeypatch)
    made = plan.make(sweep, "longer", sweep.trials("longer")[:1], tmp_path)
    with SweepProgress(made, Notices("tiny", None)) as progress:
        told = cloudpickle.loads(cloudpickle.dumps(InOrder(Interruption(), progress.say)))
    told._tell("it is pickled")


def test_errors_into_a_file_stay_there_while_a_terminal_shows_trials(tmp_path, monkeypatch, capsys):
    print_on_terminal(monkeypatch)
    made = plan.make(sweep, "longer", sweep.trials("longer")[:1], tmp_path)
    with SweepProgress(made, Notices("tiny", None)) as progress:
        assert progress._live is not None
        print("a warning", file=sys.stderr)
    assert capsys.readouterr().err == "a warning\n"


def test_names_of_running_trials_are_whole_in_a_narrow_window(started):
    progress, (name, *_) = started
    console = Console(file=io.StringIO(), width=30)
    console.print(progress._screen())
    shown = console.file.getvalue().split("best return")[-1]
    assert progress._trials[name].label[-8:] in shown


def test_line_of_the_sweep_is_not_printed_where_a_display_shows_it(started):
    progress, (name, *_) = started
    progress._live = Display(io.StringIO(), lambda: "")
    progress._live.console = Console(file=io.StringIO())
    progress.report(name, EPOCHS_A_ROW, 1.0, SECONDS)
    assert progress._live.console.file.getvalue() == ""


@pytest.mark.parametrize("text", ["5 MB free in /data/[old]/results", "see /data/[/x]/results"])
def test_text_with_brackets_is_shown_as_it_is(started, text):
    progress, _ = started
    console = Console(file=io.StringIO(), width=200)
    progress._live = Display(console.file, lambda: "")
    progress._live.console = console
    progress.say(text)
    progress._trials[next(iter(progress._trials))].label = "a[/x]b"
    console.print(progress._screen())
    assert text in console.file.getvalue()
    assert "a[/x]b" in console.file.getvalue()


def test_last_trial_has_one_place(started):
    progress, names = started
    for name in names[1:]:
        progress.finish(name, {"return_mean": 1.0})
    progress.report(names[0], EPOCHS_A_ROW, 1.0, SECONDS)
    rows_left = EPOCHS / EPOCHS_A_ROW - 1
    assert seconds_left(progress) == pytest.approx(rows_left * SECONDS, abs=0.5)


def report_of(progress, fingerprint, recorded):
    """Have a trial come to a row, whose record says how it runs."""
    registry.remark(registry.trial_folder(progress._results, fingerprint), **recorded)
    progress._said_at = time.monotonic()  # the sweep's own line is not due
    progress.report(fingerprint, EPOCHS_A_ROW, 1.0, SECONDS)


def test_record_that_cannot_be_read_now_is_looked_into_at_the_next_row(started, capsys):
    progress, (name, *_) = started
    folder = registry.trial_folder(progress._results, name)
    (folder / "events.jsonl").mkdir(parents=True)
    progress.report(name, EPOCHS_A_ROW, 1.0, SECONDS)
    (folder / "events.jsonl").rmdir()
    capsys.readouterr()
    report_of(progress, name, {"kernels": "off: no C++ compiler", "host": "node1"})
    assert capsys.readouterr().out.startswith("kernels off: no C++ compiler (first seen: ")


def test_what_trials_run_without_is_told_once_a_reason(started, capsys):
    progress, names = started
    off = {"kernels": "off: no C++ compiler", "cuda_graph": "off", "host": "node1"}
    other = {"kernels": "on", "cuda_graph": "off: it differs", "host": "node2"}
    capsys.readouterr()
    for name, event in zip(names, [off, {**off, "host": "node3"}, other, {}], strict=True):
        report_of(progress, name, event)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("kernels off: no C++ compiler (first seen: ")
    assert first.endswith(" on node1)")
    assert second.startswith("cuda_graph off: it differs (first seen: ")


def test_reasons_that_differ_in_their_numbers_alone_are_told_once(started, capsys):
    progress, names = started
    said = "off: CUDA out of memory. Tried to allocate {} MiB. GPU 0 has {} GiB free"
    capsys.readouterr()
    for name, numbers in zip(names, [(20, 1.5), (22, 0.9)], strict=False):
        report_of(progress, name, {"cuda_graph": said.format(*numbers), "host": "n1"})
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("cuda_graph off: CUDA out of memory. Tried to allocate 20 MiB.")


def test_lines_that_find_no_room_come_out_when_there_is_some(started, monkeypatch):
    progress, names = started
    disk = _FullDisk()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BufferedWriter(disk)))
    progress.finish(names[0], {"return_mean": 1.5})
    assert disk.written == b""
    disk.has_room = True
    progress.say("there is room")
    assert b"final return 1.5; tiny: 1 done" in disk.written
    assert disk.written.endswith(b"\nthere is room\n")


def test_tables_that_cannot_be_written_do_not_end_the_sweep(tmp_path, capsys):
    made = plan.make(sweep, "tiny", sweep.trials("tiny")[:1], tmp_path)
    folder = tables.open_sweep(made, "python tiny.py")
    (folder / "curves.arrow").mkdir()
    progress = SweepProgress(made, Notices("tiny", None))
    joined, stop = tables.Tables(folder), Interruption()
    turns = Turns(made, progress, stop, float("inf"))
    watch = TuneWatch(made, turns, progress, joined, FirstDeaths(), stop)
    watch.on_trial_result(0, [], None, {})
    said = f"Is a directory: {folder}/curves.arrow: the sweep's tables are behind\n"
    assert capsys.readouterr().out == said


class _FullDisk(io.RawIOBase):
    """A file on a disk that has no room yet."""

    has_room, written = False, b""

    def writable(self):
        return True

    def write(self, content):
        if not self.has_room:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.written += bytes(content)
        return len(content)


def test_sweep_whose_output_nobody_reads_any_more_stops_as_after_ctrl_c(started, monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as pipe:
        monkeypatch.setattr("sys.stdout", pipe)
        with pytest.raises(KeyboardInterrupt):
            started[0].say("who reads this?")
        monkeypatch.undo()
        os.dup2(os.open(os.devnull, os.O_WRONLY), writing)  # for what is still to be flushed


def test_failure_that_is_not_recorded_yet_has_a_reason(started, capsys):
    progress, names = started
    earlier = Record([{"status": "FAILED", "reason": "it burns"}, {"status": "RUNNING"}])
    progress.fail(names[0], earlier)
    assert ": its process died; tiny: 0 done" in capsys.readouterr().out
