"""TD-MPC2's chunks into the store, killed or not."""

import errno
import os
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pwmray import claim
from pwmray.data import importing
from pwmray.data.importing import import_dataset
from pwmray.data.manifest import read_manifest
from pwmray.data.store import StoreDraft, open_store, write_store
from tests.chunks import (
    PENDULUM,
    PENDULUM_EPISODES,
    TASKS,
    change_chunk,
    chunk_tensors,
    content,
    import_and_die,
    import_command,
    run_import,
    write_chunks,
)


@pytest.fixture
def source(tmp_path):
    return write_chunks(tmp_path / "chunks", TASKS)


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


def test_plain_dictionary_of_tensors_is_a_chunk_too(source, tmp_path):
    torch.save(chunk_tensors(TASKS[0]), source / "chunk_0.pt")
    assert run_import(source, tmp_path).num_episodes == 8


def test_chosen_tasks_come_first_and_others_are_added_later(source, tmp_path):
    first = run_import(source, tmp_path, tasks=["reacher-easy"])
    assert list(first.tasks) == ["reacher-easy"]
    both = run_import(source, tmp_path)
    assert both.tasks["reacher-easy"] == first.tasks["reacher-easy"]
    assert set(both.tasks) == {"reacher-easy", "pendulum-swingup"}


def test_finished_import_is_not_done_again(source, tmp_path):
    run_import(source, tmp_path)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "mt30").iterdir()}
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
    (source / "full").unlink()
    assert import_command(source, tmp_path) == 0


def test_too_little_room_is_said_before_anything_is_written(source, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "pwmray.data.draft.shutil.disk_usage", lambda path: SimpleNamespace(free=10**4)
    )
    with pytest.raises(ValueError, match=r"no room .*: it needs 0\.000112 GB in .*mt30"):
        run_import(source, tmp_path / "data")
    assert content(tmp_path / "data") == {}


def test_second_import_into_a_folder_at_work_is_refused(source, tmp_path):
    held = claim.acquire(tmp_path / "mt30" / "import.claim")
    with pytest.raises(ValueError, match=f"process {os.getpid()} on .* imports into"):
        run_import(source, tmp_path)
    held.release()


def test_unfinished_import_of_other_tasks_is_named_and_rebuild_starts_again(source, tmp_path):
    import_and_die(source, tmp_path, num_calls=8)
    with pytest.raises(ValueError, match=r"import of other chunks or tasks.*--rebuild"):
        run_import(source, tmp_path, tasks=["reacher-easy"])
    manifest = run_import(source, tmp_path, tasks=["reacher-easy"], rebuild=True)
    assert list(manifest.tasks) == ["reacher-easy"]
