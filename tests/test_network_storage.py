"""What network file systems do that a disk does not: they remember, repeat, refuse and go away."""

import errno
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from pwmray import deaths, registry, results, tables
from pwmray import plan as planning
from pwmray.checkpoint_file import read_header
from pwmray.config import TrialConfig
from pwmray.data.store import BrokenDataError, open_store
from pwmray.failures import Failure, of_exception
from pwmray.files import append_lines, replacing
from pwmray.hold import Hold, RunningElsewhereError
from pwmray.registry import CURVE_FILE, EVALUATIONS_FILE, EVENTS_FILE, Status, claim
from pwmray.registry.listing import list_trials
from pwmray.registry.states import states_of
from pwmray.registry.sweep_folders import SWEEP_FILE, read_sweep
from pwmray.search import study
from pwmray.search.space import read_space
from pwmray.tracking.wandb_state import is_behind
from tests.records import TRIALS, folder_of, run, stand_at
from tests.stores import write_rows
from tests.tiny import sweep

# What is put before the C library's own: no draft can be closed that was written.
LATE_QUOTA = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
int close(int descriptor) {
  char link[64], path[4096] = "";
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  if (readlink(link, path, sizeof path - 1) < 0) path[0] = 0;
  int is_written = (fcntl(descriptor, F_GETFL) & O_ACCMODE) != O_RDONLY;
  int code = syscall(SYS_close, descriptor);
  if (code || !is_written || !strstr(path, ".tmp")) return code;
  errno = EDQUOT;
  return -1;
}
"""
# Writes files of these kinds, and says how that went.
KINDS = ["curve.arrow", "data.arrow", "sweep.json"]
WRITER = """
import sys
from pathlib import Path
from pwmray import results
from pwmray.wording import one_line
from pwmray.failures import of_exception
from pwmray.files import replacing
from tests.stores import write_rows
for path in map(Path, sys.argv[1:]):
    try:
        if path.name == "curve.arrow":
            results.write_rows(path, [], results.CURVE)
        elif path.name == "data.arrow":
            write_rows(path)
        else:
            with replacing(path) as draft:
                draft.write_text("{}")
        print("written")
    except OSError as error:
        print(f"{of_exception(error)}: {one_line(error)}")
"""


@pytest.fixture(scope="module")
def late_quota(tmp_path_factory):
    """Return a library that has each draft's closing fail, as on NFS at the end of a quota."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("NOT TESTED: a quota that is told late, for there is no C compiler")
    source = tmp_path_factory.mktemp("late") / "late_quota.c"
    source.write_text(LATE_QUOTA)
    library = source.with_suffix(".so")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    return library


@pytest.fixture
def remembering(monkeypatch):
    """Show a file as it was when this was told of it, as GlusterFS does for a second.

    Until a second name for it is asked for: the answer to that tells what the file is.
    """
    remembered: dict[pathlib.Path, bytes] = {}
    link, read_bytes, read_text = os.link, pathlib.Path.read_bytes, pathlib.Path.read_text

    def ask(source, target):
        remembered.pop(pathlib.Path(source), None)
        link(source, target)

    def show(path):
        return remembered[path] if path in remembered else read_bytes(path)

    def show_text(path, *arguments, **options):
        if path in remembered:
            return remembered[path].decode()
        return read_text(path, *arguments, **options)

    def show_open(path, mode="r", **options):
        held = remembered.get(pathlib.Path(path))
        return open(path, mode, **options) if held is None else io.BytesIO(held)

    monkeypatch.setattr(os, "link", ask)
    monkeypatch.setattr("optuna.storages.journal._file.open", show_open, raising=False)
    monkeypatch.setattr(pathlib.Path, "read_bytes", show)
    monkeypatch.setattr(pathlib.Path, "read_text", show_text)
    return lambda path, content=None: remembered.update({path: content or read_bytes(path)})


@pytest.fixture
def untold(monkeypatch):
    """Show a file's size and time, or that there is none, as when this was told of it, as NFS does.

    Until the file is opened, or the folder that it is in: NFS then asks what is there.
    """
    remembered: dict[pathlib.Path, os.stat_result | None] = {}
    stat, open_file = os.stat, os.open

    def show(path, **options):
        found = remembered.get(pathlib.Path(os.fspath(path)), ...)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return stat(path, **options) if found is ... else found

    def ask(path, *arguments, **options):
        opened = pathlib.Path(os.fspath(path))
        for known in [known for known in remembered if opened in (known, known.parent)]:
            del remembered[known]
        return open_file(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", show)
    monkeypatch.setattr(os, "open", ask)
    return lambda path: remembered.update({path: stat(path) if path.exists() else None})


def queue(folder):
    registry.record(folder, Status.PENDING, config={})
    registry.record(folder, Status.QUEUED)


def write_from_elsewhere(folder, *statuses):
    line = '{{"time": "2026-01-02T03:04:05+00:00", "status": "{}"}}\n'
    with open(folder / EVENTS_FILE, "a") as file:
        file.writelines(map(line.format, statuses))


def test_who_claims_a_trial_sees_what_another_machine_wrote_a_moment_ago(tmp_path, remembering):
    queue(tmp_path)
    remembering(tmp_path / EVENTS_FILE)
    write_from_elsewhere(tmp_path, "RUNNING", "COMPLETED", "EVALUATED")
    assert registry.read(tmp_path).status is Status.QUEUED

    with registry.claimed(tmp_path) as record:
        assert record is not None
        assert record.status is Status.EVALUATED
    assert [path.name for path in tmp_path.iterdir()] == [EVENTS_FILE]


def test_trial_that_another_machine_ended_a_moment_ago_is_not_run_again(tmp_path, remembering):
    queue(tmp_path)
    remembering(tmp_path / EVENTS_FILE)
    write_from_elsewhere(tmp_path, "RUNNING", "COMPLETED", "EVALUATED")

    runtime = TrialConfig(task="pendulum-spin", seed=1, epochs=4).runtime
    with pytest.raises(RunningElsewhereError, match="EVALUATED in another process"):
        Hold(tmp_path, runtime)


def test_trials_that_another_machine_just_added_to_a_sweep_stay_in_it(tmp_path, remembering):
    first, second, third = ([trial] for trial in TRIALS[:3])
    folder = tables.open_sweep(planning.make(sweep, "tiny", first, tmp_path), "python tiny.py")
    remembering(folder / SWEEP_FILE)
    described = json.loads((folder / SWEEP_FILE).read_text())
    described["trials"].append(second[0].fingerprint)
    with replacing(folder / SWEEP_FILE) as draft:
        draft.write_text(json.dumps(described))

    tables.open_sweep(planning.make(sweep, "tiny", third, tmp_path), "python tiny.py")
    names = {trial.fingerprint for trial in (*first, *second, *third)}
    assert set(read_sweep(folder)["trials"]) == names


def test_search_goes_on_with_what_another_machine_just_told_its_study(tmp_path, remembering):
    space = read_space({"policy.num_substeps": [1, 2, 3]})
    told = study.open_study(tmp_path, "pendulum-spin", {}, 1)
    journal = tmp_path / study.JOURNAL_FILE
    before = journal.read_bytes()
    told.tell(told.ask(space), 7.0)
    remembering(journal, before)

    assert len(study.open_study(tmp_path, "pendulum-spin", {}, 1).get_trials()) == 1


def test_trial_that_another_machine_ended_is_done_as_soon_as_its_claim_is_gone(tmp_path, untold):
    queue(folder := folder_of(tmp_path, 0))
    registry.record(folder, Status.RUNNING)
    assert states_of(tmp_path, list_trials(tmp_path, [folder.name])) == {folder.name: "stopped"}
    untold(folder / EVENTS_FILE)
    write_from_elsewhere(folder, "COMPLETED", "EVALUATED")

    seen = list_trials(tmp_path, [folder.name])
    assert seen[folder.name].status == Status.RUNNING
    assert states_of(tmp_path, seen) == {folder.name: "done"}


def test_watch_of_a_sweep_whose_last_trial_just_ended_elsewhere_ends_as_done(
    tmp_path, untold, capsys
):
    queue(folder := folder_of(tmp_path, 0))
    registry.record(folder, Status.RUNNING)
    tables.open_sweep(planning.make(sweep, "tiny", TRIALS[:1], tmp_path), "python tiny.py")
    assert list_trials(tmp_path, [folder.name])[folder.name].status == Status.RUNNING
    untold(folder / EVENTS_FILE)
    write_from_elsewhere(folder, "COMPLETED", "EVALUATED")

    code, out, _ = run(capsys, tmp_path, "watch", "tiny")
    assert (code, out.splitlines()[1].split()[:3]) == (0, ["tiny", "1", "1"])


def test_curve_that_another_machine_just_began_and_ended_is_in_the_tables(tmp_path, untold):
    tables.open_sweep(planning.make(sweep, "tiny", TRIALS[:1], tmp_path), "python tiny.py")
    stand_at(tmp_path, 0, Status.QUEUED)
    of_driver = tables.Tables(tmp_path / "tiny")
    untold(folder_of(tmp_path, 0) / CURVE_FILE)
    curve = [{"trial": "t", "epoch": 2, "seconds": 1.0, "return_mean": 7.25}]
    results.write_rows(folder_of(tmp_path, 0) / CURVE_FILE, curve, results.CURVE)
    results.write_rows(folder_of(tmp_path, 0) / EVALUATIONS_FILE, [], results.EVALUATIONS)
    assert len(of_driver.join()["curves"]) == 0

    write_from_elsewhere(folder_of(tmp_path, 0), "RUNNING", "COMPLETED", "EVALUATED")
    assert len(of_driver.join()["curves"]) == 1
    assert not of_driver.newly_left_out()


def test_run_of_a_trial_that_another_machine_just_began_and_ended_is_kept(tmp_path, untold):
    untold(tmp_path / CURVE_FILE)
    results.write_rows(tmp_path / CURVE_FILE, [], results.CURVE)
    assert not (tmp_path / CURVE_FILE).exists()
    assert is_behind(tmp_path)


def test_word_of_a_node_that_was_told_to_end_comes_to_the_driver_at_once(
    tmp_path, untold, monkeypatch
):
    monkeypatch.setenv("PWMRAY_ENDED_NODES", f"{tmp_path}/.41.ended.")
    word = tmp_path / ".41.ended.node2"
    untold(word)
    assert not word.exists()
    word.write_bytes(b"")
    assert deaths.was_told_to_end("node2")


@pytest.fixture
def stale_for_a_moment(monkeypatch):
    """Return what makes the handle of any file stale the first two times that it is opened."""
    opened: dict[pathlib.Path, int] = {}

    def first(read):
        def open_or_fail(path, *arguments, **options):
            name = pathlib.Path(os.fspath(path))
            opened[name] = opened.get(name, 0) + 1
            if opened[name] <= 2:
                raise OSError(errno.ESTALE, "Stale file handle")
            return read(path, *arguments, **options)

        return open_or_fail

    def begin():
        monkeypatch.setattr("pwmray.files._POLL_SECONDS", 0.01)
        monkeypatch.setattr("pathlib.Path.open", first(pathlib.Path.open))
        monkeypatch.setattr("pyarrow.OSFile", first(results.pa.OSFile))
        monkeypatch.setattr("pyarrow.memory_map", first(results.pa.memory_map))
        monkeypatch.setattr("pwmray.checkpoint_file.open", first(open), raising=False)

    return begin


def test_file_that_another_machine_replaced_under_a_reader_is_read_again(
    tmp_path, stale_for_a_moment
):
    results.write_table(tmp_path / "a.arrow", results.empty(results.CURVE))
    (tmp_path / EVENTS_FILE).write_bytes(b'{"time": "2026-01-02T03:04:05+00:00"}\n')
    (tmp_path / SWEEP_FILE).write_bytes(b'{"trials": ["a"]}')
    (tmp_path / "checkpoint.pt").write_bytes(b"pwmray-checkpoint-1 00\n")
    (tmp_path / "claim.json").write_bytes(b'{"token": "mine"}')
    write_rows(tmp_path / "reacher-easy.arrow")
    stale_for_a_moment()

    assert len(results.read_table(tmp_path / "a.arrow")) == 0
    assert len(registry.read(tmp_path).events) == 1
    assert read_sweep(tmp_path)["trials"] == ["a"]
    assert read_header(tmp_path / "checkpoint.pt").format == "pwmray-checkpoint-1"
    assert claim.holder(tmp_path / "claim.json") == {"token": "mine"}
    assert open_store(tmp_path / "reacher-easy.arrow").num_rows == 12


def test_file_whose_handle_stays_stale_is_named(tmp_path, monkeypatch):
    def fail(_):
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr("pwmray.files._STALE_SECONDS", 0.0)
    monkeypatch.setattr(pathlib.Path, "read_bytes", fail)
    with pytest.raises(OSError, match="Stale file handle") as caught:
        registry.read(tmp_path)
    assert caught.value.filename == str(tmp_path / EVENTS_FILE)


def test_of_two_that_take_over_one_claim_the_later_has_it(tmp_path, monkeypatch):
    monkeypatch.setattr(claim, "LEASE_SECONDS", 0.3)
    path = tmp_path / "claim.json"
    path.write_text('{"token": "of a machine that is gone", "machine": "another"}')
    os.utime(path, (0, 0))
    assert claim.acquire(path) is None  # watched first
    monkeypatch.setattr(claim, "_is_still", lambda *_: True)

    def take_it_too(_):  # who still saw the dead one, and moved away what was there by then
        path.unlink()
        path.write_text('{"token": "of the later one", "machine": "a third"}')

    with monkeypatch.context() as patched:
        patched.setattr("time.sleep", take_it_too)
        assert claim.acquire(path) is None
    assert claim.holder(path)["token"] == "of the later one"


def test_claim_whose_link_the_server_made_twice_is_ours_by_what_it_says(tmp_path, monkeypatch):
    def make_and_repeat(source, target):  # the number of names is still remembered as one
        shutil.copy(source, target)
        raise FileExistsError(target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "link", make_and_repeat)
        held = claim.acquire(tmp_path / "claim.json")
    assert held is not None
    assert held.is_held
    held.release()
    assert not list(tmp_path.iterdir())


def test_file_that_the_server_put_in_its_place_twice_is_written(tmp_path, monkeypatch):
    path, replace = tmp_path / "file", os.replace

    def put_and_repeat(draft, target):
        replace(draft, target)
        replace(draft, target)

    monkeypatch.setattr(os, "replace", put_and_repeat)
    with replacing(path) as draft:
        draft.write_text("new")
    assert path.read_text() == "new"


def test_draft_that_was_deleted_meanwhile_is_no_success(tmp_path, monkeypatch):
    path, replace = tmp_path / "file", os.replace
    path.write_text("old")

    def replace_what_is_gone(draft, target):
        os.unlink(draft)
        replace(draft, target)

    monkeypatch.setattr(os, "replace", replace_what_is_gone)
    with pytest.raises(FileNotFoundError), replacing(path) as draft:
        draft.write_text("new")
    assert path.read_text() == "old"


def test_quota_that_is_told_when_a_file_is_closed_is_a_full_disk(tmp_path, late_quota):
    """NFS takes what is written and looks at the quota when it sends that to the server."""
    paths = [tmp_path / name for name in KINDS]
    run = [sys.executable, "-c", WRITER, *map(str, paths)]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert done.stdout == "written\n" * len(paths)
    before = [path.read_bytes() for path in paths]
    environment = {**os.environ, "LD_PRELOAD": str(late_quota)}
    done = subprocess.run(run, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.splitlines() == [f"disk full: Disk quota exceeded: {p}" for p in paths]
    assert sorted(os.listdir(tmp_path)) == KINDS
    assert [path.read_bytes() for path in paths] == before


def test_line_that_was_synced_is_written_whatever_closing_its_file_says(tmp_path, monkeypatch):
    close = os.close

    def close_late(descriptor):
        close(descriptor)
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(os, "close", close_late)
    append_lines(tmp_path / "lines", "one\n")
    assert (tmp_path / "lines").read_text() == "one\n"


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_file_system_without_hard_links_is_named_with_what_it_lacks(tmp_path, monkeypatch, code):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(OSError, match="its file system has no hard links") as caught:
        claim.acquire(tmp_path / "claim.json")
    assert caught.value.filename == str(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOTCONN, errno.ENODEV])
def test_data_that_the_storage_does_not_give_is_not_called_broken(tmp_path, monkeypatch, code):
    path = write_rows(tmp_path / "reacher-easy.arrow").path

    def fail(_):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr("pyarrow.memory_map", fail)
        with pytest.raises(OSError, match=os.strerror(code)) as caught:
            open_store(path)
    assert caught.value.filename == str(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(BrokenDataError, match="is broken: it is not a complete Arrow file"):
        open_store(path)


@pytest.mark.parametrize(
    "code",
    [
        errno.ENOTCONN,  # the process of a FUSE mount, such as GlusterFS's, died
        errno.ESHUTDOWN,  # Lustre evicted the client
        errno.ETIMEDOUT,
        errno.EREMOTEIO,
        errno.ECOMM,  # BeeGFS
    ],
)
def test_storage_that_went_away_is_no_bad_config(code):
    assert of_exception(OSError(code, os.strerror(code))) is Failure.NODE_LOST
