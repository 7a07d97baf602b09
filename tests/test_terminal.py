"""Commands in a terminal, which print otherwise than into a file."""

from pathlib import Path

import pytest

from pwmray.registry import Status
from pwmray.results import read_table
from tests.terminal import Terminal

TINY = Path(__file__).parent / "tiny.py"


def statuses(folder):
    return read_table(folder / "results" / "tiny" / "trials.arrow")["status"].to_pylist()


@pytest.mark.slow
def test_sweep_in_a_terminal_shows_what_runs_and_what_is_done(tmp_path):
    with Terminal(tmp_path, TINY, "--limit", "2", "--wandb", "off") as terminal:
        assert terminal.wait() == 0
    for text in ("2 running", "done pendulum-spin-baseline", "2 of 2 trials done"):
        assert text in terminal.text
    assert statuses(tmp_path) == [Status.EVALUATED] * 2
