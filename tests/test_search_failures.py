"""What becomes of a search's trials that fail, and of folders that cannot be written."""

import contextlib
import errno
import functools
import shutil
import traceback
from pathlib import Path
from types import SimpleNamespace

import pytest
from optuna.trial import TrialState
from ray.tune.error import TuneError

from pwmray import deaths, registry, room
from pwmray.commands import TRIALS_FAILED, run_command
from pwmray.driver import connect, interruption, retries
from pwmray.driver.notify import Notices
from pwmray.driver.tune_callbacks import StopEarly, unwrapped
from pwmray.failures import Failure
from pwmray.files import append_lines
from pwmray.registry import CLAIM_FILE, EVENTS_FILE, Status, claim
from pwmray.search import run as search_run
from pwmray.search import study
from pwmray.search import trials as search_trials
from pwmray.search.plan_text import as_table
from pwmray.search.study import FINGERPRINT
from pwmray.tracking.recording import Mode
from pwmray.trainable import NOT_SEEN_ON
from tests import small_disk
from tests.claims import do_not_watch, leave_claim, set_age
from tests.studies import (
    TASK,
    advance,
    decide_to_stop,
    evaluate,
    fail,
    make_plan,
    open_trials,
)

pytestmark = pytest.mark.usefixtures("short_episodes", "one_machine")


@pytest.fixture
def lock(monkeypatch):
    """Return a function after which nothing in a folder can be written, as it looks from here."""

    def lock(folder):
        acquire, append = claim.acquire, registry.append_lines

        def refuse(write, path, *arguments, **options):
            if path.parent == folder:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return write(path, *arguments, **options)

        monkeypatch.setattr(claim, "acquire", functools.partial(refuse, acquire))
        monkeypatch.setattr(registry, "append_lines", functools.partial(refuse, append))

    return lock


def test_trial_whose_folder_cannot_be_written_any_more_ends_no_search(
    tmp_path, data, lock, monkeypatch, capsys
):
    trials = open_trials(tmp_path, data, number=3)
    locked, other = (Path(trials.next(name)["grid"]["folder"]) for name in "ab")
    lock(locked)
    trials.die("a", "The actor died unexpectedly")
    trials.end("a", None, is_error=True)
    assert trials.next("c") is not None
    assert not trials.wait_for_held(pytest.fail)  # for what nobody can record
    trials.settle("it is looked at before it is dropped")
    monkeypatch.undo()
    out = capsys.readouterr().out
    assert f"claim.json: what became of {locked.name} could not be recorded" in out
    assert "its end is not recorded: the next run takes it up" in out
    assert registry.read(other).status is Status.CANCELLED
    again = open_trials(tmp_path, data, number=3)
    assert again.next("a")["grid"]["folder"] == str(locked)
    lock(other)
    assert again.next("b")["grid"]["folder"] != str(other)


def test_full_disk_ends_a_search_in_one_line(capsys):
    def end_trial():
        try:
            raise OSError(errno.ENOSPC, "No space left on device", "study.journal")
        except OSError:
            raise TuneError(traceback.format_exc())  # noqa: B904 (as Tune does)

    def search():
        with unwrapped(StopEarly()):
            end_trial()

    assert run_command(search) == 2
    assert capsys.readouterr().err == "error: No space left on device: study.journal\n"
    with pytest.raises(TuneError), unwrapped(StopEarly()):
        raise TuneError("its own")


def test_search_that_is_to_go_on_says_so_where_the_disk_is_full(tmp_path, monkeypatch, capsys):
    def find_no_room(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def work(plan, begin, data_dir, engine, opened, asked):
        opened.append(SimpleNamespace(settle=find_no_room))
        return interruption.GO_ON, interruption.PREEMPTED

    monkeypatch.setattr(search_run, "_work", work)
    monkeypatch.setattr(search_run, "write_tables", find_no_room)
    plan, asked = make_plan(tmp_path), interruption.Interruption()
    plan.folder.mkdir()
    code = search_run._run_tasks(plan, None, tmp_path, None, 0.0, asked)
    assert search_run._say_the_end(plan, code, "python search.py", Notices("tiny", None)) == 75
    out = capsys.readouterr().out
    assert out.count(f"disk full: the tables in {plan.folder} are behind") == 2
    assert out.endswith("go on with: python search.py\n")


def test_search_that_is_asked_to_stop_waits_for_no_room(data, tmp_path, monkeypatch):
    def run_tasks(plan, begin, data_dir, address, patience_seconds, asked):
        asked.reason = interruption.PREEMPTED
        found.append(begin(TASK, data, {"CPU": 1.0})._room.ends_well(10**18, 60.0))

    found = []
    monkeypatch.setattr(search_run, "_run_tasks", run_tasks)
    monkeypatch.setattr(retries, "time", SimpleNamespace(monotonic=lambda: 0.0, sleep=pytest.fail))
    search_run.run(make_plan(tmp_path), tmp_path, None, "python search.py", Mode.OFF)
    assert found == [False]


@pytest.mark.parametrize("file", [EVENTS_FILE, study.JOURNAL_FILE])
def test_search_that_is_asked_to_stop_waits_with_no_write_of_its_own(
    file, data, tmp_path, monkeypatch
):
    asked = interruption.Interruption()
    trials = open_trials(tmp_path, data, may_go_on=asked.may_go_on)
    monkeypatch.setattr(room, "time", SimpleNamespace(monotonic=lambda: 0.0, sleep=pytest.fail))

    def find_no_room(path, lines):
        if path.name == file:
            asked.reason = interruption.PREEMPTED
            raise OSError(errno.ENOSPC, "No space left on device")
        append_lines(path, lines)

    for writer in (registry, study):
        monkeypatch.setattr(writer, "append_lines", find_no_room)
    raised = pytest.raises(interruption.AskedToStopError, match="asked to stop while the disk was")
    with raised, unwrapped(StopEarly()):
        try:
            trials.next("a")
        except interruption.AskedToStopError:
            raise TuneError("a traceback")  # noqa: B904


@pytest.mark.parametrize(("num_done", "code"), [(1, 0), (0, TRIALS_FAILED)])
def test_end_of_a_search_tells_what_came_of_it(num_done, code, data, tmp_path, monkeypatch, capsys):
    def search_task(begin, config, engine, opened, asked):
        opened.append(begin(offered={"CPU": 1.0}))
        for name in "ab"[:num_done]:
            evaluate(Path(opened[0].next(name)["grid"]["folder"]))
            opened[0].end(name, None, is_error=False)
        for name in "ab"[num_done:]:
            fail(opened[0], name, reason="it diverged", failure=Failure.NON_FINITE)
        return opened[0]

    told = []
    monkeypatch.setattr(Notices, "_send", lambda self, fields: told.append(fields))
    monkeypatch.setattr(search_run, "make_data", lambda wanted, *_: dict.fromkeys(wanted, data))
    monkeypatch.setattr(search_run, "_search_task", search_task)
    plan = make_plan(tmp_path, number=2)
    assert search_run.run(plan, tmp_path, None, "python search.py", Mode.OFF) == code
    counts = {"done": num_done, "failed": 2 - num_done, "left": 0}
    assert [{key: fields[key] for key in counts} for fields in told] == [counts]
    assert f"{TASK}: tiny_search, the best first\n" in capsys.readouterr().out


def test_search_whose_tables_cannot_be_written_for_another_reason_says_that(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(search_run, "write_tables", fail)
    with pytest.raises(OSError, match="Input/output error"):
        search_run._say_the_end(make_plan(tmp_path), 0, "python search.py", Notices("tiny", None))


@pytest.mark.parametrize("is_gone", [True, False])
def test_file_that_went_with_ray_is_no_error_of_the_persons(is_gone, tmp_path, monkeypatch):
    monkeypatch.setenv("PWMRAY_ENDED_NODES", f"{tmp_path}/ended.")
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    monkeypatch.setattr(connect, "is_connected", lambda: True)
    (tmp_path / f"ended.n{1 if is_gone else 2}").touch()
    stopper = StopEarly()
    raised = contextlib.nullcontext() if is_gone else pytest.raises(FileNotFoundError)
    with raised, unwrapped(stopper):
        try:
            (tmp_path / "error.pkl").read_bytes()
        except FileNotFoundError:
            raise TuneError("a traceback")  # noqa: B904
    assert stopper.is_ray_lost == is_gone


def test_search_says_once_what_its_trials_run_without(tmp_path, data, capsys):
    trials = open_trials(tmp_path, data)
    scheduler = search_run._StudyScheduler(trials, interruption.Interruption())
    capsys.readouterr()
    for name in ("a", "b"):
        grid = trials.next(name)["grid"]
        how = {"cuda_graph": "off: CUDA out of memory", "kernels": "on", "host": "n1"}
        registry.record(Path(grid["folder"]), Status.RUNNING, **how)
        for epoch in (2, 4):
            of_tune = SimpleNamespace(trial_id=name, config={"grid": grid})
            scheduler.on_trial_result(None, of_tune, {"epoch": epoch, "return_mean": 1.0})
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("cuda_graph off: CUDA out of memory (first seen: tiny_search ")
    assert line.endswith(" trial 1 on n1)")


def test_trials_in_whose_beginning_or_end_a_signal_came_are_settled(tmp_path, data, monkeypatch):
    def queue(*arguments, **fields):
        before(*arguments, **fields)
        raise interruption.TerminatedError

    def wait_for_death(folders):
        raise interruption.TerminatedError

    before = registry.queue
    trials = open_trials(tmp_path, data)
    registry.record(Path(trials.next("a")["grid"]["folder"]), Status.RUNNING)
    with monkeypatch.context() as patched, pytest.raises(interruption.TerminatedError):
        patched.setattr(deaths, "wait_for_death", wait_for_death)
        trials.end("a", None, is_error=True)
    with monkeypatch.context() as patched, pytest.raises(interruption.TerminatedError):
        patched.setattr(registry, "queue", queue)
        trials.next("b")
    trials.settle()
    folders = list((tmp_path / "trials").iterdir())
    assert [registry.read(folder).status for folder in folders] == [Status.CANCELLED] * 2


def test_trial_stopped_early_that_another_process_runs_since_is_left_to_it(tmp_path, data):
    trials = open_trials(tmp_path, data, number=2)
    folder = decide_to_stop(trials, "a")
    with claim.acquire(folder / CLAIM_FILE):  # of a sweep; the search was killed
        again = open_trials(tmp_path, data, number=2)
    assert registry.read(folder).status is Status.RUNNING
    assert [trial.state for trial in again.study.get_trials()] == [TrialState.RUNNING]
    again = open_trials(tmp_path, data, number=2)
    assert registry.read(folder).is_stopped_early
    assert [trial.state for trial in again.study.get_trials()] == [TrialState.PRUNED]


def test_trial_stopped_early_is_recorded_once_its_folder_can_be_written(
    tmp_path, data, lock, monkeypatch
):
    trials = open_trials(tmp_path, data, number=2)
    folder = decide_to_stop(trials, "a")
    lock(folder)
    trials.end("a", {"epoch": 2}, is_error=False)
    monkeypatch.undo()
    again = open_trials(tmp_path, data, number=2)
    assert [trial.state for trial in again.study.get_trials()] == [TrialState.PRUNED]
    assert registry.read(folder).is_stopped_early


def test_failed_trial_is_told_with_its_reason(tmp_path, data, capsys):
    trials = open_trials(tmp_path, data, number=1)
    fail(trials, "a", reason="the loss is nan", failure="non-finite")
    assert trials.study.get_trials()[0].state is TrialState.FAIL
    assert "1 of 1: failed: the loss is nan\n" in capsys.readouterr().out
    assert trials.next("b") is None
    assert trials.is_over


def test_outcomes_are_counted_in_one_order_whatever_came_first(tmp_path, data):
    trials = open_trials(tmp_path, data, number=2)
    fail(trials, "a", reason="TypeError", failure="code")
    advance(trials, "b", data)
    assert "pendulum-spin: 1 done, 1 failed\n" in as_table(make_plan(tmp_path, 2))


def test_what_failed_is_tried_again_when_a_person_starts_the_search(tmp_path, data, monkeypatch):
    grid = fail(open_trials(tmp_path, data, number=1), "a", reason="TypeError", failure="code")
    plan = make_plan(tmp_path, 1)
    assert plan.num_left(plan.studies()[TASK]) == 1
    assert "1 failed" in as_table(plan)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert open_trials(tmp_path, data, number=1).next("b") is None
    monkeypatch.delenv("SLURM_RESTART_COUNT")
    again = open_trials(tmp_path, data, number=1)
    assert advance(again, "c", data) == grid[FINGERPRINT]
    assert again.next("d") is None
    assert plan.num_left(plan.studies()[TASK]) == 0
    assert "pendulum-spin: 1 done\n" in as_table(plan)
    assert "confirm it in a sweep, with seeds other than 1" in as_table(plan)


def test_trial_whose_record_cannot_be_read_is_named_and_the_search_goes_on(tmp_path, data, capsys):
    broken = Path(open_trials(tmp_path, data, number=2).next("a")["grid"]["folder"])
    (broken / EVENTS_FILE).write_text("{\n")
    plan = make_plan(tmp_path, 2)
    assert search_run._set_right(plan, plan.studies()) == []
    trials = open_trials(tmp_path, data, number=2)
    assert advance(trials, "b", data) not in (None, broken.name)
    assert trials.next("c") is None
    said = f"left out, for {broken / EVENTS_FILE} line 1 is not an event"
    assert capsys.readouterr().out.count(said) == 1
    assert plan.num_left(plan.studies()[TASK]) == 1  # once somebody has mended it


def test_failures_of_a_search_are_told_each_once(tmp_path, data):
    notices = Notices("tiny_search", None)
    told = []
    notices.failures = lambda *said: told.append(said)
    trials = open_trials(tmp_path, data, number=2, tell_failure=notices.failure)
    for number in range(3):  # the first two are not its end
        fail(trials, f"{number}")
    fail(trials, "a", reason="the loss is nan", failure="non-finite")
    assert [number for number, _, _ in told] == [1, 2]
    assert told[0][1].startswith("its process died")
    assert told[1][1:] == ("the loss is nan", "tiny_search pendulum-spin 2 of 2")


def test_trial_whose_process_died_runs_again_until_it_had_its_retries(tmp_path, data, capsys):
    trials = open_trials(tmp_path, data, number=1)
    folders = set()
    for number in range(3):
        grid = fail(trials, f"{number}")
        folders.add(grid["folder"])
        said = capsys.readouterr().out
        assert "1 of 1: failed: its process died" in said
        assert ("it runs again" in said) == (number < 2)
    (folder,) = map(Path, folders)
    assert registry.read(folder).all("retry") == ["process died"] * 2
    assert [trial.state for trial in trials.study.get_trials()] == [TrialState.FAIL]


def test_trial_that_runs_again_goes_on_and_is_told_of_once(tmp_path, data):
    trials = open_trials(tmp_path, data, number=1)
    first = advance(trials, "a", data, until=4)
    trials.die("a", "The actor died unexpectedly")
    trials.end("a", None, is_error=True)
    assert advance(trials, "b", data) == first
    record = registry.read(registry.trial_folder(tmp_path, first))
    assert record.all("epoch") == [0, 4]
    (trial,) = trials.study.get_trials()
    assert (trial.state, trial.value) == (TrialState.COMPLETE, record.last("return_mean"))


def test_trial_whose_dead_process_still_holds_it_is_left_to_the_next_run(
    tmp_path, data, monkeypatch, capsys
):
    monkeypatch.setattr(deaths, "_DYING_SECONDS", 0.1)
    trials = open_trials(tmp_path, data, number=1)
    folder = Path(trials.next("a")["grid"]["folder"])
    registry.record(folder, Status.RUNNING)
    with claim.acquire(folder / CLAIM_FILE):
        trials.die("a", "The node has died")
        trials.end("a", None, is_error=True)
        assert trials.next("b") is None
    assert "1 of 1: its process died and still holds it" in capsys.readouterr().out
    assert trials.study.get_trials()[0].state is TrialState.RUNNING
    assert open_trials(tmp_path, data, number=1).next("c")["grid"]["folder"] == str(folder)


def lose(trials, name):
    """Begin the next trial on a machine that is lost, its claim with it; return its folder."""
    folder = Path(trials.next(name)["grid"]["folder"])
    registry.record(folder, Status.RUNNING)
    leave_claim(folder / CLAIM_FILE, 4711, host="n9")
    trials.die(name, "The node has died")
    trials.end(name, None, is_error=True)
    return folder


def test_trial_of_a_lost_machine_runs_again_when_its_claim_is_free(
    tmp_path, data, monkeypatch, capsys
):
    do_not_watch(monkeypatch)
    monkeypatch.setattr(deaths, "_DYING_SECONDS", 0.1)
    monkeypatch.setattr(search_trials, "_POLL_SECONDS", 0.01)
    trials = open_trials(tmp_path, data, number=1)
    folder = lose(trials, "a")
    assert trials.next("b") is None
    assert not trials.wait_for_held(lambda: False)
    assert "the next run takes up 1 trial, which" in capsys.readouterr().out
    with monkeypatch.context() as patched:
        patched.setattr(search_trials, "_HELD_SECONDS", 0.0)
        assert not trials.wait_for_held(iter([True]).__next__)  # asked once: its time is over
    assert trials.wait_for_held(lambda: set_age(folder / CLAIM_FILE, 600) is None)
    assert "1 of 1: failed: its process died: node lost; it runs again" in capsys.readouterr().out
    assert trials.next("c")["grid"]["folder"] == str(folder)
    record = registry.read(folder)
    assert (record.last("failure"), record.last("retry")) == ("node lost", "node lost")
    assert not trials.wait_for_held(lambda: True)


def test_trial_of_a_lost_machine_runs_before_new_proposals(tmp_path, data, monkeypatch, capsys):
    do_not_watch(monkeypatch)
    monkeypatch.setattr(deaths, "_DYING_SECONDS", 0.1)
    monkeypatch.setattr(search_trials, "_HELD_LOOK_SECONDS", 0.0)
    trials = open_trials(tmp_path, data, number=4)
    lost = lose(trials, "a")
    assert trials.next("b")["grid"]["folder"] != str(lost)
    set_age(lost / CLAIM_FILE, 600)
    assert trials.next("c")["grid"]["folder"] != str(lost)  # from now on its claim is watched
    assert trials.next("d")["grid"]["folder"] == str(lost)
    assert "1 of 4: failed: its process died: node lost; it runs again" in capsys.readouterr().out
    assert not trials.wait_for_held(lambda: True)


def test_return_of_a_trial_that_lived_out_of_reach_counts(tmp_path, data, monkeypatch, capsys):
    monkeypatch.setattr(deaths, "_DYING_SECONDS", 0.1)
    monkeypatch.setattr(search_trials, "_POLL_SECONDS", 0.01)
    trials = open_trials(tmp_path, data, number=1)
    folder = Path(trials.next("a")["grid"]["folder"])
    registry.record(folder, Status.RUNNING)
    with claim.acquire(folder / CLAIM_FILE):
        trials.die("a", "The node has died")
        trials.end("a", None, is_error=True)
        registry.record(folder, Status.COMPLETED)
        registry.record(folder, Status.EVALUATED, return_mean=3.0)
    assert not trials.wait_for_held(lambda: True)
    assert [trial.value for trial in trials.study.get_trials()] == [3.0]
    assert "1 of 1: return 3.0" in capsys.readouterr().out


def test_trial_that_others_wait_for_is_not_the_end_of_a_search(tmp_path, data):
    """It may fail, and then it is to run again."""
    trials = open_trials(tmp_path, data, number=1)
    trials.next("a")
    assert trials.next("b") is None
    assert not trials.is_over


def test_trial_out_of_memory_is_given_twice_its_share(tmp_path, data, monkeypatch):
    monkeypatch.setattr(connect, "largest_machine", lambda: {"CPU": 2, "GPU": 0})
    trials = open_trials(tmp_path, data, number=1)
    grid = fail(trials, "a", reason="out of memory", failure="out of memory")
    assert grid["bundle"] == {"CPU": 1}
    assert trials.next("b")["grid"]["bundle"] == {"CPU": 2}


def test_search_ends_at_a_machine_that_does_not_see_the_results(tmp_path, data):
    trials = open_trials(tmp_path, data)
    for name in "ab":
        assert trials.next(name) is not None
    trials.end("a", {"elsewhere": "its folder was deleted", NOT_SEEN_ON: "n2"}, is_error=False)
    why = f"{tmp_path} is not visible on n2, as it must be on all of Ray's machines"
    assert trials.obstacle == why
    assert trials.next("c") is None
    assert not trials.is_over  # one runs
    assert len(study.unfinished(trials.study)) == 2  # and are taken up by the next run
    trials.settle()
    folders = [trials._folder(config) for config in trials._proposals.asked.values()]
    assert [registry.read(folder).status for folder in folders] == [Status.CANCELLED] * 2


def test_search_whose_disk_stays_full_proposes_nothing_more_and_goes_on_later(
    tmp_path, data, monkeypatch
):
    trials = open_trials(tmp_path, data)
    monkeypatch.setattr(trials._room, "ends_well", lambda num_bytes, limit: False)
    grid = fail(trials, "a", failure="disk full", reason="No space left on device")
    assert trials.next("b") is None
    assert trials.is_over
    assert trials.obstacle.startswith("no trial can run, for the disk stays full: `pwmray prune")
    assert trials.study.get_trials()[0].state is TrialState.RUNNING
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")  # who requeues tries nothing again that failed
    assert open_trials(tmp_path, data).next("c")["grid"]["folder"] == grid["folder"]


def test_search_whose_disk_has_room_again_while_a_trial_runs_goes_on(
    tmp_path, data, monkeypatch, capsys
):
    trials, room = open_trials(tmp_path, data), [False]
    monkeypatch.setattr(trials._room, "ends_well", lambda num_bytes, limit: False)
    monkeypatch.setattr(search_trials, "takes", lambda folder, num_bytes: room[0])
    assert trials.next("a") is not None
    grid = fail(trials, "b", failure="disk full", reason="No space left on device")
    for epoch, has_room in ((2, False), (4, True)):
        room[0] = has_room
        assert trials.next("c") is None
        trials.is_stopped("a", {"epoch": epoch, "return_mean": 1.0})
    again = trials.next("c")["grid"]
    assert (again["folder"], trials.obstacle) == (grid["folder"], None)
    assert registry.read(Path(again["folder"])).all("retry") == ["disk full"]
    assert capsys.readouterr().out.count("the disk has room again") == 1


def test_search_goes_on_after_a_trial_whose_folder_was_deleted(tmp_path, data):
    trials = open_trials(tmp_path, data)
    shutil.rmtree(trials.next("a")["grid"]["folder"])
    trials.end("a", {"elsewhere": "its folder was deleted", NOT_SEEN_ON: "n2"}, is_error=False)
    assert trials.obstacle is None
    assert trials.next("b") is not None


def test_search_goes_on_after_a_trial_whose_disk_was_full_too_often(tmp_path, data):
    trials = open_trials(tmp_path, data)
    for number in range(6):
        fail(trials, f"{number}", failure="disk full", reason="No space left on device")
    assert trials.obstacle is None
    assert trials.study.get_trials()[0].state is TrialState.FAIL
    assert trials.next("b") is not None


def test_search_whose_disk_is_unmounted_begins_nothing_anew_in_its_place(tmp_path, data):
    disk = tmp_path / "disk"
    small_disk.mount(disk, 1 << 20)
    try:
        trials = open_trials(disk, data)
        trials.next("a")
        trials.next("b")
    finally:
        small_disk.unmount(disk)
    trials.is_stopped("a", {"epoch": 2, "return_mean": 1.0})  # writes into the study
    trials.end("b", {"elsewhere": "its folder was deleted", NOT_SEEN_ON: "n2"}, is_error=False)
    for go_on in (lambda: trials.next("c"), trials.settle):
        with pytest.raises(ValueError, match=f"{disk}/tiny_search is gone: its disk was unmounted"):
            go_on()
    assert {path.name for path in disk.rglob("*")} == {"tiny_search", study.JOURNAL_FILE}


def test_search_ends_when_its_first_trials_die_of_one_bug(tmp_path, data):
    trials = open_trials(tmp_path, data)
    for number in range(3):
        assert trials.bug is None
        fail(trials, f"{number}", reason="TypeError: no", failure="code")
    assert trials.bug == "TypeError: no"
    assert trials.next("d") is None


def test_search_with_a_trial_done_goes_on_whatever_its_failures(tmp_path, data):
    trials = open_trials(tmp_path, data)
    evaluate(Path(trials.next("a")["grid"]["folder"]))
    trials.end("a", None, is_error=False)
    for number in range(2):
        fail(trials, f"{number}", reason="TypeError: no", failure="code")
    trials = open_trials(tmp_path, data, number=6)
    for number in range(5):  # those two again, and three new ones
        fail(trials, f"{number}", reason="TypeError: no", failure="code")
    assert trials.bug is None
    assert len(study.outcomes(trials.study)) == 6


def test_search_waits_for_the_trial_that_started_before_those_that_died(tmp_path, data):
    trials = open_trials(tmp_path, data)
    trials.next("slow")
    for number in range(3):
        fail(trials, f"{number}", reason="TypeError: no", failure="code")
    assert trials.bug is None
    registry.record(
        trials._folder(trials._live["slow"][1]), Status.FAILED, reason="TypeError: no",
        failure="code",
    )  # fmt: skip
    trials.end("slow", None, is_error=True)
    assert trials.bug == "TypeError: no"
