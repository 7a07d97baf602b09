"""The benchmark of many nodes refuses what it cannot measure before it starts one."""

import importlib

import pytest

from tests.documents import ROOT


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nosuchoption"], "unrecognized arguments: --nosuchoption"),
        (["--nodes", "0"], "argument --nodes: '0' is not a whole number of at least 1"),
        (["--seconds", "nan"], "argument --seconds: 'nan'; valid: seconds from 0 to 3600"),
        (["--seconds", "-1"], "argument --seconds: '-1'; valid: seconds from 0 to 3600"),
        (["--seconds", "two"], "argument --seconds: 'two'; valid: seconds from 0 to 3600"),
    ],
)
def test_bad_option_is_one_line(arguments, message, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    assert importlib.import_module("many_nodes").main(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" (see ")[0] for line in lines] == [f"error: {message}"]
