import errno
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from pwmray import system
from pwmray.registry import claim, processes
from tests.claims import dead_pid, leave_claim, set_age
from tests.waiting import wait_for

NUM_CLAIMS = 40
# Takes every claim it can get once it is told to, says which, and holds them until told to stop.
RIVAL = """
import sys
from pathlib import Path
from pwmray.registry import claim
folder, num_claims = Path(sys.argv[1]), int(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
held = {i: claim.acquire(folder / f"{i}.json") for i in range(num_claims)}
print(*[i for i, mine in held.items() if mine is not None and mine.is_held], flush=True)
sys.stdin.readline()
"""
# Takes a claim and ends without giving it back, as a killed process does.
LEAVER = """
import os, sys
from pathlib import Path
from pwmray.registry import claim
held = claim.acquire(Path(sys.argv[1]))
os._exit(9)
"""


def start(program, *arguments):
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def say(process, line):
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def race(folder):
    """Let three processes take the claims in `folder`; return what each of them got."""
    rivals = [start(RIVAL, folder, NUM_CLAIMS) for _ in range(3)]
    for rival in rivals:
        assert rival.stdout.readline() == "ready\n"
    for rival in rivals:
        say(rival, "go")
    taken = [[int(i) for i in rival.stdout.readline().split()] for rival in rivals]
    for rival in rivals:
        rival.communicate("stop\n", timeout=30)
    return taken


def token(path):
    return json.loads(path.read_text())["token"]


def test_claim_is_held_until_it_is_released(tmp_path):
    path = tmp_path / "folder" / "claim.json"

    with claim.acquire(path) as held:
        assert held.is_held
        assert claim.acquire(path) is None
        assert claim.owner(path)["pid"] == os.getpid()
        assert claim.owner(path)["host"] == socket.gethostname()

    assert claim.owner(path) is None
    assert list(path.parent.iterdir()) == []


def test_released_claim_can_be_taken_again(tmp_path):
    path = tmp_path / "claim.json"
    claim.acquire(path).release()
    with claim.acquire(path) as again:
        assert again.is_held


@pytest.mark.parametrize("content", [b"", b"{cut", b"\x97\x00\xff", b"[1]", b"null"])
def test_claim_that_cannot_be_read_is_nobodys_and_stale_like_any(tmp_path, content):
    path = tmp_path / "claim.json"
    path.write_bytes(content)
    assert (claim.holder(path), claim.owner(path)) == ({}, None)
    assert claim.acquire(path) is None  # it may be being written on another machine


def test_refused_claim_leaves_no_file_behind(tmp_path):
    path = tmp_path / "claim.json"
    with claim.acquire(path):
        claim.acquire(path)
        assert list(tmp_path.iterdir()) == [path]


def test_of_racing_processes_exactly_one_gets_each_claim(tmp_path):
    taken = race(tmp_path)
    assert sorted(itertools.chain(*taken)) == list(range(NUM_CLAIMS))


def test_of_racing_processes_exactly_one_takes_each_stale_claim_over(tmp_path):
    pid = dead_pid()
    for i in range(NUM_CLAIMS):
        leave_claim(tmp_path / f"{i}.json", pid)

    taken = race(tmp_path)

    assert sorted(itertools.chain(*taken)) == list(range(NUM_CLAIMS))


def test_claim_of_a_killed_process_is_free(tmp_path):
    path = tmp_path / "claim.json"
    start(LEAVER, path).communicate(timeout=30)
    assert path.exists()

    assert claim.owner(path) is None
    with claim.acquire(path) as held:
        assert held.is_held
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="zombies are seen in /proc")
def test_claim_of_a_zombie_is_free(tmp_path):
    path = tmp_path / "claim.json"
    leaver = start(LEAVER, path)
    os.waitid(os.P_PID, leaver.pid, os.WEXITED | os.WNOWAIT)  # dead, and not collected

    assert claim.owner(path) is None

    leaver.communicate(timeout=30)


def test_claim_of_a_live_process_is_not_free(tmp_path):
    path = tmp_path / "claim.json"
    leave_claim(path, os.getppid(), age=60)
    assert claim.acquire(path) is None
    assert claim.owner(path)["token"] == "another"


def test_claim_of_another_users_live_process_is_not_free(tmp_path, monkeypatch):
    def kill(pid, number):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "kill", kill)
    path = tmp_path / "claim.json"
    leave_claim(path, os.getppid(), age=60)
    assert claim.acquire(path) is None


def test_claim_is_not_free_where_the_system_tells_nothing_of_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(system, "look_up", lambda _: None)
    with claim.acquire(tmp_path / "claim.json"):
        assert claim.acquire(tmp_path / "claim.json") is None


@pytest.mark.parametrize(("boot", "machine"), [("a boot", "a boot"), (None, "node1")])
def test_machine_is_told_by_its_boot_or_else_by_its_host(boot, machine, monkeypatch):
    monkeypatch.setattr(system, "name_boot", lambda: boot)
    monkeypatch.setattr(socket, "gethostname", lambda: "node1")
    assert processes.machine.__wrapped__() == machine


def test_claim_of_another_host_is_free_once_its_lease_has_passed(tmp_path, monkeypatch):
    path = tmp_path / "claim.json"
    leave_claim(path, dead_pid(), host="another-host", age=60)
    assert claim.acquire(path) is None
    assert claim.owner(path)["host"] == "another-host"

    monkeypatch.setattr(claim, "LEASE_SECONDS", 0.3)
    assert claim.owner(path) is None
    assert claim.acquire(path) is None  # watched first
    time.sleep(0.15)
    with claim.acquire(path) as held:
        assert held.is_held


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
def test_live_claim_outlasts_a_clock_that_jumps(tmp_path, jump):
    path = tmp_path / "claim.json"
    rival = start(RIVAL, tmp_path, 1)
    say(rival, "go")
    assert [rival.stdout.readline() for _ in range(2)] == ["ready\n", "0\n"]
    path = tmp_path / "0.json"

    set_age(path, jump)  # as it looks to everyone when the clock jumps, until the next beat

    assert claim.owner(path)["pid"] == rival.pid
    assert claim.acquire(path) is None
    rival.kill()
    rival.communicate(timeout=30)
    set_age(path, jump)
    with claim.acquire(path) as held:
        assert held.is_held


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
def test_claim_on_another_host_that_still_beats_outlasts_a_clock_that_jumps(
    tmp_path, jump, monkeypatch
):
    monkeypatch.setattr(claim, "LEASE_SECONDS", 0.3)
    path = tmp_path / "claim.json"
    for beat in range(3):
        leave_claim(path, dead_pid(), host="another-host", age=jump + beat)
        assert claim.acquire(path) is None
        time.sleep(0.15)
    with claim.acquire(path) as held:  # it beats no more
        assert held.is_held


def test_claim_of_a_number_that_another_process_has_by_now_is_free(tmp_path):
    path = tmp_path / "claim.json"
    leave_claim(path, os.getppid())
    owner = json.loads(path.read_text())
    path.write_text(json.dumps({**owner, "started": "1"}))
    assert claim.owner(path) is None
    with claim.acquire(path) as held:
        assert held.is_held


@pytest.mark.skipif(shutil.which("ps") is None, reason="needs ps")
def test_process_is_told_from_another_of_its_number_without_proc(tmp_path, monkeypatch):
    """As on macOS, where a claim would else be held as long as anything has the number."""
    monkeypatch.setattr(system, "_PROC", tmp_path / "absent")
    path = tmp_path / "claim.json"
    leave_claim(path, os.getppid())
    assert claim.acquire(path) is None
    owner = json.loads(path.read_text())
    path.write_text(json.dumps({**owner, "started": "Thu Jan  1 00:00:01 1970"}))
    assert claim.owner(path) is None
    with claim.acquire(path) as held:
        assert held.is_held


def test_claim_in_a_copied_folder_is_free_though_the_original_is_held(tmp_path, monkeypatch):
    original, copied = tmp_path / "original", tmp_path / "copied"
    with claim.acquire(original / "claim.json") as held:
        shutil.copytree(original, copied)  # with its times, as cp -a
        assert claim.owner(copied / "claim.json")["pid"] == os.getpid()  # for the lease
        set_age(copied / "claim.json", claim.LEASE_SECONDS + 1)
        assert claim.owner(copied / "claim.json") is None
        monkeypatch.setattr(claim, "LEASE_SECONDS", 0.3)
        claim.acquire(copied / "claim.json")
        time.sleep(0.15)
        with claim.acquire(copied / "claim.json") as ours:
            assert ours.is_held
            assert held.is_held


def test_brief_claim_is_waited_for(tmp_path):
    path = tmp_path / "claim.json"
    brief = claim.acquire(path, is_brief=True)
    timer = threading.Timer(0.1, brief.release)
    timer.start()
    assert claim.owner(path) is None
    with claim.acquire(path) as held:
        assert not brief.is_held
        assert held.is_held
    timer.join()


def test_draft_that_the_holder_clears_away_gives_no_claim(tmp_path, monkeypatch):
    path = tmp_path / "claim.json"
    link = os.link

    def link_after_a_holder_cleared(source, target):
        source.unlink()
        link(source, target)

    monkeypatch.setattr(claim.os, "link", link_after_a_holder_cleared)
    assert claim.acquire(path) is None
    assert list(tmp_path.iterdir()) == []


def test_heartbeat_keeps_the_claim_beyond_its_lease(tmp_path, monkeypatch):
    monkeypatch.setattr(claim, "LEASE_SECONDS", 2.0)
    path = tmp_path / "claim.json"
    with claim.acquire(path) as held:
        then = time.time() - 3600
        os.utime(path, (then, then))
        wait_for(lambda: path.stat().st_mtime > then + 60)
        assert held.is_held
        assert claim.owner(path) is not None


def test_release_leaves_the_claim_of_another_alone(tmp_path):
    path = tmp_path / "claim.json"
    held = claim.acquire(path)
    leave_claim(path, os.getppid())

    held.release()

    assert not held.is_held
    assert token(path) == "another"


def test_release_after_the_folder_is_gone_does_no_harm(tmp_path):
    path = tmp_path / "folder" / "claim.json"
    held = claim.acquire(path)
    path.unlink()
    path.parent.rmdir()

    held.release()

    assert not path.parent.exists()


@pytest.mark.parametrize("is_another_user", [False, True])
def test_takeover_gives_way_to_a_faster_taker(is_another_user, tmp_path, monkeypatch):
    path = tmp_path / "claim.json"
    leave_claim(path, dead_pid())
    rename, link = os.rename, os.link

    def rename_after_another_took_it(source, target):
        monkeypatch.setattr(claim.os, "rename", rename)
        leave_claim(path, os.getppid())
        path.write_text(path.read_text().replace("another", "faster"))
        rename(source, target)

    def link_unless_of_another(source, target):
        if is_another_user and token(source) == "faster":
            raise PermissionError(errno.EPERM, "Operation not permitted", str(source))
        link(source, target)

    monkeypatch.setattr(claim.os, "rename", rename_after_another_took_it)
    monkeypatch.setattr(claim.os, "link", link_unless_of_another)

    assert claim.acquire(path) is None
    assert token(path) == "faster"
    assert list(tmp_path.iterdir()) == [path]


def test_takeover_goes_on_when_the_stale_claim_is_already_gone(tmp_path, monkeypatch):
    path = tmp_path / "claim.json"
    leave_claim(path, dead_pid())
    rename = os.rename

    def rename_after_another_cleared_it(source, target):
        path.unlink()
        rename(source, target)

    monkeypatch.setattr(claim.os, "rename", rename_after_another_cleared_it)

    with claim.acquire(path) as held:
        assert held.is_held


def test_heartbeat_of_a_lost_claim_does_not_keep_its_new_owner_alive(tmp_path):
    path = tmp_path / "claim.json"
    with claim.acquire(path) as held:
        leave_claim(path, dead_pid(), host="another-host", age=3600)
        is_over = iter([False, False, False, True])
        claim._beat(path, held._token, SimpleNamespace(wait=lambda _: next(is_over)))
        assert claim.owner(path) is None


def test_claim_whose_link_the_server_made_twice_is_ours(tmp_path, monkeypatch):
    link = os.link

    def made_and_answered_late(source, target):
        link(source, target)
        raise FileExistsError(target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "link", made_and_answered_late)
        held = claim.acquire(tmp_path / "claim.json")
    assert held is not None
    assert held.is_held
    assert claim.acquire(tmp_path / "claim.json") is None
    held.release()


# Interrupts.


def test_claim_that_an_interrupt_comes_after_is_given_back(tmp_path, monkeypatch):
    path, link = tmp_path / "claim.json", os.link

    def link_and_interrupt(*arguments):
        link(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "link", link_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        claim.acquire(path)
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []
    with claim.acquire(path) as held:
        assert held.is_held


def test_claim_that_nobody_has_in_hand_is_given_back(tmp_path):
    path = tmp_path / "claim.json"
    claim.acquire(path)
    assert not path.exists()


def test_release_that_is_interrupted_is_taken_up(tmp_path, monkeypatch):
    held = claim.acquire(tmp_path / "claim.json")
    join = threading.Thread.join

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "join", interrupt)
    with pytest.raises(KeyboardInterrupt):
        held.release()
    monkeypatch.setattr(threading.Thread, "join", join)
    del held
    assert not (tmp_path / "claim.json").exists()


def test_forked_process_does_not_give_back_what_its_parent_holds(tmp_path):
    held = claim.acquire(tmp_path / "claim.json")
    child = os.fork()
    if child == 0:
        held.__del__()
        os._exit(0)
    os.waitpid(child, 0)
    assert held.is_held
    held.release()


def test_claim_that_is_a_link_to_nowhere_is_stale_like_any(tmp_path, monkeypatch):
    monkeypatch.setattr(claim, "LEASE_SECONDS", 0.3)
    path = tmp_path / "claim.json"
    path.symlink_to(tmp_path / "nowhere")
    os.utime(path, (0, 0), follow_symlinks=False)
    with claim.acquire(path) as held:
        assert held.is_held
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("ahead", [-300.0, 300.0])
def test_who_looks_from_another_machine_goes_by_the_file_servers_clock(
    ahead, tmp_path, monkeypatch
):
    monkeypatch.setattr(claim, "_leads", {})
    real = time.time
    for name, age in (("lives", 20.0), ("gone", 200.0)):
        leave_claim(tmp_path / name, 4711, host="elsewhere", age=age)
    monkeypatch.setattr(claim.time, "time", lambda: real() + ahead)
    assert claim.owner(tmp_path / "lives") is not None
    assert claim.owner(tmp_path / "gone") is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gone", "lives"]


def lose_machine(paths):
    """Leave claims of processes of another machine there, long without a heartbeat."""
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        leave_claim(path, dead_pid(), host="another-host", age=60)


def test_claims_of_a_lost_machine_are_freed_in_one_wait(tmp_path, monkeypatch):
    monkeypatch.setattr(claim, "LEASE_SECONDS", 0.3)
    deleted, *paths = [tmp_path / str(i) / "claim.json" for i in range(20)]
    lose_machine([deleted, *paths])
    for path in (deleted, *paths):
        assert claim.acquire(path) is None  # watched first
    shutil.rmtree(deleted.parent)
    with claim.acquire(tmp_path / "ours.json") as ours:
        time.sleep(0.15)
        waits = []
        monkeypatch.setattr(claim.time, "sleep", waits.append)
        claim.clear_dead([deleted, ours.path, *paths])
        assert len(waits) == 1
        assert ours.is_held
        for path in paths:
            assert list(path.parent.iterdir()) == []
            claim.acquire(path, is_brief=True).release()
    assert len(waits) == 1
    assert not deleted.parent.exists()


def test_claims_are_freed_in_one_order_each_once(tmp_path, monkeypatch):
    """Whoever frees the same in another order would wait for this process, as this one for it."""
    monkeypatch.setattr(claim, "LEASE_SECONDS", 0.3)
    paths = [tmp_path / name / "claim.json" for name in "bca"]
    lose_machine(paths)
    for path in paths:
        assert claim.acquire(path) is None
    monkeypatch.setattr(claim, "_is_still", lambda *_: True)
    monkeypatch.setattr(claim, "_wait_for_takers", lambda: None)
    tried = []
    real = claim._try
    monkeypatch.setattr(
        claim, "_try", lambda path, *a, **k: tried.append(path) or real(path, *a, **k)
    )
    claim.clear_dead([*paths, *paths])
    assert tried == sorted(paths)
    assert not any(path.exists() for path in paths)


def test_claim_that_beats_again_while_it_is_watched_is_left_alone(tmp_path, monkeypatch):
    path, other = tmp_path / "a" / "claim.json", tmp_path / "b" / "claim.json"
    lose_machine([path, other])
    said = []

    def beat(text):
        said.append(text)
        path.touch()

    monkeypatch.setattr(claim, "LEASE_SECONDS", 3.0)
    claim.watch_dead([path, other, tmp_path / "none.json"], beat)
    monkeypatch.setattr(claim, "LEASE_SECONDS", 30.0)
    path.touch()
    assert claim.owner(path)["host"] == "another-host"
    assert claim.holder(other) == {}
    assert len(said) == 1
    assert said[0].endswith(" on another-host")
    claim.watch_dead([path, other], said.append)
    assert len(said) == 1


def test_process_of_another_user_is_told_with_whose_it_is(tmp_path):
    with claim.acquire(tmp_path / "claim.json"):
        ours = claim.holder(tmp_path / "claim.json")
    assert claim.describe(ours) == f"{os.getpid()} on {socket.gethostname()}"
    theirs = {**ours, "user": 1_234_567}
    assert claim.describe(theirs) == f"{os.getpid()} of 1234567 on {socket.gethostname()}"
