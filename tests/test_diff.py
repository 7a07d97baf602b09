"""What differs between two trials or sweeps, as `analysis/diff.py` says it."""

import json

import pytest

from analysis.diff import main
from tests.made_sweeps import make_sweep, no_change
from tests.squares import write_trials

TASKS = ("reacher-easy",)


@pytest.fixture
def results(tmp_path):
    """Two sweeps of the same cells, the second by other code on other data, and two trials."""
    make_sweep(tmp_path / "before", no_change, TASKS)
    make_sweep(tmp_path / "after", changed, TASKS)
    make_sweep(tmp_path / "again", no_change, TASKS)
    for name in ("0123456789abcdef", "0123ffff89abcdef"):
        (tmp_path / "trials" / name).mkdir(parents=True)
    return tmp_path


def changed(row):
    config = {"evaluation": {"num_episodes": 10}, "policy": {"num_substeps": 4}, "seed": 1}
    return {
        "config": json.dumps(config),
        "git_commit": "fedcba987654",
        "data_fingerprint": f"data-{row['seed']}",
        "torch_version": "2.14.0",
        "kernels": "off: no C++ compiler",
    }


def run(results, *arguments):
    return main([*arguments, "--results", str(results)])


def test_sweeps_are_compared_field_by_field(results, capsys):
    assert run(results, "before", "after") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[:4] == [
        ["before", "after"],
        ["config:"],
        ["policy.num_substeps", "2", "4"],
        ["seed", "-", "1"],
    ]
    assert [line[0] for line in lines[4:]] == [
        "data:", "data_fingerprint", "code:", "git_commit", "versions:", "torch_version",
        "hardware:", "kernels",
    ]  # fmt: skip
    assert lines[5][-3:] == ["data-42,", "data-123,", "data-456"]
    assert lines[-3] == ["torch_version", "2.13.0", "2.14.0"]
    assert lines[-1] == ["kernels", "None", "off:", "no", "C++", "compiler"]


def test_another_world_model_under_the_same_path_is_a_difference(results, capsys):
    make_sweep(results / "made_again", lambda _: {"world_model_from": "5f3a0c11"}, TASKS)
    assert run(results, "before", "made_again") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1:] == [["world", "model:"], ["world_model_from", "scratch", "5f3a0c11"]]


def test_sweeps_alike_differ_in_nothing(results, capsys):
    assert run(results, "before", "again") == 0
    out = capsys.readouterr().out
    assert out == "nothing differs between before (18 trials) and again (18 trials)\n"


@pytest.mark.parametrize(("number", "more"), [(4, ""), (5, " and 1 more")])
def test_of_more_than_four_values_the_rest_are_counted(number, more, results, capsys):
    versions = iter([f"v{place % number}" for place in range(18)])
    make_sweep(results / "mixed", lambda _: {"torch_version": next(versions)}, TASKS)
    assert run(results, "before", "mixed") == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"torch_version  2.13.0  v0, v1, v2, v3{more}"


def test_differences_as_json_are_whole(results, capsys):
    run(results, "before", "after", "--format", "json")
    found = {row["field"]: row for row in json.loads(capsys.readouterr().out)}
    assert found["data_fingerprint"]["part"] == "data"
    assert found["data_fingerprint"]["other"] == ["data-42", "data-123", "data-456"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("befor", "no trial 'befor' in "),
        ("0123", "'0123' matches 2 trials: 0123456789abcdef, 0123ffff89abcdef; give more char"),
        ("0123456", "trial 0123456789abcdef is in no table of a sweep in "),
    ],
)
def test_name_of_nothing_is_one_line(results, name, said, capsys):
    assert run(results, name, "after") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {said}")


@pytest.mark.parametrize("content", [None, b"half"])
def test_trial_is_found_beside_a_sweep_that_cannot_be_read(content, results, capsys):
    described = json.loads((results / "before" / "sweep.json").read_text())
    trial = described["trials"][0]
    (results / "aaa").mkdir()
    (results / "aaa" / "sweep.json").write_text(json.dumps(described))
    if content is not None:
        (results / "aaa" / "trials.arrow").write_bytes(content)
    (results / "before" / "trials").mkdir()
    (results / "before" / "trials" / "some").symlink_to(f"../../trials/{trial}")
    assert run(results, "some", "after") == 0
    assert run(results, "0123456", "after") == 2
    assert "aaa/trials.arrow" in capsys.readouterr().err


def test_sweep_without_a_trial_yet_is_one_line(results, capsys):
    write_trials(results / "begun", [], ["seed"], "variant")
    assert run(results, "begun", "after") == 2
    assert (
        capsys.readouterr().err == f"error: sweep begun in {results} has no trials to compare yet\n"
    )


def test_no_results_folder_is_one_line(tmp_path, capsys):
    assert run(tmp_path / "nowhere", "a", "b") == 2
    assert "there is no results folder" in capsys.readouterr().err
