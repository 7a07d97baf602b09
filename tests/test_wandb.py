"""W&B's runs, written and sent by wandb itself: to files that are read back, to a server here."""

import datetime
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from pwmray import registry, results
from pwmray.pretrain_command import run_pretrainings
from pwmray.registry import Status, claim
from pwmray.results import read_table
from pwmray.tracking.protocol import Job
from pwmray.tracking.recording import Mode, RecorderProcess
from pwmray.tracking.wandb_file import is_complete
from pwmray.tracking.wandb_state import place_of
from tests.fake_wandb import ENTITY, FakeWandb
from tests.gated import THIRD_ROW, start_gated, wait_for_gate
from tests.made_world_models import find
from tests.run_file import read_run_file
from tests.started_sweeps import run
from tests.tracked import ROWS, TRIALS, leave_sweep, leave_trial, scalars
from tests.waiting import wait_for

pytestmark = pytest.mark.slow
KEY = "5ec4e7" * 7  # 40 characters or more, as W&B wants them
PROJECT = "MT30-Detailed"
OF_ANOTHER_RUN = [
    f"WANDB_{name}"
    for name in (
        *("RUN_ID", "NAME", "RESUME", "PROJECT"),
        *("RESUME_FROM", "FORK_FROM", "CONFIG_PATHS", "SWEEP_PARAM_PATH", "SERVICE"),
    )
]


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """An account without a key of W&B's, and with variables of another run's."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    for name in OF_ANOTHER_RUN:
        monkeypatch.setenv(name, "must")
    (tmp_path / "home").mkdir()


@pytest.fixture
def server(alone, monkeypatch):
    with FakeWandb() as fake:
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setenv("WANDB_BASE_URL", fake.url)
        yield fake


def sync(folder, *options):
    command = [sys.executable, "-m", "pwmray.cli", "wandb", "sync", *options]
    # With a terminal's stdin closed, whoever asks for a key fails; whoever waits runs into time.
    return subprocess.run(
        [*command, "--results", str(folder)], capture_output=True, text=True, timeout=120
    )


def wandbs_own_sync(*folders):
    runs = [str(path.parent) for folder in folders for path in files_of(folder)]
    command = [sys.executable, "-m", "wandb", "sync", *runs]
    own = {name: value for name, value in os.environ.items() if name not in OF_ANOTHER_RUN}
    where = {"cwd": folders[0].parents[1], "env": own}  # it leaves a folder where it is started
    done = subprocess.run(command, **where, capture_output=True, text=True, timeout=120)
    return done.stdout + done.stderr


def files_of(folder):
    return sorted(folder.glob("wandb/offline-run-*/*.wandb"))


def run_of(folder):
    (path,) = files_of(folder)
    return read_run_file(path)


def epochs_of(run_file):
    return [row["epoch"] for row in run_file.history]


def mentions(folder, text):
    return [p for p in folder.rglob("*") if p.is_file() and text.encode() in p.read_bytes()]


def children_of(pid):
    found = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(child) for text in found for child in text.split()]


# Without a server.


def test_sync_without_a_key_writes_the_runs_and_ends_with_one_line(alone, tmp_path):
    folders = leave_sweep(tmp_path)
    for _ in range(2):
        done = sync(tmp_path)
        assert done.returncode == 2
        assert done.stdout == ""
        last = done.stderr.splitlines()[-1]
        assert last.startswith("error: W&B: ")
        assert "No API key configured. Use `wandb login` to log in." in last
        assert "Traceback" not in done.stderr
    assert [epochs_of(run_of(folder)) for folder in folders] == [[2, 4], [2, 4]]


def test_sync_without_a_network_ends_with_one_line(alone, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # where nobody listens
    folders = leave_sweep(tmp_path)
    done = sync(tmp_path)
    assert done.returncode == 2
    assert "connection refused" in done.stderr.splitlines()[-1]
    assert [epochs_of(run_of(folder)) for folder in folders] == [[2, 4], [2, 4]]
    assert mentions(tmp_path, KEY) == []


def test_sync_of_what_is_not_there_is_refused(tmp_path):
    for options in ([tmp_path / "absent"], [tmp_path, "tiny"]):
        done = sync(*options)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1


def test_run_kept_offline_is_the_whole_run_in_one_file(alone, tmp_path):
    folder = leave_trial(tmp_path, rows=ROWS[:1], return_mean=None)
    sync(tmp_path)
    first = run_of(folder)
    (path,) = files_of(folder)
    assert (epochs_of(first), first.summary["status"]) == ([2], "CANCELLED")
    assert is_complete(path, 1)

    registry.record(folder, Status.QUEUED)
    registry.record(folder, Status.RUNNING, epoch=2)
    rows = [{"trial": folder.name, **row} for row in ROWS]
    results.write_rows(folder / "curve.arrow", rows, results.CURVE)
    path.with_name(f".{path.name}.0123abcd.tmp").write_text("half")  # by a process that was killed
    sync(tmp_path)
    second = run_of(folder)
    assert files_of(folder) == [path]
    assert list(path.parent.iterdir()) == [path]
    assert epochs_of(second) == [2, 4]
    assert (second.id, second.project) == (folder.name, PROJECT)
    assert second.metrics == {"epoch": "", "*": "epoch"}
    assert not second.is_resume  # for it stands for the whole run


def test_run_is_of_the_time_at_which_its_trial_ran_wherever_it_is_written(
    alone, tmp_path, monkeypatch
):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    folder = leave_trial(tmp_path)
    sync(tmp_path)
    begun = next(e for e in registry.read(folder).events if e["status"] == "RUNNING")["time"]
    time = datetime.datetime.fromisoformat(begun)
    (path,) = files_of(folder)
    assert path.parent.name == f"offline-run-{time:%Y%m%d_%H%M%S}-{folder.name}"
    made = [row["_timestamp"] - time.timestamp() for row in run_of(folder).history]
    assert made == pytest.approx([row["seconds"] for row in ROWS], abs=0.01)


def test_nothing_is_left_but_runs(alone, tmp_path):
    leave_sweep(tmp_path)
    before = set(tmp_path.rglob("*"))
    sync(tmp_path)
    new = {path.name for path in set(tmp_path.rglob("*")) - before if path.is_file()}
    runs = {f"run-{trial.fingerprint}.wandb" for trial in TRIALS}
    assert new - {".listing.json"} == {*runs, "run.json"}


# With a server.


def test_sync_sends_everything_once(server, tmp_path):
    kept, _ = leave_sweep(tmp_path)
    done = sync(tmp_path, "tiny")
    assert (done.returncode, done.stdout) == (0, "W&B: 2 runs written, 2 sent\n")
    for trial in TRIALS:
        sent = server.runs[PROJECT, trial.fingerprint]
        assert server.epochs(PROJECT, trial.fingerprint) == [2, 4]
        assert sent["summary"]["final_return"] == 30.0
        assert (sent["groupName"], sent["displayName"]) == ("tiny", trial.label)
        assert sent["tags"][0] == trial.variant
        config = json.loads(sent["config"])
        assert config["learner"]["value"]["horizon"] == trial.learner.horizon
    assert place_of(kept) == f"{server.url}/{ENTITY}/{PROJECT}/runs/{kept.name}"
    assert sync(tmp_path).stdout == "W&B: has all there is\n"
    assert mentions(tmp_path, KEY) == []


def test_sync_of_a_run_that_grew_sends_the_rest(server, tmp_path):
    folder = leave_trial(tmp_path, rows=ROWS[:1], return_mean=None)
    sync(tmp_path)
    rows = [{"trial": folder.name, **row} for row in ROWS]
    results.write_rows(folder / "curve.arrow", rows, results.CURVE)
    sync(tmp_path)
    assert server.epochs(PROJECT, folder.name) == [2, 4]


def test_no_epoch_is_there_twice_whichever_command_sends_a_run(server, tmp_path):
    folder = leave_trial(tmp_path, rows=ROWS[:1], return_mean=None)
    RecorderProcess(Job(str(tmp_path))).follow()
    told = wandbs_own_sync(folder)
    assert "Finished syncing" in told
    assert server.epochs(PROJECT, folder.name) == [2]

    rows = [{"trial": folder.name, **row} for row in ROWS]
    results.write_rows(folder / "curve.arrow", rows, results.CURVE)
    assert sync(tmp_path).returncode == 0
    registry.record(folder, Status.QUEUED)  # so that it is made anew
    assert sync(tmp_path).stdout == "W&B: 1 run written, 1 sent\n"
    assert server.epochs(PROJECT, folder.name) == [2, 4]

    other = leave_trial(tmp_path, TRIALS[1])
    assert sync(tmp_path).returncode == 0
    assert "Skipped 2 synced run(s)" in wandbs_own_sync(folder, other)
    assert server.epochs(PROJECT, folder.name) == [2, 4]
    assert server.epochs(PROJECT, other.name) == [2, 4]


def test_sync_to_another_project_sends_again(server, tmp_path):
    folder = leave_trial(tmp_path)
    sync(tmp_path)
    done = sync(tmp_path, "--project", "mine", "--entity", "team")
    assert done.stdout == "W&B: 0 runs written, 1 sent\n"
    assert server.runs["mine", folder.name]["entity"] == "team"


def test_sync_to_another_server_or_team_sends_again(server, tmp_path, monkeypatch):
    folder = leave_trial(tmp_path)
    sync(tmp_path)
    again = "W&B: 0 runs written, 1 sent\n"
    with FakeWandb() as other:
        monkeypatch.setenv("WANDB_BASE_URL", other.url)
        assert sync(tmp_path).stdout == again
        assert list(other.runs) == [(PROJECT, folder.name)]
        monkeypatch.setenv("WANDB_ENTITY", "team")
        assert sync(tmp_path).stdout == again
        assert other.runs[PROJECT, folder.name]["entity"] == "team"
        assert sync(tmp_path).stdout == "W&B: has all there is\n"


def test_what_the_server_refuses_is_sent_the_next_time(server, tmp_path):
    folder = leave_trial(tmp_path)
    server.is_refusing = True
    done = sync(tmp_path)
    assert done.returncode == 2
    assert "the server did not take all of the run" in done.stderr
    server.is_refusing = False
    assert sync(tmp_path).stdout == "W&B: 0 runs written, 1 sent\n"
    assert server.epochs(PROJECT, folder.name) == [2, 4]


def test_run_that_was_deleted_at_the_server_holds_up_no_other(server, tmp_path):
    gone, other = sorted(leave_sweep(tmp_path))
    server.deleted.add(gone.name)
    for _ in range(2):
        said = sync(tmp_path).stderr.splitlines()[-1]
        assert said.endswith(f"; {gone.name}: deleted at W&B: give another --project")
    assert server.epochs(PROJECT, other.name) == [2, 4]
    assert epochs_of(run_of(gone)) == [2, 4]


def test_run_that_the_server_is_slow_with_holds_up_no_other(server, tmp_path):
    late, other = sorted(leave_sweep(tmp_path))
    server.seconds[late.name] = 40.0
    done = sync(tmp_path)
    assert done.stderr.splitlines()[-1] == (
        "error: W&B: 2 runs written, 1 sent; "
        f"{late.name}: the server did not take all of it in 30 s"
    )
    assert server.epochs(PROJECT, other.name) == [2, 4]
    server.seconds.clear()
    assert sync(tmp_path).stdout == "W&B: 0 runs written, 1 sent\n"
    assert server.epochs(PROJECT, late.name) == [2, 4]


def test_server_that_does_not_answer_in_time_is_told_without_advice_that_nobody_can_take(
    server, tmp_path
):
    leave_trial(tmp_path)
    server.answer_seconds = 8.0  # a run takes two answers
    told = sync(tmp_path).stderr.splitlines()[-1]
    assert told.startswith("error: W&B: 1 run written, 0 sent; nothing is sent: ")
    assert told.endswith("context deadline exceeded")


def test_sync_says_where_the_server_has_other_rows(server, tmp_path):
    folder = leave_trial(tmp_path, return_mean=None)
    sync(tmp_path)
    rows = [ROWS[0], {**ROWS[1], "return_mean": 7.0}]
    rows = [{"trial": folder.name, **row} for row in rows]
    results.write_rows(folder / "curve.arrow", rows, results.CURVE)
    for _ in range(2):
        done = sync(tmp_path)
        assert done.returncode == 2
        assert "W&B has other rows from epoch 4 on" in done.stderr.splitlines()[-1]
    assert sync(tmp_path, "--project", "mine").stdout == "W&B: 0 runs written, 1 sent\n"


def test_running_trial_is_sent_as_it_goes_and_goes_on_after_a_kill(server, tmp_path):
    folder = leave_trial(tmp_path, rows=ROWS[:1], return_mean=None)
    registry.record(folder, Status.QUEUED)
    registry.record(folder, Status.RUNNING, epoch=0)
    job = Job(str(tmp_path), is_online=True, is_watching=True)
    with claim.acquire(folder / "claim.json"):
        recorder = RecorderProcess(job)
        wait_for(lambda: (PROJECT, folder.name) in server.runs)
        wait_for(lambda: server.epochs(PROJECT, folder.name) == [2])
        os.killpg(recorder._process.pid, signal.SIGKILL)  # and wandb's service
        assert recorder.end(60).problem.startswith("its recorder died, exit code -9")
    (folder / "wandb" / "claim.json").unlink(missing_ok=True)

    with claim.acquire(folder / "claim.json"):
        rows = [{"trial": folder.name, **row} for row in ROWS]
        results.write_rows(folder / "curve.arrow", rows, results.CURVE)
        recorder = RecorderProcess(job)
        wait_for(lambda: server.epochs(PROJECT, folder.name) == [2, 4])
    registry.record(folder, Status.CANCELLED, reason="stopped")
    report = recorder.end(60)
    assert (report.written, report.sent, report.problem) == (1, 1, "")
    assert server.epochs(PROJECT, folder.name) == [2, 4]
    assert server.runs[PROJECT, folder.name]["summary"]["status"] == "CANCELLED"


def test_stop_at_wandb_and_the_death_of_its_service_end_no_recorder(server, tmp_path):
    folder = leave_trial(tmp_path, rows=ROWS[:1], return_mean=None)
    registry.record(folder, Status.QUEUED)
    registry.record(folder, Status.RUNNING, epoch=0)
    server.stopped.add(folder.name)
    job = Job(str(tmp_path), is_online=True, is_watching=True)
    with claim.acquire(folder / "claim.json"):
        recorder = RecorderProcess(job)
        wait_for(lambda: server.runs and server.epochs(PROJECT, folder.name) == [2])
        (service,) = children_of(recorder._process.pid)
        os.kill(service, signal.SIGKILL)
    registry.record(folder, Status.CANCELLED, reason="stopped")
    report = recorder.end(60)
    assert (report.written, report.problem) == (1, f"{folder.name}: W&B's service died")
    assert epochs_of(run_of(folder)) == [2]
    assert sync(tmp_path).returncode == 0
    assert server.epochs(PROJECT, folder.name) == [2]
    assert server.runs[PROJECT, folder.name]["summary"]["status"] == "CANCELLED"


OPEN_WITHOUT_A_SERVICE = """
import os, signal, sys
from pathlib import Path
from pwmray.tracking.runs import RunReader
from pwmray.tracking.wandb_state import ServiceDied
from pwmray.tracking.wandb_writer import Writer
from tests.test_wandb import children_of
first, second = map(RunReader(Path(sys.argv[1]), None).read, map(Path, sys.argv[2:]))
with Writer(Path(sys.argv[1])) as writer:
    writer.open_stream(first, 0)
    (service,) = children_of(os.getpid())
    os.kill(service, signal.SIGKILL)
    try:
        writer.open_stream(second, 0)
    except ServiceDied:
        writer.reset()
        writer.open_stream(second, 0).finish(second)
"""


def test_run_is_opened_anew_when_wandbs_service_died_before_it(server, tmp_path):
    folders = leave_sweep(tmp_path)
    command = [sys.executable, "-c", OPEN_WITHOUT_A_SERVICE, tmp_path, *folders]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert server.epochs(PROJECT, folders[1].name) == [2, 4]


SEND_ALL_AND_KEEP_NONE = """
import sys
from pathlib import Path
from pwmray.tracking import wandb_writer
from pwmray.tracking.runs import RunReader
scratch, folders = Path(sys.argv[2]), map(Path, sys.argv[3:])
with wandb_writer.Writer(scratch) as writer:
    for run in map(RunReader(Path(sys.argv[1]), None).read, folders):
        writer.open_stream(run, 0).finish(run)
        wandb_writer._check_written = lambda *_: 1 / 0
        try:
            writer.write_offline(run, scratch / "kept")
        except ZeroDivisionError:
            print(*(path.name for path in scratch.iterdir()))
"""


def test_what_wandb_writes_on_the_way_does_not_pile_up(server, tmp_path):
    folders = leave_sweep(tmp_path)
    (scratch := tmp_path / "scratch").mkdir()
    command = [sys.executable, "-c", SEND_ALL_AND_KEEP_NONE, tmp_path, scratch, *folders]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout == "cache\ncache\n", done.stderr


def test_recorder_of_a_killed_driver_does_not_wait_for_a_server_that_is_gone(
    alone, tmp_path, monkeypatch
):
    folder = leave_trial(tmp_path, rows=ROWS[:1], return_mean=None)
    registry.record(folder, Status.QUEUED)
    registry.record(folder, Status.RUNNING, epoch=0)
    job = Job(str(tmp_path), is_online=True, is_watching=True, grace_seconds=1.0)
    # Of a short name: wandb has a socket there.
    with tempfile.TemporaryDirectory(prefix="w") as scratch, claim.acquire(folder / "claim.json"):
        monkeypatch.setenv("TMPDIR", scratch)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        with FakeWandb() as fake:
            monkeypatch.setenv("WANDB_BASE_URL", fake.url)
            recorder = RecorderProcess(job)
            wait_for(lambda: fake.runs and fake.epochs(PROJECT, folder.name) == [2])
        report = recorder.end(60)  # it has read nothing but that stdin is closed
        assert report.problem == "not done after 1 s"
        assert list(Path(scratch).glob("pwmray-wandb-*")) == []


# A real pretraining, and real sweeps.


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The options by which all sweeps here share their data."""
    return ("--data", str(tmp_path_factory.mktemp("data")))


def test_pretrainings_have_runs_of_their_own(alone, data, tmp_path):
    wanted = [needed.pretraining for needed in find(tmp_path).prerequisites]
    made = (Path(data[1]), "python x.py", "tiny_pretrain", Mode.OFFLINE)
    assert run_pretrainings(wanted, tmp_path, *made) == 0
    for config in wanted:
        folder = config.folder(tmp_path)
        written = run_of(folder)
        assert (written.id, written.project) == (config.fingerprint, "WM-Pretrain")
        assert (written.group, written.tags[1]) == ("tiny_pretrain", config.world_model.kind)
        assert [row["iteration"] for row in written.history] == [1, 2]
        assert written.metrics["*"] == "iteration"
        assert written.summary["status"] == "done"
        assert {step for step, *_ in scalars(folder)} == {1, 2}


def all_folders(tmp_path):
    return sorted((tmp_path / "results" / "trials").iterdir())


def test_killed_sweep_that_goes_on_has_one_run_a_trial_and_no_epoch_twice(alone, data, tmp_path):
    options = ("--scale", "finer", "--limit", "2", *data)
    process = start_gated(tmp_path, THIRD_ROW, "tiny", *options, WANDB_API_KEY=KEY)
    folder = wait_for_gate(tmp_path, process)
    os.kill(registry.read(folder).last("pid"), signal.SIGKILL)
    process.kill()
    process.communicate(timeout=60)

    code, out, err = run(tmp_path, *options, WANDB_API_KEY=KEY)
    assert code == 0, err
    assert "pwmray wandb sync tiny" in out
    assert registry.read(folder).count(Status.RUNNING) == 2
    returns = dict(_columns(tmp_path, "trial", "return_mean"))
    for trial in all_folders(tmp_path):
        written = run_of(trial)
        assert (written.id, written.project, written.group) == (trial.name, PROJECT, "tiny")
        curve = read_table(trial / "curve.arrow")["epoch"].to_pylist()
        assert epochs_of(written) == curve == [1, 2, 3, 4]
        assert written.summary["final_return"] == returns[trial.name]
        assert written.config["epochs"] == 4
    assert mentions(tmp_path / "results", KEY) == []


def _columns(tmp_path, *names):
    table = read_table(tmp_path / "results" / "tiny" / "trials.arrow")
    return list(zip(*(table[name].to_pylist() for name in names), strict=True))


def test_off_loads_wandb_nowhere_and_otherwise_the_recorder_alone_does(alone, data, tmp_path):
    """A package in wandb's place that tells who loads it, and breaks the recorder that does."""
    fake = tmp_path / "packages" / "wandb"
    fake.mkdir(parents=True)
    told = tmp_path / "told"
    (fake / "__init__.py").write_text(
        f"import sys\nopen({str(told)!r}, 'a').write(' '.join(sys.orig_argv) + '\\n')\n"
        "raise ImportError('no wandb here')\n"
    )
    paths = os.pathsep.join([str(fake.parent), *sys.path])
    one = ("--scale", "tiny", *data, "--limit", "1")
    two = (*one[:-1], "2")
    code, out, err = run(tmp_path, *one, "--wandb", "off", PYTHONPATH=paths)
    assert code == 0, err
    assert not told.exists()
    assert "W&B" not in out

    code, out, err = run(tmp_path, *two, PYTHONPATH=paths)
    assert code == 0, err  # training is not harmed
    assert {line.split()[-1] for line in told.read_text().splitlines()} == {
        "pwmray.tracking.recorder"
    }
    (said,) = [line for line in out.splitlines() if line.startswith("W&B: ")]
    assert "exit code 1: ImportError: no wandb here" in said

    code, out, err = run(tmp_path, *two)  # all done; nothing is lost
    assert code == 0, err
    assert "W&B: 2 runs kept in the trials' folders; to send what is kept:" in out
    assert [len(files_of(folder)) for folder in all_folders(tmp_path)] == [1, 1]


def test_online_without_a_key_trains_all_the_same_and_says_so_in_one_line(alone, data, tmp_path):
    code, out, err = run(tmp_path, "--scale", "tiny", "--limit", "1", "--wandb", "online", *data)
    assert code == 0, err
    (said,) = [line for line in out.splitlines() if "W&B" in line]
    assert "No API key configured" in said
    assert "1 run kept" in said
    assert "Traceback" not in out + err


def test_online_sweep_sends_its_trials(server, data, tmp_path):
    code, out, err = run(tmp_path, "--scale", "tiny", "--limit", "2", "--wandb", "online", *data)
    assert code == 0, err
    assert "W&B: 2 runs kept in the trials' folders, 2 sent" in out
    assert {server.epochs(*run)[-1] for run in server.runs} == {4}
    assert mentions(tmp_path / "results", KEY) == []
