"""A process that stood still and lost its trial to another leaves that one's work alone."""

import contextlib
import dataclasses
import errno
import os
import shutil
from types import SimpleNamespace

import pytest

from pwmray import registry, watchdog
from pwmray import trial as trials
from pwmray.data.collected import ensure_data
from pwmray.envs.vector import make_vector
from pwmray.hold import Hold, RunningElsewhereError, clear_leftovers
from pwmray.registry import Status
from pwmray.trial import Trial
from pwmray.watchdog import STACKS_FILE, Watchdog, has_hung
from tests.claims import leave_claim
from tests.made_trials import CPU, ask_for, make_config, make_environments, open_trial


def take_over(folder):
    """Give the trial's claim to another process; return what that one finds."""
    (folder / registry.CLAIM_FILE).write_text('{"token": "another", "host": "h", "pid": 1}')
    return contents(folder)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class Standstill:
    """Environments in whose given reset the trial is taken over; then they may raise."""

    def __init__(self, folder, at_reset, error):
        self.found, self._folder, self._resets_left = None, folder, at_reset
        self._error = error

    def make(self, task, num_episodes):
        self._environments = make_environments(task, num_episodes)
        self.num_envs = num_episodes
        return self

    def reset(self, *, seed):
        self._resets_left -= 1
        if self._resets_left == 0:
            self.found = take_over(self._folder)
            if self._error is not None:
                raise self._error
        return self._environments.reset(seed=seed)

    def step(self, actions):
        return self._environments.step(actions)


@pytest.mark.parametrize("error", [None, ValueError("the other one's draft is gone")])
@pytest.mark.parametrize("piece", [1, 2, 3], ids=["first row", "last row", "evaluation"])
def test_trial_taken_over_inside_a_piece_writes_nothing_more(piece, error, tmp_path, data):
    config = make_config("baseline", epochs=4)
    ask_for(config, tmp_path)
    environments = Standstill(tmp_path, piece, error)
    trial = Trial(config, tmp_path, data, environments.make, CPU)
    for _ in range(piece - 1):
        trial.advance()
    with pytest.raises(RunningElsewhereError, match="taken over by process 1 on h"):
        trial.advance()
    trial.close()
    assert contents(tmp_path) == environments.found


def test_trial_that_another_process_brought_to_its_end_is_left_there(tmp_path, data):
    config = make_config("baseline", epochs=2)
    ask_for(config, tmp_path)
    trial = open_trial(config, tmp_path, data)
    trial.advance()
    (tmp_path / registry.CLAIM_FILE).unlink()
    registry.record(tmp_path, Status.EVALUATED)
    before = contents(tmp_path)
    with pytest.raises(RunningElsewhereError, match="EVALUATED in another process"):
        trial.advance()
    trial.close()
    assert contents(tmp_path) == before


@pytest.mark.parametrize("is_readable", [True, False], ids=["other data", "no data"])
def test_trial_taken_over_while_it_opens_deletes_and_records_nothing(
    is_readable, tmp_path, data, monkeypatch
):
    config, folder = make_config("baseline"), tmp_path / "trial"
    ask_for(config, folder)
    trial = open_trial(config, folder, data)
    trial.advance()
    trial.close()
    other = dataclasses.replace(config.data, seed=1)
    other = ensure_data(config.task, other, tmp_path / "data", make_vector)
    found = {}

    def open_slowly(path, task):
        store = open_store(path, task=task)
        found.update(take_over(folder))
        if not is_readable:
            raise ValueError("the file went away")
        return store

    open_store = trials.open_store
    monkeypatch.setattr(trials, "open_store", open_slowly)
    with pytest.raises(RunningElsewhereError):
        open_trial(config, folder, other)
    assert contents(folder) == found


def test_trial_taken_over_while_it_waits_for_room_does_not_write(tmp_path, monkeypatch):
    config = make_config()
    ask_for(config, tmp_path)
    hold = Hold(tmp_path, config.runtime)
    attempts = []

    def write():
        attempts.append(1)
        if len(attempts) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pwmray.room.time.sleep", lambda _: take_over(tmp_path))
    with pytest.raises(RunningElsewhereError):
        hold.write(write)
    hold.close()
    assert attempts == [1]


def test_watchdog_of_who_lost_the_trial_writes_not_into_that_of_who_has_it(tmp_path):
    path = tmp_path / STACKS_FILE
    with open(path, "w") as of_who_lost_it:
        lost = Watchdog(path, 60.0)
        of_who_lost_it.write("Timeout (0:00:30)!")
        of_who_lost_it.flush()
        assert not has_hung(tmp_path)
        lost.close()


def test_trial_whose_folder_was_deleted_is_none_to_run(tmp_path, data):
    config = make_config()
    with pytest.raises(RunningElsewhereError, match="its folder was deleted"):
        open_trial(config, tmp_path / "trial", data)
    ask_for(config, tmp_path / "trial")
    trial = open_trial(config, tmp_path / "trial", data)
    shutil.rmtree(tmp_path / "trial")
    with pytest.raises(RunningElsewhereError, match="its folder was deleted"):
        trial.advance()
    trial.close()
    assert not (tmp_path / "trial").exists()


def test_trial_whose_record_was_cut_to_before_it_was_queued_is_none_to_run(tmp_path, data):
    config, folder = make_config(), tmp_path / "trial"
    ask_for(config, folder)
    events = folder / registry.EVENTS_FILE
    events.write_text(events.read_text().splitlines(keepends=True)[0])
    with pytest.raises(RunningElsewhereError, match="its record was cut"):
        open_trial(config, folder, data)
    assert [event["status"] for event in registry.read(folder).events] == ["PENDING"]


def test_trial_that_is_none_to_run_is_given_back_at_once(tmp_path):
    config = make_config()
    for status in (Status.PENDING, Status.QUEUED, Status.RUNNING, Status.COMPLETED):
        registry.record(tmp_path, status, config=config.to_dict())
    registry.record(tmp_path, Status.EVALUATED)
    with pytest.raises(RunningElsewhereError, match="EVALUATED in another process"):
        Hold(tmp_path, config.runtime)
    assert registry.running_elsewhere(tmp_path) is None


def test_trial_whose_taker_is_gone_too_is_said_to_be_a_gone_processs(tmp_path):
    config = make_config()
    ask_for(config, tmp_path)
    hold = Hold(tmp_path, config.runtime)
    (tmp_path / registry.CLAIM_FILE).unlink()
    with pytest.raises(RunningElsewhereError, match=r"^taken over by a process that is gone$"):
        hold.check()
    hold.close()


def test_trial_hangs_after_the_minutes_that_its_config_says(tmp_path, monkeypatch):
    config, limits = make_config(**{"runtime.hang_minutes": 2.0}), []
    ask_for(config, tmp_path)
    python = SimpleNamespace(
        dump_traceback_later=lambda limit, **_: limits.append(limit),
        cancel_dump_traceback_later=lambda: None,
    )
    monkeypatch.setattr(watchdog, "faulthandler", python)
    with contextlib.closing(Hold(tmp_path, config.runtime)) as hold, hold.watchdog:
        assert limits == [120.0]


def test_failure_with_a_very_long_message_is_told_by_its_beginning_and_its_tracebacks_end(tmp_path):
    config = make_config()
    ask_for(config, tmp_path)
    with contextlib.closing(Hold(tmp_path, config.runtime)) as hold:
        assert hold.record_failure(ValueError("first " + "long " * 2000 + "last"), 7)
    record = registry.read(tmp_path)
    reason, told = record.last("reason"), record.last("traceback")
    assert (record.status, record.last("epochs_reached")) == (Status.FAILED, 7)
    assert reason.startswith("ValueError: first long ") and len(reason) == 2000
    assert told.endswith("long last\n") and len(told) == 4000


def test_failure_is_told_without_its_traceback_where_a_full_disk_takes_no_more(
    tmp_path, monkeypatch
):
    config, record = make_config(), registry.record
    ask_for(config, tmp_path)

    def record_short_lines(folder, status, **fields):
        if "traceback" in fields:
            raise OSError(errno.ENOSPC, "No space left on device")
        record(folder, status, **fields)

    monkeypatch.setattr(registry, "record", record_short_lines)
    with contextlib.closing(Hold(tmp_path, config.runtime)) as hold:
        assert hold.record_failure(ValueError("too long"), 7)
    found = registry.read(tmp_path)
    assert (found.status, found.last("reason")) == (Status.FAILED, "ValueError: too long")


@pytest.mark.parametrize(
    ("is_evaluated", "is_held", "left"),
    [(True, False, False), (False, False, True), (True, True, True)],
)
def test_drafts_of_a_process_killed_at_the_end_of_its_trial_are_deleted(
    is_evaluated, is_held, left, tmp_path
):
    draft = tmp_path / ".curve.arrow.1.tmp"
    ask_for(make_config(), tmp_path)
    if is_evaluated:
        for status in (Status.RUNNING, Status.COMPLETED, Status.EVALUATED):
            registry.record(tmp_path, status)
    draft.touch()
    if is_held:
        leave_claim(tmp_path / registry.CLAIM_FILE, os.getppid())
    clear_leftovers(tmp_path)
    assert draft.exists() == left
