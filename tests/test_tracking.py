"""What W&B and TensorBoard are given of a trial: made from its files, without either of them."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from pwmray import cli, registry, results, tensorboard_file
from pwmray.commands import run_command, wandb_sync
from pwmray.pretraining import folder as pretraining_folder
from pwmray.registry import Status, claim
from pwmray.tensorboard_file import EVENT_FILES, write_events
from pwmray.tracking import recorder as recorder_module
from pwmray.tracking import recording as tracking
from pwmray.tracking import wandb_state
from pwmray.tracking.protocol import Job, Report
from pwmray.tracking.recorder import Recorder
from pwmray.tracking.recording import Mode, RecorderProcess, choose_mode
from pwmray.tracking.runs import RunReader, all_folders
from pwmray.tracking.wandb_state import ServiceDied, is_behind, stamps_of, write_rows, write_state
from tests.imports import arrows
from tests.tiny import sweep
from tests.tiny_pretrained import sweep as pretrained_sweep
from tests.tracked import BEGUN, ROWS, TRIALS, leave_sweep, leave_trial, read_events, scalars


def test_folder_that_cannot_be_looked_into_does_not_end_its_driver(tmp_path, capsys):
    folder, other = leave_sweep(tmp_path)
    wandb_state.write_state(folder, {"stamps": stamps_of(folder)})
    shutil.rmtree(other)
    other.write_text("no folder")
    assert not is_behind(other)
    with tracking.recording(Mode.OFFLINE, Job(str(tmp_path), "tiny"), is_working=False):
        pass
    assert capsys.readouterr().out == ""


def test_driver_without_work_starts_a_recorder_only_where_runs_are_missing(tmp_path, monkeypatch):
    started, recorder = [], SimpleNamespace(end=lambda _: Report())
    monkeypatch.setattr(tracking, "RecorderProcess", lambda job: started.append(job) or recorder)
    folder, job = leave_trial(tmp_path), Job(str(tmp_path))

    def num_started(mode, is_working):
        started.clear()
        with tracking.recording(mode, job, is_working):
            return len(started)

    assert [num_started(mode, False) for mode in (Mode.OFF, Mode.OFFLINE)] == [0, 1]
    write_state(folder, {"stamps": stamps_of(folder)})
    assert [num_started(Mode.OFFLINE, is_working) for is_working in (False, True)] == [0, 1]


@pytest.mark.parametrize(
    ("report", "code", "said"),
    [
        (Report(), 0, "W&B: has all there is"),
        (Report(written=1), 0, "W&B: 1 run written, 0 sent"),
        (Report(sent=2), 0, "W&B: 0 runs written, 2 sent"),
        (Report(running=3), 0, "W&B: 0 runs written, 0 sent; 3 of trials that run now are left"),
        (Report(elsewhere=4), 0, "W&B: 0 runs written, 0 sent; 4 are being written by another"),
        (Report(sent=5, problem="no key"), 2, "error: W&B: 0 runs written, 5 sent; no key"),
    ],
)
def test_sync_says_what_was_sent_and_what_is_left(
    report, code, said, tmp_path, monkeypatch, capsys
):
    leave_sweep(tmp_path)
    asked = []

    def record(job, progress):
        asked.append(job)
        return SimpleNamespace(follow=lambda: report)

    monkeypatch.setattr(wandb_sync, "RecorderProcess", record)
    options = ("--project", "P", "--entity", "E", "--results", str(tmp_path))
    assert cli.main(["wandb", "sync", "tiny", *options]) == code
    out, err = capsys.readouterr()
    assert (out + err).startswith(said)
    assert asked == [Job(str(tmp_path), "tiny", is_online=True, project="P", entity="E")]


@pytest.mark.parametrize("options", [["tyny"], ["--results", "absent"]])
def test_sync_of_what_is_not_there_starts_no_recorder(options, tmp_path, monkeypatch, capsys):
    leave_sweep(tmp_path)
    monkeypatch.setattr(wandb_sync, "RecorderProcess", None)
    assert cli.main(["wandb", "sync", "--results", str(tmp_path), *options]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_job_is_of_the_trials_of_a_sweep_or_of_pretrainings_or_of_everything(tmp_path):
    sweep_trials, alone = leave_sweep(tmp_path), leave_trial(tmp_path, sweep.trials("tiny")[2])
    pretrained = [tmp_path / "pretrained" / name for name in ("a", "b", "c")]
    for folder in pretrained:
        folder.mkdir(parents=True)
    named = Job(str(tmp_path), pretrained=("c", "a"))
    assert named.folders() == [pretrained[2], pretrained[0]]
    assert Job(str(tmp_path), "tiny").folders() == sweep_trials
    assert Job(str(tmp_path)).folders() == [*sorted([*sweep_trials, alone]), *pretrained]


# The mode.


@pytest.mark.parametrize(
    ("option", "variable", "mode"),
    [
        (None, None, Mode.OFFLINE),
        (None, "online", Mode.ONLINE),
        (None, "disabled", Mode.OFF),
        (None, "dryrun", Mode.OFFLINE),
        ("off", "online", Mode.OFF),
        ("online", "off", Mode.ONLINE),
    ],
)
def test_the_option_wins_over_the_variable_and_that_over_the_default(
    option, variable, mode, monkeypatch
):
    monkeypatch.setenv("WANDB_MODE", variable or "")
    assert choose_mode(option) is mode


@pytest.mark.parametrize("module", [sweep, pretrained_sweep])
def test_a_mode_that_there_is_not_is_refused_in_one_line(module, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        module.main(["--scale", "tiny", "--wandb", "maybe"])
    assert ended.value.code == 2
    monkeypatch.setenv("WANDB_MODE", "onlin")
    assert run_command(lambda: choose_mode(None)) == 2
    option, variable = capsys.readouterr().err.splitlines()
    assert "--wandb: invalid choice: 'maybe' (choose from" in option
    assert variable.startswith("error: unknown WANDB_MODE 'onlin'; did you mean 'online'? valid:")


# The run.


def test_run_of_a_trial_says_what_it_is(tmp_path):
    folder, _ = leave_sweep(tmp_path)
    run = RunReader(tmp_path, "tiny").read(folder)
    assert (run.id, run.project, run.group) == (TRIALS[0].fingerprint, "MT30-Detailed", "tiny")
    assert run.name == TRIALS[0].label
    assert run.tags == ["baseline", "pendulum-spin", "joint_from_scratch", "corrected"]
    assert run.config == registry.read(folder).last("config")
    assert run.rows == ROWS
    assert (run.axis, run.exit_code) == ("epoch", 0)
    assert run.summary == {"status": "EVALUATED", "final_return": 30.0}


def test_run_of_a_stopped_trial_has_no_final_return(tmp_path):
    folder = leave_trial(tmp_path, return_mean=None)
    run = RunReader(tmp_path, None).read(folder)
    assert (run.summary, run.exit_code) == ({"status": "CANCELLED"}, 1)
    assert (run.group, run.name) == ("", folder.name)  # no sweep asks for it


def test_shared_trial_stays_in_the_group_that_had_it_first(tmp_path):
    folder, _ = leave_sweep(tmp_path)
    write_state(folder, {"group": "an_earlier_sweep", "name": "its name"})
    run = RunReader(tmp_path, "tiny").read(folder)
    assert (run.group, run.name) == ("an_earlier_sweep", "its name")


def test_run_has_no_longer_a_name_than_wandb_takes(tmp_path):
    folder = leave_trial(tmp_path)
    write_state(folder, {"group": "a_search", "name": "a" * 130})
    assert RunReader(tmp_path, None).read(folder).name == "a" * 128


def test_run_of_a_pretraining_has_a_row_an_iteration(tmp_path):
    folder = tmp_path / "pretrained" / "0123456789abcdef"
    label, config = "flow world model, corrected", {"a": 1}
    begun = pretraining_folder.describe(folder, "a_phase", label, config, code={})
    rows = [
        {"iteration": i, "episodes": e, "world_model_loss": 1.0 / i}
        for i in (1, 2)
        for e in ("training", "held_out")
    ]
    results.write_rows(folder / "curve.arrow", rows, results.PRETRAINING)
    run = RunReader(tmp_path, None).read(folder)
    assert (run.project, run.group, run.axis) == ("WM-Pretrain", "a_phase", "iteration")
    assert run.tags == ["wm_pretraining", "flow", "corrected"]
    losses = {"training/world_model_loss": 0.5, "held_out/world_model_loss": 0.5}
    assert run.rows[1] == {"iteration": 2, **losses}
    assert (run.begun, run.exit_code) == (begun, 1)
    assert all_folders(tmp_path) == [folder]


def test_run_is_behind_when_the_trial_went_on(tmp_path):
    folder = leave_trial(tmp_path, return_mean=None)
    assert is_behind(folder)
    write_state(folder, {"offline": "offline-run-x", "stamps": stamps_of(folder)})
    assert not is_behind(folder)
    later = time.time_ns() + 1_000_000_000
    os.utime(folder / "events.jsonl", ns=(later, later))
    assert is_behind(folder)


def test_trial_without_a_curve_has_no_run(tmp_path):
    folder = registry.trial_folder(tmp_path, TRIALS[0].fingerprint)
    registry.record(folder, Status.PENDING, config=TRIALS[0].to_dict())
    assert not is_behind(folder)
    assert RunReader(tmp_path, None).read(folder) is None


def test_state_that_a_killed_recorder_left_half_written_goes_with_the_next(tmp_path):
    (tmp_path / "wandb").mkdir()
    for name in ("run", "rows"):
        (tmp_path / "wandb" / f".{name}.json.0123abcd.tmp").write_text("half")
    write_state(tmp_path, {"group": "tiny"})
    write_rows(tmp_path, {2: "abcdef"}, [None, None, None])
    assert sorted(p.name for p in (tmp_path / "wandb").iterdir()) == ["rows.json", "run.json"]


def test_place_is_in_the_log_and_in_what_show_says(tmp_path, capsys):
    kept, sent = leave_sweep(tmp_path)
    write_state(kept, {"offline": "offline-run-x"})
    write_state(sent, {"offline": "offline-run-y", "url": "https://wandb.ai/e/p/runs/r"})
    place = f"trials/{kept.name}/wandb/offline-run-x"
    cli.main(["log", "--results", str(tmp_path)])
    log = capsys.readouterr().out
    assert place in log
    assert "https://wandb.ai/e/p/runs/r" in log
    cli.main(["show", kept.name, "--results", str(tmp_path)])
    assert f"W&B          {place}" in capsys.readouterr().out


def test_spoilt_state_counts_as_none(tmp_path):
    folder = leave_trial(tmp_path)
    write_state(folder, {"offline": "x"})
    (folder / "wandb" / "run.json").write_text("{")
    assert wandb_state.place_of(folder) is None


# The recorder, with a stand-in for wandb.


class FakeWriter:
    """A server that may be away and a folder; like wandb it has a run of one name open once."""

    def __init__(self):
        self.kept, self.sent, self.open = [], [], set()
        self.is_away, self.refused, self.late, self.deadly = False, set(), set(), set()
        self.is_dead = False  # with the runs that are open
        self.meanwhile = lambda: None
        self.entity = self.server = None

    def write_offline(self, run, folder):
        assert run.id not in self.open
        self.live()
        self.meanwhile()
        self.kept.append((run.id, len(run.rows)))
        return folder / "offline-run-x"

    def open_stream(self, run, num_left):
        assert run.id not in self.open
        self.open.add(run.id)
        self.live()
        if self.is_away:
            raise ConnectionError("connection refused")
        if run.id in self.refused:
            raise ValueError("deleted")
        return FakeStream(self)

    def reset(self):
        self.is_dead = False
        self.open.clear()

    def live(self):
        if self.is_dead:
            raise ServiceDied("W&B's service died")


class FakeStream:
    url = "https://wandb.ai/e/p/runs/r"

    def __init__(self, writer):
        self.writer, self.next_step = writer, 0

    def send(self, run):
        self.writer.live()
        self.next_step = int(run.rows[-1][run.axis]) + 1

    def finish(self, run):
        if run.id in self.writer.late:  # then wandb goes on with it
            raise TimeoutError("not in 30 s")
        self.writer.is_dead |= run.id in self.writer.deadly
        self.writer.live()
        self.writer.open.discard(run.id)
        self.writer.sent.append(run.id)

    def leave(self):
        pass


def look(results_dir, writer, **changes):
    recorder = Recorder(Job(str(results_dir), is_online=True, **changes), writer)
    recorder.look()
    return recorder


def test_every_run_is_kept_though_the_server_is_away(tmp_path):
    folders, writer = sorted(leave_sweep(tmp_path)), FakeWriter()
    writer.is_away = True
    report = look(tmp_path, writer).report
    assert writer.kept == [(folder.name, 2) for folder in folders]
    assert (report.written, report.failed) == (2, 0)
    assert report.problem == "nothing is sent: connection refused"


def test_what_keeps_a_run_from_being_kept_is_told_beside_what_keeps_it_from_being_sent(tmp_path):
    leave_sweep(tmp_path)
    writer = FakeWriter()
    writer.is_away = True
    writer.meanwhile = lambda: 1 / 0
    problem = look(tmp_path, writer).report.problem
    assert problem.startswith("nothing is sent: connection refused; ")
    assert problem.endswith("division by zero (and 1 more)")


def test_run_that_the_server_does_not_take_holds_up_no_other(tmp_path):
    (first, second), writer = sorted(leave_sweep(tmp_path)), FakeWriter()
    writer.refused = {first.name}
    recorder = look(tmp_path, writer, is_watching=True)
    recorder.look()
    assert writer.sent == [second.name]
    assert recorder.report.problem == f"{first.name}: deleted"


@pytest.mark.parametrize(
    ("what", "said"), [("late", "not in 30 s"), ("deadly", "W&B's service died")]
)
def test_run_that_comes_to_no_end_waits_and_holds_up_no_other(what, said, tmp_path, monkeypatch):
    (first, second), writer = sorted(leave_sweep(tmp_path)), FakeWriter()
    getattr(writer, what).add(first.name)
    recorder = look(tmp_path, writer, is_watching=True)
    recorder.look()
    assert writer.kept == [(first.name, 2), (second.name, 2)]
    assert (writer.sent, recorder.report.problem) == ([second.name], f"{first.name}: {said}")
    getattr(writer, what).clear()
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 301.0)
    recorder.look()
    assert (writer.sent, recorder.report.problem) == ([second.name, first.name], "")


def test_server_that_takes_too_long_over_two_runs_in_a_row_is_sent_no_more(tmp_path):
    folders, writer = [leave_trial(tmp_path, trial) for trial in sweep.trials("tiny")], FakeWriter()
    writer.late = {folder.name for folder in folders}
    report = look(tmp_path, writer).report
    assert (report.written, len(writer.open)) == (len(folders), 0)
    assert report.problem.startswith(
        "nothing is sent: the server took too long over 2 runs in a row; "
    )
    assert report.problem.endswith(": not in 30 s (and 1 more)")


def test_wandbs_service_that_dies_over_every_run_is_not_started_for_each(tmp_path):
    folders, writer = sorted(leave_sweep(tmp_path)), FakeWriter()
    writer.deadly = {folder.name for folder in folders}
    report = look(tmp_path, writer, is_watching=False).report
    assert writer.sent == []
    assert report.problem.startswith("nothing is sent: W&B's service died over 2 runs in a row")


def test_trial_goes_on_being_sent_when_wandbs_service_died(tmp_path, monkeypatch):
    folder, writer = leave_trial(tmp_path, return_mean=None), FakeWriter()
    with claim.acquire(folder / "claim.json"):
        recorder = look(tmp_path, writer, is_watching=True)
        writer.is_dead = True
        recorder.look()
        assert recorder.report.problem == f"{folder.name}: W&B's service died"
        now = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: now + 301.0)
        recorder.look()
        assert (writer.open, recorder.report.problem) == ({folder.name}, "")


def test_death_of_wandbs_service_seen_as_a_run_is_opened_is_none_of_the_others(
    tmp_path, monkeypatch
):
    first, second = sorted(TRIALS, key=lambda trial: trial.fingerprint)
    folder, writer = leave_trial(tmp_path, second, return_mean=None), FakeWriter()
    with claim.acquire(folder / "claim.json"):
        recorder = look(tmp_path, writer, is_watching=True)
        writer.is_dead = True
        opened = leave_trial(tmp_path, first, return_mean=None)
        with claim.acquire(opened / "claim.json"):
            recorder.look()
            assert recorder.report.problem == f"{opened.name}: W&B's service died"
            assert writer.open == {folder.name}
            now = time.monotonic()
            monkeypatch.setattr(time, "monotonic", lambda: now + 301.0)
            recorder.look()
            assert writer.open == {folder.name, opened.name}
            assert recorder.report.problem == ""


def test_run_is_kept_at_the_next_look_when_wandbs_service_died_over_it(tmp_path):
    folder, writer = leave_trial(tmp_path), FakeWriter()
    writer.is_dead = True
    recorder = Recorder(Job(str(tmp_path), is_watching=True), writer)
    recorder.look()
    assert (writer.kept, recorder.report.failed) == ([], 1)
    recorder.look()
    assert (writer.kept, recorder.report.problem) == ([(folder.name, 2)], "")
    assert writer.sent == []  # that was not asked for


def record(results_dir, writer, monkeypatch, is_closed):
    """Do as the recorder's process does, with a writer for wandb's; return its report."""
    for_wandb = SimpleNamespace(Writer=lambda *_: contextlib.nullcontext(writer))
    monkeypatch.setitem(sys.modules, "pwmray.tracking.wandb_writer", for_wandb)
    monkeypatch.setattr(recorder_module, "_is_closed", is_closed)
    job = Job(str(results_dir), is_online=True, is_watching=True)
    recorder_module._record(job, None, results_dir, report := Report())
    return report


def test_slow_server_does_not_have_the_trials_looked_at_less_often(tmp_path, monkeypatch):
    class SlowWriter(FakeWriter):
        def open_stream(self, run, num_left):
            clock[0] += 30.0
            return super().open_stream(run, num_left)

    def is_closed(_, seconds):
        pauses.append(seconds)
        return True

    clock, pauses = [1000.0], []
    leave_trial(tmp_path)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    assert record(tmp_path, SlowWriter(), monkeypatch, is_closed).sent == 1
    assert pauses == [1.0]


def test_what_failed_in_the_last_look_is_tried_again_before_the_recorder_ends(
    tmp_path, monkeypatch
):
    def fail_once():
        writer.meanwhile = lambda: None
        raise OSError("the server did not take all of the run")

    def is_closed(*_):
        folders.append(leave_trial(tmp_path))  # in the first look there is none
        writer.meanwhile = fail_once
        return True

    folders, writer = [], FakeWriter()
    (tmp_path / "trials").mkdir()
    report = record(tmp_path, writer, monkeypatch, is_closed)
    assert writer.kept == [(folders[0].name, 2)]
    assert (report.written, report.failed, report.problem) == (1, 0, "")


def test_server_that_was_away_is_tried_again_while_the_sweep_runs(tmp_path, capsys, monkeypatch):
    folders, writer = leave_sweep(tmp_path), FakeWriter()
    writer.is_away = True
    recorder = look(tmp_path, writer, is_watching=True)
    recorder.look()
    said = "nothing is sent: connection refused; tried again every 5 minutes"
    assert json.loads(capsys.readouterr().out) == {"said": said}
    writer.is_away = False
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 301.0)
    recorder.look()
    assert sorted(writer.sent) == sorted(folder.name for folder in folders)
    assert recorder.report.problem == ""


def test_what_a_trial_does_while_its_run_is_made_is_seen_the_next_time(tmp_path):
    folder, writer = leave_trial(tmp_path, rows=ROWS[:1], return_mean=None), FakeWriter()
    rows = [{"trial": folder.name, **row} for row in ROWS]
    writer.meanwhile = lambda: results.write_rows(folder / "curve.arrow", rows, results.CURVE)
    look(tmp_path, writer)
    assert is_behind(folder)
    writer.meanwhile = lambda: None
    look(tmp_path, writer)
    assert (writer.kept[-1], is_behind(folder)) == ((folder.name, 2), False)


def test_pretraining_that_came_to_its_end_is_behind(tmp_path):
    folder = tmp_path / "pretrained" / "0123456789abcdef"
    results.write_rows(folder / "curve.arrow", [], results.PRETRAINING)
    write_state(folder, {"stamps": stamps_of(folder)})
    assert not is_behind(folder)
    (folder / "last.ckpt").write_bytes(b"x")
    assert is_behind(folder)


def test_rows_are_the_same_however_long_they_took():
    slower = [{**row, "seconds": 2 * row["seconds"]} for row in ROWS]
    other = [ROWS[0], {**ROWS[1], "return_mean": 7.0}]
    digests = [wandb_state.row_digests(rows, "epoch") for rows in (ROWS, slower, other)]
    assert digests[0] == digests[1]
    assert [step for step in (2, 4) if digests[0][step] != digests[2][step]] == [4]


def test_rows_that_the_server_has_are_kept_by_its_place_and_apart_from_what_is_read_often(tmp_path):
    folder, writer = leave_trial(tmp_path), FakeWriter()
    look(tmp_path, writer)
    digests = wandb_state.row_digests(RunReader(tmp_path, None).read(folder).rows, "epoch")
    assert wandb_state.read_rows(folder, [None, None, None]) == digests
    assert wandb_state.read_rows(folder, ["mine", None, None]) == {}
    assert "rows" not in wandb_state.read_state(folder)


def test_offline_copy_is_marked_as_synced_once_the_server_has_rows_of_the_run(tmp_path):
    copy = tmp_path / "wandb" / "offline-run-x" / "run-x.wandb"
    copy.parent.mkdir(parents=True)
    copy.touch()
    write_state(tmp_path, {"offline": "offline-run-x"})
    assert list(copy.parent.iterdir()) == [copy]
    write_rows(tmp_path, {2: "abcdef"}, [None, None, None])
    write_state(tmp_path, {"offline": "offline-run-x"})
    assert sorted(copy.parent.iterdir()) == [copy, copy.with_name("run-x.wandb.synced")]


@pytest.mark.parametrize("place", [{"server": "https://b"}, {"entity": "team"}])
def test_other_server_or_team_lacks_what_the_first_has(place, tmp_path):
    folder, writer = leave_trial(tmp_path), FakeWriter()
    look(tmp_path, writer)
    for name, value in place.items():
        setattr(writer, name, value)
    for _ in range(2):
        look(tmp_path, writer)
    assert writer.sent == [folder.name] * 2


def test_what_another_recorder_writes_is_counted_and_is_not_all_there_is(tmp_path, capsys):
    folder, _ = sorted(leave_sweep(tmp_path))
    with claim.acquire(folder / "wandb" / "claim.json"):
        report = look(tmp_path, FakeWriter()).report
    assert (report.written, report.sent, report.elsewhere) == (1, 1, 1)


def test_trial_that_is_done_is_kept_though_its_process_still_has_its_claim(tmp_path):
    folder = leave_trial(tmp_path)
    with claim.acquire(folder / "claim.json"):
        report = look(tmp_path, FakeWriter()).report
    assert (report.written, report.running) == (1, 0)


def test_trial_that_runs_and_is_written_elsewhere_counts_once(tmp_path):
    running = leave_trial(tmp_path, TRIALS[0], return_mean=None)
    leave_trial(tmp_path, TRIALS[1])
    job, writer = Job(str(tmp_path), is_online=True, is_watching=True), FakeWriter()
    writer.meanwhile = lambda: 1 / 0
    held = [claim.acquire(running / name) for name in ("claim.json", "wandb/claim.json")]
    recorder = Recorder(job, writer)
    recorder.look()
    assert (recorder.report.running, recorder.report.elsewhere) == (1, 0)
    assert tracking._describe(recorder.report, job).startswith("1 sent, 1 not kept yet, ")
    for one in held:
        one.release()


def test_command_that_sends_is_as_it_is_to_be_typed(tmp_path, monkeypatch):
    monkeypatch.setenv("PWMRAY_RUN", "./run")
    told = tracking._describe(Report(written=1), Job(str(tmp_path), "tiny"))
    assert told.endswith(f"to send what is kept: ./run pwmray wandb sync tiny --results {tmp_path}")
    sent = tracking._describe(Report(written=1, sent=1), Job(str(tmp_path), is_online=True))
    assert sent == "1 run kept in the trials' folders, 1 sent"


def test_run_that_was_written_and_sent_twice_is_one(tmp_path):
    folder, writer = leave_trial(tmp_path, rows=ROWS[:1], return_mean=None), FakeWriter()
    recorder = look(tmp_path, writer)
    rows = [{"trial": folder.name, **row} for row in ROWS]
    results.write_rows(folder / "curve.arrow", rows, results.CURVE)
    recorder.look()
    assert (writer.kept, writer.sent) == ([(folder.name, 1), (folder.name, 2)], [folder.name] * 2)
    assert (recorder.report.written, recorder.report.sent) == (1, 1)
    registry.remark(folder, pruned=["best.pt"])  # of which a run says nothing
    recorder.look()
    assert (len(writer.kept), len(writer.sent)) == (2, 2)


def test_server_has_other_rows_until_a_trial_has_them_again(tmp_path):
    folder, problems = leave_trial(tmp_path, return_mean=None), []
    recorder = look(tmp_path, FakeWriter())
    for rows in (ROWS[:1], ROWS):  # as when it goes on from an earlier checkpoint
        curve = [{"trial": folder.name, **row} for row in rows]
        results.write_rows(folder / "curve.arrow", curve, results.CURVE)
        recorder.look()
        problems.append(recorder.report.problem)
    assert problems[0].startswith(f"{folder.name}: W&B has other rows from epoch 4 on")
    assert problems[1] == ""


def test_what_else_a_recorder_prints_is_passed_over(tmp_path, monkeypatch):
    lines = rb"\xff\n5\nhello {\n"
    program = f"import sys; sys.stdout.buffer.write(b'{lines.decode()}'); sys.stdout.flush()\n"
    program += "from pwmray.tracking.recorder import main; main()"
    popen = subprocess.Popen
    run = [sys.executable, "-c", program]
    monkeypatch.setattr(subprocess, "Popen", lambda _, **options: popen(run, **options))
    said = []
    (tmp_path / "trials").mkdir()
    report = RecorderProcess(Job(str(tmp_path)), lambda *of: said.append(of)).follow()
    assert (said, report) == ([], Report())


def test_recorder_that_comes_to_no_end_tells_what_it_did(tmp_path):
    program = (
        "import sys; from pathlib import Path; from pwmray.tracking import recorder; "
        "job = recorder.Job('.', grace_seconds=0.0); did = recorder.Report(written=2, sent=1); "
        "recorder._end_after_driver(job, sys.stdin, Path('absent'), did)"
    )
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, cwd=tmp_path)
    told = Report(**json.loads(ended.stdout))
    assert told == Report(written=2, sent=1, problem="not done after 0 s")


def test_only_the_recorders_process_can_load_wandb():
    importers = {
        module: {Path(a.partition(":")[0]).stem for a in arrows("pwmray", [module])}
        for module in ("wandb", "pwmray.tracking.wandb_writer")
    }
    assert importers == {
        "wandb": {"wandb_writer", "wandb_file"},
        "pwmray.tracking.wandb_writer": {"recorder"},
    }


# TensorBoard's file.


def test_event_file_is_what_tensorboard_reads(tmp_path):
    row = {"trial": "t", "epoch": 150_000, "return_mean": 12.5, "matching_loss": None}
    write_events(tmp_path, [*ROWS, {**row, "actor_loss": float("nan")}], "epoch", BEGUN)
    (path,) = tmp_path.glob(EVENT_FILES)
    version, _, first, *_ = read_events(path)
    assert version.file_version == "brain.Event:2"
    assert first.wall_time == BEGUN + 3.0
    assert scalars(tmp_path) == [
        (2, "seconds", 3.0),
        (2, "return_mean", 10.0),
        (4, "seconds", 6.0),
        (4, "return_mean", 20.0),
        (150_000, "return_mean", 12.5),
    ]


def test_event_file_grows_in_place(tmp_path):
    write_events(tmp_path, ROWS[:1], "epoch", BEGUN)
    (path,) = tmp_path.glob(EVENT_FILES)
    before = path.read_bytes()
    with open(path, "rb") as looking:  # as TensorBoard does
        write_events(tmp_path, ROWS, "epoch", BEGUN)
        write_events(tmp_path, ROWS, "epoch", BEGUN)
        assert looking.read() == path.read_bytes()
    assert path.read_bytes().startswith(before)
    assert [step for step, *_ in scalars(tmp_path)] == [2, 2, 4, 4]


def test_row_of_a_growing_event_file_is_encoded_once(tmp_path, monkeypatch):
    encoded, encode = [], tensorboard_file._encode_row
    count = lambda row, *rest: encoded.append(row["epoch"]) or encode(row, *rest)  # noqa: E731
    monkeypatch.setattr(tensorboard_file, "_encode_row", count)
    rows = [{"epoch": epoch, "return_mean": 1.0} for epoch in range(1, 6)]
    for number in range(1, 6):
        write_events(tmp_path, rows[:number], "epoch", BEGUN)
    (other := tmp_path / "other").mkdir()
    write_events(other, rows, "epoch", BEGUN + 1.0)  # of another trial
    assert encoded == [1, 2, 3, 4, 5] * 2


def test_event_file_that_was_cut_is_completed(tmp_path):
    write_events(tmp_path, ROWS, "epoch", BEGUN)
    (path,) = tmp_path.glob(EVENT_FILES)
    whole = path.read_bytes()
    os.truncate(path, len(whole) - 7)
    write_events(tmp_path, ROWS, "epoch", BEGUN)
    assert path.read_bytes() == whole


def test_rows_taken_back_leave_no_epoch_twice(tmp_path):
    write_events(tmp_path, ROWS, "epoch", BEGUN)
    (old,) = tmp_path.glob(EVENT_FILES)
    again = [ROWS[0], {**ROWS[1], "seconds": 7.0}]
    write_events(tmp_path, again, "epoch", BEGUN)
    assert [step for step, *_ in scalars(tmp_path)] == [2, 2, 4, 4]
    assert old.stat().st_size == 0
    write_events(tmp_path, [ROWS[0]], "epoch", BEGUN)
    write_events(tmp_path, again, "epoch", BEGUN)
    assert [step for step, *_ in scalars(tmp_path)] == [2, 2, 4, 4]
    assert not old.exists()
