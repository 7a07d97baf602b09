"""Who can reach a sweep, and where its names can lead."""

import contextlib
import dataclasses
import os
import signal
from pathlib import Path

import pytest

from pwmray.levels import name_trial
from tests.fault_rounds import below
from tests.gated import FIRST_ROW, start_gated, wait_for_gate
from tests.tiny import sweep
from tests.tiny_search import search

LISTENING = "0A"  # a socket's state in /proc/net/tcp
TOKEN = "5ec4e7" * 8
HOSTILE = ["", ".", "..", "../out", "/out", "a/b", "a\nb", "a\0b", "-a", "trials", "pretrained"]


@pytest.mark.parametrize("specified", [sweep, search], ids=["sweep", "search"])
@pytest.mark.parametrize("name", HOSTILE)
def test_name_that_would_leave_the_results_folder_is_refused(specified, name):
    with pytest.raises(ValueError, match=r"is called .*; valid: up to 100 letters") as refused:
        dataclasses.replace(specified, name=name).check()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("level", ["../../out", "/etc/passwd", "a\nb", "a\0b", ".."])
def test_level_of_an_axis_leads_nowhere_in_a_trials_name(level):
    varied = dataclasses.replace(
        sweep, vary={**sweep.vary, "kind": {level: {"learner.horizon": 4}}}, within=["variant"]
    )
    config = varied.trials("tiny")[0]
    name = name_trial(config, varied.axes, varied.named_levels("tiny"))
    assert Path(name).name == name
    assert name.isprintable()


@pytest.mark.slow
def test_own_ray_listens_on_loopback_alone_and_leaks_no_token(tmp_path):
    own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    process = start_gated(tmp_path, FIRST_ROW, "tiny", "--scale", "tiny", **own)
    try:
        wait_for_gate(tmp_path, process)
        sockets = {name: listening(pid) for pid, name in below(process.pid).items()}
    finally:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert sum(map(len, sockets.values())) > 4
    assert not {n: found for n, found in sockets.items() if not all(map(is_loopback, found))}
    assert TOKEN not in out + err
    files = [path for path in (tmp_path / "results").rglob("*") if path.is_file()]
    assert len(files) > 2
    assert not [path for path in files if TOKEN.encode() in path.read_bytes()]


def listening(pid: int) -> list[str]:
    """Return the addresses, in the kernel's digits, at which a process listens."""
    inodes = set()
    with contextlib.suppress(FileNotFoundError):  # it ended
        for path in Path(f"/proc/{pid}/fd").iterdir():
            target = read_link(path)
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    rows = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
    ]
    return [row[1] for row in rows if row[3] == LISTENING and row[9] in inodes]


def read_link(path: Path) -> str:
    try:
        return os.readlink(path)
    except FileNotFoundError:  # it was closed
        return ""


def is_loopback(address: str) -> bool:
    """Tell it from the kernel's digits: IPv4, IPv6, or IPv4 within IPv6."""
    host = address.partition(":")[0]
    return host.endswith("7F") or host == "00000000000000000000000001000000"
