"""The journal of a search: cut off by a kill, looked at by a plan, or none at all."""

import os
import threading

import pytest

from pwmray import room
from pwmray.search import study
from pwmray.search.plan_text import as_table
from tests.studies import TASK, make_plan


def ask_once(plan):
    """Add a trial to the study; return the journal's path and content."""
    plan.open_study(TASK).ask(plan.space)
    path = plan.folder / study.JOURNAL_FILE
    return path, path.read_bytes()


@pytest.mark.parametrize("num_cut", [1, 20])
def test_last_line_that_a_kill_cut_off_is_dropped_once_the_search_goes_on(tmp_path, num_cut):
    plan = make_plan(tmp_path)
    path, whole = ask_once(plan)
    path.write_bytes(whole[:-num_cut])
    assert len(plan.studies()[TASK].get_trials()) == 1
    assert path.read_bytes() == whole[:-num_cut]
    ask_once(plan)
    assert len(plan.open_study(TASK).get_trials()) == 2
    assert len(plan.studies()[TASK].get_trials()) == 2


@pytest.mark.parametrize("content", [b"", b'{"op_code": 0, "wor'])
def test_plan_creates_no_study_in_a_journal_without_one(tmp_path, content):
    plan = make_plan(tmp_path)
    plan.folder.mkdir()
    path = plan.folder / study.JOURNAL_FILE
    path.write_bytes(content)
    assert "pendulum-spin: nothing yet" in as_table(plan)
    assert path.read_bytes() == content
    assert list(plan.folder.iterdir()) == [path]


def test_lock_that_a_killed_search_left_holds_nobody_up(tmp_path):
    plan = make_plan(tmp_path)
    path, _ = ask_once(plan)
    path.with_name(f"{path.name}.lock").symlink_to("/a/folder/that/is/gone")
    asking = threading.Thread(target=ask_once, args=(plan,))
    asking.start()
    asking.join(10.0)
    assert not asking.is_alive()
    assert len(plan.studies()[TASK].get_trials()) == 2


def test_full_disk_leaves_a_journal_whole(tmp_path, monkeypatch):
    plan = make_plan(tmp_path)
    path, _ = ask_once(plan)
    tried = plan.open_study(TASK)
    whole = path.read_bytes()
    write, sizes = os.write, [10, 0]

    def fill(descriptor, content):
        return write(descriptor, content[: sizes.pop()] if sizes else content)

    monkeypatch.setattr(os, "write", fill)
    monkeypatch.setattr(room, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(tried._storage._backend, "_disk_wait_seconds", 0.0)
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
        tried.ask()
    assert path.read_bytes() == whole
    monkeypatch.setattr(tried._storage._backend, "_disk_wait_seconds", 10.0)
    tried.ask()  # once it has room
    assert sizes == []
    assert len(plan.studies()[TASK].get_trials()) == 2


@pytest.mark.parametrize(
    "content",
    [
        b"\x97\x00\xff\n",
        b"\x97\x00\xff",
        b"[1]\n",
        b'{"op_code": 0, "wor\n',
        b'{"op_code": 99}\n',
        b'{"op_code": 0}\n',
        b'{"op_code":0,"wor{"op_code":0,"worker_id":"a","study_name":"b","directions":[2]}\n',
    ],
)
@pytest.mark.parametrize("use", [as_table, lambda plan: plan.open_study(TASK)])
def test_file_that_is_no_journal_is_named_and_left_as_it_is(tmp_path, content, use):
    plan = make_plan(tmp_path)
    plan.folder.mkdir()
    path = plan.folder / study.JOURNAL_FILE
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path} is not a readable journal of Optuna's: "):
        use(plan)
    assert path.read_bytes() == content
