"""TD-MPC2's chunks into the store, killed or not."""

import errno
import json
import os
import re
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import serialization

from pwmray.data import importing
from pwmray.data.importing import import_dataset
from pwmray.data.manifest import read_manifest, write_manifest
from pwmray.data.store import StoreDraft, open_store, write_store
from pwmray.pickles import save_tensor_dict
from pwmray.registry import claim
from tests.chunks import (
    BY_INDEX,
    PENDULUM,
    PENDULUM_EPISODES,
    REACHER,
    TASKS_BY_CHUNK,
    change_chunk,
    chunk_tensors,
    content,
    import_and_die,
    import_command,
    run_import,
    write_chunks,
)
from tests.claims import do_not_watch, leave_claim


@pytest.fixture
def source(tmp_path):
    return write_chunks(tmp_path / "chunks", TASKS_BY_CHUNK)


# Import


def test_import_writes_each_tasks_episodes_in_order_and_unpadded(source, tmp_path):
    run_import(source, tmp_path)
    store = open_store(tmp_path / "mt30" / "pendulum-swingup.arrow")
    expected = chunk_tensors([PENDULUM] * 8)
    np.testing.assert_array_equal(
        store.obs.reshape(4, 501, 3), expected["obs"][PENDULUM_EPISODES, :, :3]
    )
    np.testing.assert_array_equal(
        store.action.reshape(4, 501, 1), expected["action"][PENDULUM_EPISODES, :, :1]
    )
    np.testing.assert_array_equal(
        store.reward.reshape(4, 501), expected["reward"][PENDULUM_EPISODES]
    )
    assert store.task == "pendulum-swingup"
    # Its fingerprint is over this, too: trials of before would be of other data.
    assert store.recipe == {"format": "pwmray-import-1", "dataset": "mt30"}


def test_imported_file_has_the_fingerprint_of_one_written_at_once(source, tmp_path):
    run_import(source, tmp_path)
    store = open_store(tmp_path / "mt30" / "reacher-easy.arrow")
    arrays = [np.array(column) for column in (store.obs, store.action, store.reward)]
    described = [store.episode_lengths, store.behaviours, store.recipe]
    again = write_store(tmp_path / "again.arrow", "reacher-easy", *arrays, *described)
    assert again == store.fingerprint
    assert (tmp_path / "again.arrow").read_bytes() == store.path.read_bytes()


def test_first_rows_fillers_do_not_matter(source, tmp_path):
    def fill(tensors):
        tensors["action"][:, 0], tensors["reward"][:, 0] = torch.inf, 7.0

    run_import(source, tmp_path / "plain")
    change_chunk(source, 0, fill)
    run_import(source, tmp_path / "filled")
    plain, filled = (read_manifest(tmp_path / name / "mt30") for name in ("plain", "filled"))
    assert filled.fingerprint == plain.fingerprint


def test_manifest_counts_what_was_imported(source, tmp_path):
    manifest = run_import(source, tmp_path)
    assert manifest == read_manifest(tmp_path / "mt30")
    assert {name: file.num_rows for name, file in manifest.tasks.items()} == {
        "reacher-easy": 4 * 501,
        "pendulum-swingup": 4 * 501,
    }
    assert manifest.chunks == {path.name: path.stat().st_size for path in source.iterdir()}
    assert sorted(path.name for path in (tmp_path / "mt30").iterdir()) == [
        "manifest.json",
        "pendulum-swingup.arrow",
        "reacher-easy.arrow",
    ]


def test_mt80_gives_mt30s_tasks_in_short_episodes_without_meta_world(tmp_path):
    meta_world = 30
    source = write_chunks(tmp_path / "chunks", [[meta_world, PENDULUM, 79]] * 20, layout="mt80")
    manifest = run_import(source, tmp_path)
    assert {name: file.num_episodes for name, file in manifest.tasks.items()} == {
        "pendulum-swingup": 20
    }
    store = open_store(tmp_path / "mt80" / "pendulum-swingup.arrow")
    assert set(store.episode_lengths) == {101}
    np.testing.assert_array_equal(store.obs[::101, 0], 1000 * np.arange(1, 60, 3))


def test_first_and_last_task_are_imported_too(tmp_path):
    ends = [0, len(BY_INDEX) - 1]
    source = write_chunks(tmp_path / "chunks", [ends, ends, ends, ends])
    tasks = run_import(source, tmp_path).tasks
    assert [(name, file.num_episodes) for name, file in tasks.items()] == [
        (BY_INDEX[number].name, 4) for number in ends
    ]


def test_plain_dictionary_of_tensors_is_a_chunk_too(source, tmp_path):
    torch.save(chunk_tensors(TASKS_BY_CHUNK[0]), source / "chunk_0.pt")
    assert run_import(source, tmp_path).num_episodes == 8


def test_chosen_tasks_come_first_and_others_are_added_later(source, tmp_path):
    first = run_import(source, tmp_path, tasks=["reacher-easy"])
    assert list(first.tasks) == ["reacher-easy"]
    both = run_import(source, tmp_path)
    assert both.tasks["reacher-easy"] == first.tasks["reacher-easy"]
    assert set(both.tasks) == {"reacher-easy", "pendulum-swingup"}


def test_fingerprint_of_a_dataset_does_not_depend_on_the_order_of_its_imports(source, tmp_path):
    whole = run_import(source, tmp_path / "whole")
    run_import(source, tmp_path, tasks=["pendulum-swingup"])
    both = run_import(source, tmp_path)
    assert list(both.tasks) == [*whole.tasks][::-1]
    assert both.fingerprint == whole.fingerprint


def test_finished_import_is_not_done_again(source, tmp_path):
    run_import(source, tmp_path)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "mt30").iterdir()}
    (tmp_path / "mt30" / ".manifest.json.0123abcd.tmp").write_text("half")  # of a killed one
    run_import(source, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "mt30").iterdir()} == written


def test_progress_comes_to_its_end_in_every_phase(source, tmp_path):
    said = {}
    import_dataset(source, tmp_path, lambda what, done, total: said.update({what: (done, total)}))
    assert said["reading 4 chunks"] == (8 * 501, 8 * 501)


# Killed


@pytest.mark.parametrize("num_calls", range(1, 15))
def test_import_killed_at_any_moment_goes_on_to_the_same_store(source, tmp_path, num_calls):
    run_import(source, tmp_path / "whole")
    code = import_and_die(source, tmp_path / "killed", num_calls)
    assert code == signal.SIGKILL
    assert not (tmp_path / "killed" / "mt30" / "manifest.json").exists()
    run_import(source, tmp_path / "killed")
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


def test_rows_are_on_the_disk_before_the_journal_says_so(source, tmp_path, monkeypatch):
    synced, journal, sync, replace = set(), [], os.fsync, os.replace

    def record_sync(descriptor):
        synced.add(Path(os.readlink(f"/proc/self/fd/{descriptor}")).stem)
        sync(descriptor)

    def record_journal(draft, path):
        if path.name == "journal.json":
            noted = json.loads(draft.read_text())
            step = noted["num_chunks"], len(noted["sealed"])
            journal.append((*step, synced & {"pendulum-swingup", "reacher-easy"}))
            synced.clear()
        replace(draft, path)

    monkeypatch.setattr("os.fsync", record_sync)
    monkeypatch.setattr("os.replace", record_journal)
    run_import(source, tmp_path)
    pendulum, reacher = {"pendulum-swingup"}, {"reacher-easy"}
    both = pendulum | reacher
    read = [(0, 0, both), (1, 0, both), (2, 0, both), (3, 0, reacher), (4, 0, both)]
    assert journal == [*read, (4, 1, reacher), (4, 2, pendulum)]


def test_import_goes_on_when_only_some_files_were_moved(source, tmp_path, monkeypatch):
    run_import(source, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(importing, "write_manifest", interrupt)
        run_import(source, tmp_path / "killed")
    run_import(source, tmp_path / "killed")
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


def interrupt(*_):
    raise KeyboardInterrupt


def test_rows_of_a_finished_chunk_are_not_read_again(source, tmp_path, monkeypatch):
    import_and_die(source, tmp_path, num_calls=10)  # in the third chunk
    opened = []
    original = importing.open_chunk
    monkeypatch.setattr(
        importing, "open_chunk", lambda path, trust: opened.append(path.name) or original(path)
    )
    run_import(source, tmp_path)
    assert opened == ["chunk_2.pt", "chunk_3.pt"]


def test_full_disk_in_mid_import_is_one_line_and_what_is_done_is_kept(
    source, tmp_path, monkeypatch, capsys
):
    original = StoreDraft.writing

    def writing(self):
        if self.path.name.startswith("reacher") and (source / "full").exists():
            raise OSError(errno.ENOSPC, "No space left on device", str(self.path))
        return original(self)

    monkeypatch.setattr(StoreDraft, "writing", writing)
    (source / "full").touch()
    assert import_command(source, tmp_path) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "No space left on device; what is done is kept (0 of 4 chunks)" in message
    assert message.endswith("chunks): the same command goes on from there")
    assert import_command(source, tmp_path, "--rebuild") == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.endswith("; what was there stays as it was; --rebuild starts again")
    (source / "full").unlink()
    assert import_command(source, tmp_path) == 0


def test_too_little_room_is_said_before_anything_is_written(source, tmp_path, monkeypatch):
    monkeypatch.setattr("pwmray.room.shutil.disk_usage", lambda path: SimpleNamespace(free=10**4))
    with pytest.raises(ValueError, match=r"no room for the import: 0\.1 MB needed, .*mt30 has"):
        run_import(source, tmp_path / "data")
    assert content(tmp_path / "data") == {}


def test_import_needs_room_for_its_rows_and_where_it_goes_on_for_what_it_has_yet_to_write(
    source, tmp_path, monkeypatch
):
    needed = 4 * 4 * 501 * ((6 + 2 + 1) + (3 + 1 + 1))  # bytes of four episodes of each task
    monkeypatch.setattr("pwmray.room.free_bytes", lambda folder: needed - 1)
    with pytest.raises(ValueError, match="no room for the import"):
        run_import(source, tmp_path)
    monkeypatch.setattr("pwmray.room.free_bytes", lambda folder: needed)
    import_and_die(source, tmp_path, num_calls=13)  # all rows are written
    monkeypatch.setattr("pwmray.room.free_bytes", lambda folder: 0)
    assert run_import(source, tmp_path).num_episodes == 8


def test_second_import_into_a_folder_at_work_is_refused(source, tmp_path):
    held = claim.acquire(tmp_path / "mt30" / "import.claim")
    with pytest.raises(ValueError, match=f"process {os.getpid()} on .* imports into"):
        run_import(source, tmp_path)
    held.release()


def test_import_that_a_lost_machine_left_is_gone_on_with(source, tmp_path, monkeypatch, capsys):
    do_not_watch(monkeypatch)
    import_and_die(source, tmp_path, num_calls=8)
    leave_claim(tmp_path / "mt30" / "import.claim", 4711, host="n9", age=600)
    assert run_import(source, tmp_path).tasks
    assert "that seems dead: pid 4711 on n9" in capsys.readouterr().out


def test_unfinished_import_of_other_tasks_is_named_and_rebuild_starts_again(source, tmp_path):
    import_and_die(source, tmp_path, num_calls=8)
    with pytest.raises(ValueError, match=r"import of other chunks or tasks.*--rebuild"):
        run_import(source, tmp_path, tasks=["reacher-easy"])
    manifest = run_import(source, tmp_path, tasks=["reacher-easy"], rebuild=True)
    assert list(manifest.tasks) == ["reacher-easy"]


@pytest.mark.parametrize("num_calls", [8, 12], ids=["reading", "taking the fingerprints"])
def test_unfinished_import_stays_where_the_tasks_asked_for_are_there(
    source, tmp_path, caplog, num_calls
):
    run_import(source, tmp_path / "whole")
    run_import(source, tmp_path / "data", tasks=["reacher-easy"])
    import_and_die(source, tmp_path / "data", num_calls)
    (tmp_path / "data" / "mt30" / "import.claim").unlink()  # of the killed process
    before = content(tmp_path / "data")
    assert before.keys() >= {"journal.json", "pendulum-swingup.arrow"}
    run_import(source, tmp_path / "data", tasks=["reacher-easy"])
    assert content(tmp_path / "data") == before
    assert "an unfinished import of pendulum-swingup stays in" in caplog.text
    run_import(source, tmp_path / "data")
    assert content(tmp_path / "data") == content(tmp_path / "whole")


def test_unfinished_rebuild_stays_where_what_it_replaces_is_there(source, tmp_path, monkeypatch):
    run_import(source, tmp_path)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(importing, "_seal", lambda *_: os.kill(os.getpid(), signal.SIGINT))
        run_import(source, tmp_path, tasks=["reacher-easy"], rebuild=True)
    run_import(source, tmp_path, tasks=["reacher-easy"])
    assert (tmp_path / "mt30" / "importing" / "reacher-easy.arrow").exists()


# Rebuilt


def copied(folder):
    """Return the dataset's bytes by name, without what an unfinished import keeps."""
    return {path.name: path.read_bytes() for path in (folder / "mt30").glob("*.*")}


def test_rebuild_that_cannot_begin_changes_nothing(source, tmp_path, monkeypatch):
    run_import(source, tmp_path)
    before = copied(tmp_path)
    with pytest.raises(ValueError, match="no episode of cheetah-run"):
        run_import(source, tmp_path, tasks=["cheetah-run"], rebuild=True)
    disk = SimpleNamespace(free=10**4)
    monkeypatch.setattr("pwmray.room.shutil.disk_usage", lambda path: disk)
    with pytest.raises(ValueError, match="no room"):
        run_import(source, tmp_path, rebuild=True)
    assert copied(tmp_path) == before


def test_interrupted_rebuild_leaves_the_dataset_as_it_was(source, tmp_path):
    run_import(source, tmp_path)
    before = copied(tmp_path)

    def stop(what, done, total):
        if what.startswith("taking the fingerprints"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_dataset(source, tmp_path, stop, rebuild=True)
    assert copied(tmp_path) == before
    assert run_import(source, tmp_path, rebuild=True) == read_manifest(tmp_path / "mt30")


def test_rebuild_of_one_task_keeps_the_others(source, tmp_path):
    whole = run_import(source, tmp_path)
    (tmp_path / "mt30" / "reacher-easy.arrow").write_bytes(b"broken")
    assert run_import(source, tmp_path, tasks=["reacher-easy"], rebuild=True) == whole
    assert open_store(tmp_path / "mt30" / "reacher-easy.arrow").num_episodes == 4


def test_killed_while_it_publishes_a_rebuild_names_no_file_that_may_be_of_either(
    source, tmp_path, monkeypatch
):
    whole = run_import(source, tmp_path)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("pwmray.data.draft.Draft.publish", interrupt)
        run_import(source, tmp_path, tasks=["reacher-easy"], rebuild=True)
    assert list(read_manifest(tmp_path / "mt30").tasks) == ["pendulum-swingup"]
    assert run_import(source, tmp_path).tasks == whole.tasks


def test_one_task_of_other_chunks_is_not_mixed_with_the_rest(source, tmp_path):
    run_import(source, tmp_path)
    before = copied(tmp_path)
    other = write_chunks(tmp_path / "other", [[REACHER]] * 4)
    with pytest.raises(ValueError, match=r"it has pendulum-swingup, too.*without --tasks"):
        run_import(other, tmp_path, tasks=["reacher-easy"], rebuild=True)
    assert copied(tmp_path) == before


def test_rebuild_from_other_chunks_leaves_no_file_of_a_task_that_they_lack(source, tmp_path):
    run_import(source, tmp_path)
    run_import(write_chunks(tmp_path / "other", [[REACHER]] * 4), tmp_path, rebuild=True)
    assert sorted(copied(tmp_path)) == ["manifest.json", "reacher-easy.arrow"]


@pytest.mark.parametrize("rebuild", [True, False])
@pytest.mark.parametrize("is_listed", [True, False])
def test_rebuild_from_other_chunks_that_was_killed_at_its_end_leaves_no_file_either(
    source, tmp_path, monkeypatch, is_listed, rebuild
):
    def write_and_die(*arguments):
        if is_listed:
            write_manifest(*arguments)
        raise KeyboardInterrupt

    run_import(source, tmp_path)
    other = write_chunks(tmp_path / "other", [[REACHER]] * 4)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(importing, "write_manifest", write_and_die)
        run_import(other, tmp_path, rebuild=True)
    assert (tmp_path / "mt30" / "pendulum-swingup.arrow").exists()
    run_import(other, tmp_path, rebuild=rebuild)
    assert sorted(copied(tmp_path)) == ["manifest.json", "reacher-easy.arrow"]
    assert not (tmp_path / "mt30" / "importing").exists()


def test_rebuild_keeps_a_file_that_no_import_made(source, tmp_path):
    run_import(source, tmp_path)
    (tmp_path / "mt30" / "walker-run.arrow").write_bytes(b"a person's")
    run_import(source, tmp_path, rebuild=True)
    assert (tmp_path / "mt30" / "walker-run.arrow").exists()


# Other chunks of the same names and sizes


def write_other_values(source, number=2):
    tensors = chunk_tensors(TASKS_BY_CHUNK[number], first_episode=77)
    save_tensor_dict(source / f"chunk_{number}.pt", tensors)


def test_chunk_of_other_content_and_the_same_size_is_another_one(source, tmp_path):
    run_import(source, tmp_path)
    size = (source / "chunk_2.pt").stat().st_size
    write_other_values(source)
    assert (source / "chunk_2.pt").stat().st_size == size
    said = f"{tmp_path / 'mt30'} was imported from other chunks (chunk_0.pt, chunk_1.pt, "
    with pytest.raises(ValueError, match=re.escape(said)):
        run_import(source, tmp_path)


def test_unfinished_import_does_not_go_on_with_other_content(source, tmp_path):
    import_and_die(source, tmp_path, num_calls=8)
    write_other_values(source)
    with pytest.raises(ValueError, match="unfinished import of other chunks"):
        run_import(source, tmp_path)


def test_copied_chunks_are_the_same_chunks(source, tmp_path):
    run_import(source, tmp_path, tasks=["reacher-easy"])
    shutil.copytree(source, tmp_path / "copy", copy_function=shutil.copyfile)
    assert len(run_import(tmp_path / "copy", tmp_path).tasks) == 2


def test_manifest_of_an_earlier_version_without_digests_is_added_to(source, tmp_path):
    run_import(source, tmp_path, tasks=["reacher-easy"])
    path = tmp_path / "mt30" / "manifest.json"
    content = json.loads(path.read_text())
    del content["digests"], content["is_export"]
    path.write_text(json.dumps(content))
    assert run_import(source, tmp_path, tasks=["reacher-easy"]).digests == {}
    assert len(run_import(source, tmp_path).tasks) == 2
    write_other_values(source)
    with pytest.raises(ValueError, match="was imported from other chunks"):
        run_import(source, tmp_path)


def test_chunk_without_checksums_is_another_one_when_it_was_written_again(source, tmp_path):
    serialization.set_crc32_options(False)
    try:
        write_other_values(source)
    finally:
        serialization.set_crc32_options(True)
    run_import(source, tmp_path, tasks=["reacher-easy"])
    assert len(run_import(source, tmp_path).tasks) == 2
    os.utime(source / "chunk_2.pt", ns=(1, 1))
    with pytest.raises(ValueError, match="was imported from other chunks"):
        run_import(source, tmp_path)


# A damaged draft


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        ("reacher-easy.arrow", lambda path: path.unlink(), "there is no data file"),
        ("reacher-easy.arrow", cut, "not a complete Arrow file"),
        ("journal.json", lambda path: path.write_text("{}"), "'defining'"),
        ("journal.json", lambda path: path.write_text("{"), "Expecting property name"),
        ("journal.json", lambda path: path.write_text("[]"), "list indices"),
    ],
)
def test_damaged_draft_is_named_with_the_way_out(source, tmp_path, capsys, name, damage, reason):
    import_and_die(source, tmp_path / "data", num_calls=8)
    path = tmp_path / "data" / "mt30" / "importing" / name
    damage(path)
    assert import_command(source, tmp_path) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith(f"error: {path} of an unfinished import is damaged (")
    assert reason in message
    assert message.endswith("start again with --rebuild")
    assert import_command(source, tmp_path, "--rebuild") == 0
