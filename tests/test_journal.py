"""The journal of a search: cut off by a kill, looked at by a plan, or none at all."""

import threading

import pytest
from optuna.storages.journal import JournalFileSymlinkLock

from pwmray import study
from pwmray.search_plan import as_table
from tests.test_search import TASK, make_plan
from tests.tiny_search import search


def ask_once(plan):
    """Add a trial to the study; return the journal's path and content."""
    plan.open_study(TASK).ask(study.read_space(search.space))
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


def test_line_that_another_process_is_writing_is_not_cut(tmp_path):
    plan = make_plan(tmp_path)
    path, whole = ask_once(plan)
    path.write_bytes(whole[:-20])
    lock = JournalFileSymlinkLock(str(path))
    lock.acquire()
    opening = threading.Thread(target=plan.open_study, args=(TASK,))
    opening.start()
    opening.join(0.3)
    assert opening.is_alive()
    path.write_bytes(whole)
    lock.release()
    opening.join()
    assert path.read_bytes().startswith(whole)


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
    with pytest.raises(ValueError, match=f"{path} is no journal of Optuna's that can be read: "):
        use(plan)
    assert path.read_bytes() == content
