"""What `cluster/submit.py` says before it asks Slurm anything."""

from pathlib import Path

import pytest

from cluster.submit import load_sweep, main

SWEEPS = Path(__file__).parent.parent / "sweeps"


def test_unknown_file_is_named_with_those_that_there_are():
    with pytest.raises(ValueError, match=r"no sweep's file .*phase6\.py; did you mean ") as refused:
        load_sweep(SWEEPS / "phase6.py")
    assert str(SWEEPS / "phase6_epochs.py") in str(refused.value)


def test_file_without_a_sweep_is_refused():
    with pytest.raises(ValueError, match=r"search_flow\.py defines no Sweep: this submits sweeps"):
        load_sweep(SWEEPS / "search_flow.py")


@pytest.mark.parametrize("option", ["--addr=auto", "--pla", "--gpu-typ=A100"])
def test_abbreviated_option_gets_past_no_check(option, capsys):
    sweep = str(SWEEPS / "phase6_epochs.py")
    assert main([sweep, "--profile", "h100", "--scale", "laptop", option]) == 2
    assert f"unrecognized arguments: {option} " in capsys.readouterr().err
