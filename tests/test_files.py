"""Files are written whole or not at all, and what is no file is not replaced by one."""

import os
import stat
import threading
from pathlib import Path

import pytest

from pwmray.files import append_lines, replacing


@pytest.fixture
def synced(monkeypatch):
    """List what is synced and what takes a file's place: name, and content at that moment."""
    told = []

    def sync(descriptor):
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        told.append(("synced", path.name, path.read_text()))

    def replace(draft, path):
        told.append(("replaced", Path(draft).name, Path(draft).read_text()))

    monkeypatch.setattr("os.fsync", sync)
    monkeypatch.setattr("os.replace", replace)
    return told


def write(path: Path, text: str) -> None:
    with replacing(path) as draft:
        draft.write_text(text)


def test_file_is_replaced_when_it_is_whole(tmp_path):
    path = tmp_path / "table.md"
    write(path, "old")
    with pytest.raises(RuntimeError), replacing(path) as draft:
        draft.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    write(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("mode", [0o664, 0o600])
def test_file_stays_as_open_to_others_as_it_was_under_any_umask(tmp_path, mode):
    path = tmp_path / "shared"
    path.touch()
    path.chmod(mode)
    before = os.umask(0o077)
    try:
        with replacing(path) as draft:
            draft.touch()
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is of every group")
def test_file_stays_with_its_group(tmp_path):
    path = tmp_path / "shared"
    path.touch()
    path.chmod(0o640)
    os.chown(path, -1, 12345)
    with replacing(path) as draft:
        draft.touch()
    assert path.stat().st_gid == 12345


def test_what_takes_a_files_place_is_on_the_disk_before(tmp_path, synced):
    write(tmp_path / "table.md", "whole")
    (first, name, text), last = synced
    assert (first, text) == ("synced", "whole")
    assert last == ("replaced", name, "whole")


def test_appended_lines_are_on_the_disk_and_keep_no_file_open(tmp_path, synced):
    before = os.listdir("/proc/self/fd")
    append_lines(tmp_path / "events.jsonl", "{}\n")
    assert synced == [("synced", "events.jsonl", "{}\n")]
    assert os.listdir("/proc/self/fd") == before


def test_pipe_is_written_into(tmp_path):
    path, read = tmp_path / "pipe", []
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: read.append(path.read_text()))
    reader.start()
    write(path, "a table")
    reader.join()
    assert read == ["a table"]
    assert stat.S_ISFIFO(path.stat().st_mode)
    assert list(tmp_path.iterdir()) == [path]


def test_device_is_written_into(tmp_path):
    path = tmp_path / "null"
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.stat(os.devnull).st_rdev)
        path.write_text("")
    except PermissionError as error:
        pytest.skip(f"no device can be made here: {error}")
    write(path, "nobody reads this")
    assert stat.S_ISCHR(path.stat().st_mode)


def test_what_stdout_leads_to_is_written_into(tmp_path):
    kept = tmp_path / "kept"
    link = tmp_path / "dev" / "stdout"
    link.parent.mkdir()
    link.symlink_to(kept)
    kept.write_text("before")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pwmray.files._DEVICES", link.parent)
        write(link, "after")
    assert link.is_symlink()
    assert kept.read_text() == "after"
