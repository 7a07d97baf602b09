"""What a driver does when a scheduler asks it to stop: at the next rows, or at once."""

import contextlib
import errno
import os
import pkgutil
import signal
import subprocess
import sys
import time

import pytest

from pwmray import deaths, plan, registry, slurm_jobs, tables
from pwmray.commands import run_command
from pwmray.driver import data_making, interruption, launch
from pwmray.driver.interruption import AskedToStopError, Interruption, TerminatedError
from pwmray.driver.notify import Notices
from pwmray.driver.tune_callbacks import Listening
from pwmray.failures import Failure
from pwmray.registry import Status
from pwmray.results import read_table
from pwmray.tracking.recording import Mode
from tests.held import EPOCH, start_held
from tests.started_sweeps import curves, run, trial_statuses
from tests.tiny import sweep
from tests.waiting import wait_for

LIMIT = "PWMRAY_LIMIT_AT"
# Gets the signal where Tune makes its callbacks ready, once it listens to signals.
EARLY = """
import os, signal
from pwmray.driver.tune_callbacks import Listening
from {what} as tried
Listening.setup = lambda *_, **__: os.kill(os.getpid(), signal.SIGUSR1)
tried.main()
"""


@pytest.fixture
def listening():
    started_with = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # `nohup` may have set it
    asked = Interruption()
    asked.listen()
    yield asked
    asked.leave()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, started_with)


@pytest.mark.parametrize(
    ("limit_in", "reason"), [(-1, "time limit"), (3600, "preempted"), (None, "preempted")]
)
def test_signal_of_the_last_minutes_is_for_the_time_limit(listening, monkeypatch, limit_in, reason):
    monkeypatch.delenv(LIMIT, raising=False)
    if limit_in is not None:
        monkeypatch.setenv(LIMIT, str(time.time() + limit_in))
    os.kill(os.getpid(), signal.SIGUSR1)
    assert listening.reason == reason


def test_work_that_may_stop_anywhere_ends_at_its_next_progress(listening):
    said = []
    report = listening.heeded(lambda *step: said.append(step))
    report("collecting", 1, 2)
    os.kill(os.getpid(), signal.SIGUSR1)
    with pytest.raises(AskedToStopError, match=r"^preempted: stopped at collecting$"):
        report("collecting", 2, 2)
    assert said == [("collecting", 1, 2)]


def test_second_ctrl_c_does_not_disturb_the_end_that_the_first_began(listening):
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    listening.listen()
    os.kill(os.getpid(), signal.SIGINT)
    listening.leave()
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("number", "raised", "code"),
    [
        (signal.SIGINT, KeyboardInterrupt, 130),
        (signal.SIGTERM, TerminatedError, 143),
        (signal.SIGHUP, TerminatedError, 129),
    ],
)
def test_end_that_python_drops_is_raised_at_the_next_step(listening, number, raised, code):
    class Dropping:
        def __del__(self):
            os.kill(os.getpid(), number)

    steps = Listening(listening)
    steps.on_step_begin(1, [])
    Dropping()
    with pytest.raises(raised):
        steps.on_step_begin(2, [])
    assert [run_command(ask) for ask in (listening.outcome, listening.may_go_on)] == [code] * 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_signal_that_is_ignored_from_the_start_stays_so(listening, number):
    before = signal.signal(number, signal.SIG_IGN)
    listening.listen()
    os.kill(os.getpid(), number)
    listening.leave()
    os.kill(os.getpid(), number)
    signal.signal(number, before)


def test_end_of_the_terminal_comes_twice_and_ends_with_its_own_code(listening):
    with pytest.raises(TerminatedError) as raised:
        os.kill(os.getpid(), signal.SIGHUP)
    listening.listen()
    listening.leave()
    os.kill(os.getpid(), signal.SIGHUP)
    assert listening.exit_code(raised.value) == raised.value.exit_code == 129
    assert listening.why_terminated() == "its terminal was closed"


def test_second_sigterm_does_not_disturb_the_end_that_the_first_began(listening):
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)
    listening.listen()
    os.kill(os.getpid(), signal.SIGTERM)
    assert listening.reason == interruption.CANCELLED


def test_request_to_stop_at_rows_takes_nothing_back_of_a_sigterm(listening):
    with pytest.raises(TerminatedError):
        os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGUSR1)
    assert listening.exit_code(TerminatedError()) == 143
    os.kill(os.getpid(), signal.SIGTERM)  # which is still ignored
    listening.listen()
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (signal.SIGTERM, 143, ""),
        (signal.SIGINT, 130, ""),
        (signal.SIGUSR1, 75, "preempted: stopped at collecting\n"),
    ],
)
def test_sweep_that_is_stopped_while_it_makes_data_says_how_to_go_on(
    number, code, said, listening, tmp_path, monkeypatch, capsys
):
    def make_data(wanted, data_dir, progress):
        os.kill(os.getpid(), number)
        progress("collecting", 1, 2)

    monkeypatch.setattr(data_making, "make_data", make_data)
    made = plan.make(sweep, "tiny", sweep.trials("tiny")[:1], tmp_path / "results")
    assert launch.run(made, tmp_path / "data", None, "python x.py", Mode.OFF) == code
    assert capsys.readouterr().out.endswith(f"{said}go on with: python x.py\n")


class _DyingEngine:
    """Ray as it goes while its driver works."""

    def __init__(self, *_):
        pass

    def machine(self):
        return {"CPU": 2.0}

    def run(self, trials, following):
        raise ConnectionError("the GCS is gone")

    def close(self):
        pass


@pytest.fixture
def dying(monkeypatch, tmp_path):
    """A sweep of one trial whose Ray dies, and what a webhook is told of it."""
    told = []
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")  # from above, paths are printed shorter
    monkeypatch.setenv("PWMRAY_ENDED_NODES", f"{tmp_path}/ended.")
    monkeypatch.setenv("PWMRAY_GOES_ON", f"{tmp_path}/goes-on")
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    monkeypatch.setattr(deaths, "_WORD_SECONDS", 0.0)
    monkeypatch.setattr(slurm_jobs, "was_requeued", lambda _: False)
    monkeypatch.setattr(Notices, "_send", lambda self, fields: told.append(fields))
    monkeypatch.setattr(data_making, "make_data", lambda wanted, *_: dict.fromkeys(wanted))
    monkeypatch.setattr(launch, "_Engine", _DyingEngine)
    return plan.make(sweep, "tiny", sweep.trials("tiny")[:1], tmp_path / "results"), told


def end_after(function, monkeypatch):
    """Have SIGTERM come as soon as `function` was called."""

    def call(*arguments):
        result = before(*arguments)
        os.kill(os.getpid(), signal.SIGTERM)
        return result

    before = pkgutil.resolve_name(function)
    monkeypatch.setattr(function, call)


@pytest.mark.parametrize(
    ("comes_after", "goes_on", "code", "stands"),
    [
        ("", False, interruption.GO_ON, Status.QUEUED),
        ("say", True, interruption.TERMINATED, Status.QUEUED),
        ("say", False, interruption.TERMINATED, Status.CANCELLED),  # by scancel
        ("deaths.is_ended_here", True, interruption.TERMINATED, Status.QUEUED),
    ],
)
def test_sweep_whose_ray_slurm_ended_is_no_error(
    comes_after, goes_on, code, stands, dying, listening, tmp_path, capsys, monkeypatch
):
    made, told = dying
    (tmp_path / "ended.n1").touch()
    if goes_on:
        (tmp_path / "goes-on").touch()
    monkeypatch.setattr(interruption, "_TOLD_SECONDS", 30.0 if comes_after else 0.1)
    if comes_after:
        end_after(f"pwmray.driver.interruption.{comes_after}", monkeypatch)
    assert launch.run(made, tmp_path / "data", None, "python x.py", Mode.OFF) == code
    folder = registry.trial_folder(made.results, made.trials[0].config.fingerprint)
    assert (registry.read(folder).status, told) == (stands, [])
    said = capsys.readouterr().out
    is_said = comes_after in ("", "say")
    assert ("Slurm ended Ray's node on this machine: the GCS is gone\n" in said) == is_said
    assert said.endswith("go on with: python x.py\n")


def test_sigterm_while_ray_is_left_takes_nothing_back_of_what_was_asked_before(
    dying, listening, tmp_path, monkeypatch
):
    made, _ = dying
    monkeypatch.setattr(_DyingEngine, "run", lambda *_: os.kill(os.getpid(), signal.SIGUSR1))
    monkeypatch.setattr(_DyingEngine, "close", lambda _: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(TerminatedError):
        launch.run(made, tmp_path / "data", None, "python x.py", Mode.OFF)
    record = registry.read(registry.trial_folder(made.results, made.trials[0].config.fingerprint))
    assert (record.status, record.last("reason")) == (Status.QUEUED, "preempted")


def test_sigterm_after_slurm_ended_ray_cuts_off_nothing_of_the_end(
    dying, listening, tmp_path, monkeypatch
):
    made, _ = dying
    (tmp_path / "ended.n1").touch()
    monkeypatch.setattr(interruption, "_TOLD_SECONDS", 0.0)
    monkeypatch.setattr(_DyingEngine, "close", lambda _: os.kill(os.getpid(), signal.SIGTERM))
    code = launch.run(made, tmp_path / "data", None, "python x.py", Mode.OFF)
    assert code == interruption.GO_ON
    record = registry.read(registry.trial_folder(made.results, made.trials[0].config.fingerprint))
    assert (record.status, record.last("reason")) == (Status.QUEUED, interruption.NODE_ENDED)


def test_sweep_whose_ray_died_of_itself_ends_with_the_error(dying, listening, tmp_path):
    made, told = dying
    with pytest.raises(ConnectionError):
        launch.run(made, tmp_path / "data", None, "python x.py", Mode.OFF)
    assert [fields["error"] for fields in told] == ["the GCS is gone"]


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(signal.SIGTERM, 143, "cancelled by SIGTERM\n"), (signal.SIGINT, 130, "interrupted\n")],
)
def test_command_that_is_ended_before_its_trials_begin_says_by_what(
    listening, number, code, said, capsys
):
    assert run_command(lambda: os.kill(os.getpid(), number)) == code
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("ends_in", "left"),
    [
        (300, 240),
        (30, 10),  # what Tune gives by itself
        (86_400, 3600),
        (None, 10),  # Slurm does not answer
    ],
)
def test_rows_have_until_shortly_before_the_job_ends(ends_in, left, monkeypatch):
    end = None if ends_in is None else time.time() + ends_in
    monkeypatch.setattr(slurm_jobs, "ends_at", lambda job, seconds: end if job == "77" else None)
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    assert Interruption.find_row_seconds() == pytest.approx(left, abs=5)
    monkeypatch.delenv("SLURM_JOB_ID")
    assert Interruption.find_row_seconds() == 3600


@pytest.mark.parametrize(
    ("restarts", "limit_in", "starts_after", "row_in", "code"),
    [
        ("1", -1, 0, None, 1),
        ("0", -1, 0, None, 75),  # in its first life a job may have made the data
        ("1", 3600, 0, None, 75),  # preempted
        ("1", -1, 0, registry.CURVE_FILE, 75),
        ("1", -1, 0, registry.EVALUATIONS_FILE, 75),
        ("1", -1, 50, None, 1),
        ("1", -1, 60, None, 75),  # it pretrained, or waited, for a part of the time
    ],
)
def test_job_that_comes_to_no_row_is_not_requeued_again_and_again(
    restarts, limit_in, starts_after, row_in, code, monkeypatch, tmp_path, capsys
):
    monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
    monkeypatch.setenv(LIMIT, str(time.time() + limit_in))
    (tmp_path / registry.CURVE_FILE).write_bytes(b"of the job's life before")
    os.utime(tmp_path / registry.CURVE_FILE, (1, 1))
    now = 1000.0
    monkeypatch.setattr(interruption, "STARTED_AT", now)
    monkeypatch.setattr(interruption.time, "monotonic", lambda: now)
    asked = Interruption()
    asked.listen()
    now += starts_after
    asked.begin(tmp_path)
    if row_in:
        (tmp_path / row_in).write_bytes(b"its last")
    now += 400
    asked.begin(tmp_path)  # its process died
    now += 100
    os.kill(os.getpid(), signal.SIGUSR1)
    asked.leave()
    found, why = asked.outcome()
    assert found == code
    assert ("stopped: no trial reached its next row" in capsys.readouterr().out) == (code == 1)
    stands = Status.QUEUED if code == interruption.GO_ON else Status.CANCELLED
    assert Interruption.left_at(found, why) is stands


def test_job_that_requeues_itself_has_not_cancelled_its_trials(monkeypatch, tmp_path):
    monkeypatch.setattr(slurm_jobs, "was_requeued", lambda _: False)  # it is about to be
    monkeypatch.setenv("PWMRAY_GOES_ON", str(tmp_path / "goes-on"))
    assert Interruption().why_terminated() == interruption.CANCELLED
    (tmp_path / "goes-on").touch()
    assert Interruption().why_terminated() == interruption.REQUEUED


def test_rows_in_a_task_of_an_array_have_as_long_as_that_task(monkeypatch):
    monkeypatch.setattr(slurm_jobs, "ends_at", lambda job, _: {"77_3": time.time() + 300}.get(job))
    for name, value in {"JOB_ID": "77", "ARRAY_JOB_ID": "77", "ARRAY_TASK_ID": "3"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert Interruption.find_row_seconds() == pytest.approx(240, abs=5)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["tests.tiny import sweep", "tests.tiny_search import search"])
def test_request_to_stop_that_comes_before_tunes_first_step_is_heeded(what, tmp_path):
    process = subprocess.run(
        [sys.executable, "-c", EARLY.format(what=what), "--scale", "tiny", "--limit", "2"],
        cwd=tmp_path, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert process.returncode == interruption.GO_ON, process.stderr
    assert "preempted: trials stop at their next rows, within " in process.stdout
    assert process.stdout.splitlines()[-1].startswith("go on with: ")
    found = [registry.read(path) for path in (tmp_path / "results" / "trials").iterdir()]
    assert {record.status for record in found} == {Status.QUEUED}
    assert all(record.last("failure") is None for record in found)


def wait_for_held(folder):
    """Return the folder of a trial of the scale `rare` that waits behind a row an epoch."""

    def find():
        paths = folder.glob(f"results/trials/*/{registry.CURVE_FILE}")
        return next((path.parent for path in paths if read_table(path).num_rows == EPOCH), None)

    return wait_for(find, 200)


def ask_to_stop(process):
    """Send SIGUSR1; return the line that the driver says then."""
    process.send_signal(signal.SIGUSR1)
    return next(line for line in process.stdout if line.startswith("preempted: "))


@pytest.mark.slow
def test_row_that_takes_longer_than_tune_waits_is_not_lost(tmp_path, hold, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    process = start_held(tmp_path, "--scale", "rare", "--limit", "3")
    folder = wait_for_held(tmp_path)
    assert "trials stop at their next rows, within 60 min" in ask_to_stop(process)
    time.sleep(15.0)  # Tune by itself gives a process ten
    hold.unlink()
    _, err = process.communicate(timeout=200)
    assert process.returncode == interruption.GO_ON, err
    assert read_table(folder / registry.CURVE_FILE).num_rows == EPOCH + 1
    assert (folder / registry.CHECKPOINT_FILE).exists()
    assert trial_statuses(tmp_path) == ["QUEUED"] * 3


@pytest.mark.slow
def test_driver_told_of_its_end_leaves_each_trial_at_its_last_row(tmp_path, hold):
    options = ("--scale", "rare", "--limit", "3")
    process = start_held(tmp_path, *options, SLURM_JOB_ID="77")
    wait_for_held(tmp_path)
    ask_to_stop(process)
    hold.unlink()
    out, err = process.communicate(timeout=120)
    assert process.returncode == interruption.GO_ON, err
    assert "Traceback" not in out + err
    assert set(trial_statuses(tmp_path)) <= {"QUEUED", "EVALUATED"}
    stopped = 0
    for path in (tmp_path / "results" / "trials").glob("*"):
        record = registry.read(path)
        if record.status is Status.QUEUED:
            assert record.last("reason") == "preempted"
            assert record.last("slurm_job_id") == "77"
            stopped += (path / registry.CHECKPOINT_FILE).exists()
    assert stopped  # although it was not yet time for a checkpoint

    code, _, err = run(tmp_path, *options)
    assert code == 0, err
    assert trial_statuses(tmp_path) == ["EVALUATED"] * 3
    epochs = [(row["trial"], row["epoch"]) for row in curves(tmp_path)]
    ends = dict(epochs)
    assert epochs == [(name, epoch) for name in ends for epoch in range(1, ends[name] + 1)]


@pytest.mark.slow
def test_driver_that_is_terminated_cancels_what_it_has_not_ended(tmp_path, hold):
    process = start_held(tmp_path, "--scale", "rare", "--limit", "4")
    wait_for_held(tmp_path)
    process.terminate()
    out, err = process.communicate(timeout=120)
    assert process.returncode == interruption.TERMINATED, err
    assert "Traceback" not in out + err
    assert set(trial_statuses(tmp_path)) <= {"CANCELLED", "EVALUATED"}
    reasons = {
        registry.read(path).last("reason") for path in (tmp_path / "results" / "trials").glob("*")
    }
    assert interruption.CANCELLED in reasons


def test_sweep_whose_trials_run_at_ctrl_c_says_how_to_go_on(
    dying, listening, tmp_path, capsys, monkeypatch
):
    made, told = dying
    monkeypatch.setattr(_DyingEngine, "run", lambda *_: signal.raise_signal(signal.SIGINT))
    assert launch.run(made, tmp_path / "data", None, "python x.py", Mode.OFF) == 130
    assert capsys.readouterr().out.endswith("go on with: python x.py\n")
    record = registry.read(registry.trial_folder(made.results, made.trials[0].config.fingerprint))
    assert (record.status, told) == (Status.CANCELLED, [])


@pytest.mark.parametrize(("number", "is_error"), [(errno.ENOSPC, False), (errno.EIO, True)])
def test_tables_that_find_no_room_at_the_end_are_left_to_the_next_run(
    number, is_error, dying, listening, tmp_path, capsys, monkeypatch
):
    def fail(_):
        raise OSError(number, os.strerror(number))

    made, _ = dying
    monkeypatch.setattr(_DyingEngine, "run", lambda *_: signal.raise_signal(signal.SIGINT))
    monkeypatch.setattr(tables.Tables, "write", fail)
    with pytest.raises(OSError) if is_error else contextlib.nullcontext():
        assert launch.run(made, tmp_path / "data", None, "python x.py", Mode.OFF) == 130
    told = f"disk full: the tables in {made.results}/tiny are behind; the next run writes them\n"
    assert (told in capsys.readouterr().out) != is_error


def test_end_of_a_sweep_says_which_trials_failed_of_what(dying, tmp_path, capsys, monkeypatch):
    made, told = dying
    (trial,) = made.trials
    folder = registry.trial_folder(made.results, trial.config.fingerprint)

    def run(*_):
        registry.record(folder, Status.FAILED, reason="it diverged", failure=Failure.NON_FINITE)

    monkeypatch.setattr(_DyingEngine, "run", run)
    assert launch.run(made, tmp_path / "data", None, "python x.py", Mode.OFF) == 1
    said = capsys.readouterr().out
    assert said.endswith(
        f"0 of 1 trials done; tables in {made.results}/tiny\n"
        f"failed: {trial.name}: it diverged\n"
        f"        its record is {folder}\n"
        f"see why: pwmray failures tiny --results {made.results}\n"
    )
    assert [fields["failed"] for fields in told] == [1]
