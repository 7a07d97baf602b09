"""A disk that fills up under a trial, and under a whole sweep: on a real small file system."""

import contextlib
import errno
import subprocess
import threading
from types import SimpleNamespace

import pytest

from pwmray import registry, results, room
from pwmray.agent import load_agent
from pwmray.registry import BEST_FILE, CHECKPOINT_FILE, Status
from tests import small_disk
from tests.gated import FIRST_ROW, open_gate, start_gated, wait_for_gate
from tests.made_trials import (
    CPU,
    ask_for,
    curve_of,
    leave_after_a_row,
    make_config,
    open_trial,
    run_to_the_end,
)
from tests.started_sweeps import curves, start, trial_statuses
from tests.waiting import wait_for

MEGABYTE = 1 << 20
pytestmark = pytest.mark.usefixtures("short_episodes")


@pytest.fixture
def disk(tmp_path):
    folder = tmp_path / "disk"
    small_disk.mount(folder, 4 * MEGABYTE)
    yield folder
    small_disk.unmount(folder)


def temporary_files(folder):
    return [path.name for path in folder.rglob("*") if path.name.endswith(".tmp")]


def undisturbed_curve(folder, data):
    config = make_config()
    ask_for(config, folder)
    run_to_the_end(open_trial(config, folder, data))
    return curve_of(folder).drop_columns(["trial"])


def test_event_that_does_not_fit_leaves_the_record_as_it_was(disk):
    registry.record(disk / "trial", Status.PENDING)
    before = (disk / "trial" / "events.jsonl").read_bytes()
    filler = small_disk.fill(disk)
    with pytest.raises(OSError, match="No space left on device"):
        registry.record(disk / "trial", Status.QUEUED, text="x" * MEGABYTE)
    assert (disk / "trial" / "events.jsonl").read_bytes() == before
    filler.unlink()
    registry.record(disk / "trial", Status.QUEUED)
    assert registry.read(disk / "trial").status is Status.QUEUED


def test_table_that_does_not_fit_says_that_the_disk_is_full(disk):
    small_disk.fill(disk)
    rows = [{"trial": "x" * 1000, "epoch": i} for i in range(1000)]
    with pytest.raises(OSError) as caught:
        results.write_rows(disk / "curve.arrow", rows, results.CURVE)
    assert room.is_disk_full(caught.value)
    assert [path.name for path in disk.iterdir()] == ["filler"]


def test_wait_for_room_tells_of_itself_every_five_seconds_and_ends_at_its_limit(
    tmp_path, monkeypatch, caplog
):
    now, told = [0.0], []
    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=lambda s: now.append(now.pop() + s))
    monkeypatch.setattr(room, "time", clock)

    def write():
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        room.with_room(write, tmp_path, 12.0, lambda: told.append(now[0]))
    assert (told, now) == ([0.0, 5.0, 10.0], [12.0])
    assert caplog.messages == [f"disk full: waiting up to 12 s for room in {tmp_path}"]


def test_deleted_folder_is_no_unmounted_disk(tmp_path):
    (tmp_path / "folder").mkdir()
    mount = room.Mount(tmp_path / "folder")
    (tmp_path / "folder").rmdir()
    assert not mount.is_gone


def test_disk_that_is_mounted_anew_is_not_gone(disk, tmp_path):
    mount = room.Mount(disk)
    small_disk.unmount(disk)
    assert mount.is_gone
    disk.rmdir()
    small_disk.mount(tmp_path / "other", MEGABYTE)  # which may get the number that was its own
    try:
        small_disk.mount(disk, MEGABYTE)
        assert not mount.is_gone
    finally:
        small_disk.unmount(tmp_path / "other")


def test_training_pauses_on_a_full_disk_and_goes_on_when_there_is_room(
    disk, tmp_path, data, monkeypatch, caplog
):
    monkeypatch.setattr(room, "_POLL_SECONDS", 0.05)
    config = make_config()
    ask_for(config, disk / "trial")
    trial = open_trial(config, disk / "trial", data)
    trial.advance()
    filler = small_disk.fill(disk)
    thread = threading.Thread(target=trial.advance)
    thread.start()
    wait_for(lambda: "disk full: waiting up to 1800 s for room" in caplog.text)
    assert thread.is_alive()
    assert curve_of(disk / "trial")["epoch"].to_pylist() == [2]

    filler.unlink()
    thread.join(timeout=60)
    run_to_the_end(trial)

    whole = undisturbed_curve(tmp_path / "whole", data)
    assert curve_of(disk / "trial").drop_columns(["trial"]) == whole
    assert temporary_files(disk) == []


def test_trial_that_finds_no_room_stops_with_its_last_good_checkpoint(disk, tmp_path, data):
    config = make_config(**{"runtime.disk_wait_seconds": 0.0})
    folder = disk / "trial"
    ask_for(config, folder)
    trial = open_trial(config, folder, data)
    trial.advance()
    before = (folder / CHECKPOINT_FILE).read_bytes()
    filler = small_disk.fill(disk, spare=4096)  # enough for an event, too little for a curve
    with pytest.raises(OSError, match="No space left"):
        trial.advance()
    trial.close()
    assert (folder / CHECKPOINT_FILE).read_bytes() == before
    record = registry.read(folder)
    assert (record.status, record.last("failure")) == (Status.FAILED, "disk full")
    assert temporary_files(disk) == []

    filler.unlink()
    registry.record(folder, Status.QUEUED)
    run_to_the_end(open_trial(config, folder, data))
    assert curve_of(folder).drop_columns(["trial"]) == undisturbed_curve(tmp_path / "whole", data)


def test_best_checkpoint_is_that_of_the_highest_return(tmp_path, data):
    config = make_config(epochs=12)
    ask_for(config, tmp_path)
    run_to_the_end(open_trial(config, tmp_path, data))
    rows = curve_of(tmp_path).to_pylist()
    best = max(rows, key=lambda row: row["return_mean"])
    assert load_agent(tmp_path / BEST_FILE, CPU).epochs_reached == best["epoch"]
    assert load_agent(tmp_path / CHECKPOINT_FILE, CPU).epochs_reached == 12


def test_best_checkpoint_is_known_again_after_a_kill(tmp_path, data):
    config = leave_after_a_row(tmp_path, data)
    (tmp_path / BEST_FILE).unlink()  # killed between the checkpoint and its second name
    open_trial(config, tmp_path, data).close()
    assert (tmp_path / BEST_FILE).read_bytes() == (tmp_path / CHECKPOINT_FILE).read_bytes()


def test_trial_clears_what_a_kill_left_half_written(tmp_path, data):
    config = make_config()
    ask_for(config, tmp_path)
    (tmp_path / ".checkpoint.pt.0123abcd.tmp").write_bytes(b"half")
    open_trial(config, tmp_path, data).close()
    assert temporary_files(tmp_path) == []


def options_of(disk, scale):
    return ["--scale", scale, "--results", str(disk), "--limit", "4"]


@contextlib.contextmanager
def filled_after_a_row(folder, disk, scale, undisturbed):
    """Give a sweep whose disk is full from its first row on, and what fills it."""
    process = start_gated(folder, FIRST_ROW, "tiny", *options_of(disk, scale))
    assert (wait_for_gate(folder, process) / CHECKPOINT_FILE).exists()
    filler = small_disk.fill(disk)
    open_gate(folder)
    yield process, filler
    assert trial_statuses(folder, "disk") == ["EVALUATED"] * 4
    assert temporary_files(disk) == []
    assert curves(folder, "disk") == undisturbed


@pytest.mark.slow
def test_sweep_pauses_on_a_full_disk_and_goes_on_when_there_is_room(disk, tmp_path, undisturbed):
    with filled_after_a_row(tmp_path, disk, "tiny", undisturbed) as (process, filler):
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=20)
        filler.unlink()
        out, err = process.communicate(timeout=400)
        assert process.returncode == 0, out + err
        assert "Traceback" not in out + err


@pytest.mark.slow
def test_sweep_that_finds_no_room_ends_and_goes_on_later(disk, tmp_path, undisturbed):
    with filled_after_a_row(tmp_path, disk, "impatient", undisturbed) as (process, filler):
        out, err = process.communicate(timeout=400)
        assert process.returncode == 1, out + err
        assert "Traceback" not in out + err
        assert "disk full" in out
        filler.unlink()
        start(tmp_path, *options_of(disk, "impatient")).communicate(timeout=400)
