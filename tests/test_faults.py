"""Folders that people edited, disks cut short or versions mixed: one line that names the file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis.summarize import RENDERERS, main
from pwmray.results import SCHEMAS, read_table, write_rows
from tests.made_sweeps import make_sweep


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_sweep(tmp_path / "s", tasks=("reacher-easy",))


def edit(folder: Path, name: str, change: Callable[[int, dict], dict[str, Any]]) -> None:
    """Change the rows of a table by their place."""
    path = folder / f"{name}.arrow"
    rows = [row | change(place, row) for place, row in enumerate(read_table(path).to_pylist())]
    write_rows(path, rows, SCHEMAS[name])


def describe(folder: Path, **changes: Any) -> None:
    path = folder / "sweep.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def run(folder: Path, *options: str) -> int:
    return main([str(folder), "--per-seed", *options])


def fails_with(capsys, code: int) -> str:
    printed = capsys.readouterr()
    assert (code, printed.out) == (2, "")
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    return printed.err


@pytest.mark.parametrize("content", ["null", "3", "[]", "{", "\xff"])
def test_sweep_file_that_is_no_object_is_named(folder, capsys, content):
    (folder / "sweep.json").write_bytes(content.encode("latin1"))
    assert f"{folder}/sweep.json" in fails_with(capsys, run(folder))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("name", None, "name is None, not text"),
        ("compare", ["epochs"], "compare is ['epochs'], not text"),
        ("varies", "epochs", "varies is 'epochs', not a list of texts"),
        ("trials", [1], "trials is [1], not a list of texts"),
        ("within", [None], "within is [None], not a list of texts"),
        ("axes", [], "axes is [], not an object"),
        ("axes", {"epochs": None}, "axes.epochs is None, not a list of texts"),
    ],
)
def test_wrong_kind_in_the_sweep_file_is_named_with_its_key(folder, capsys, key, value, said):
    describe(folder, **{key: value})
    assert f"{folder}/sweep.json: {said}" in fails_with(capsys, run(folder))


@pytest.mark.parametrize("column", ["status", "task", "variant", "epochs", "seed"])
def test_trial_that_does_not_say_what_it_is_is_named(folder, capsys, column):
    edit(folder, "trials", lambda place, _: {column: None} if place == 1 else {})
    said = fails_with(capsys, run(folder))
    assert f"{folder}/trials.arrow: trial reacher-easy-baseline-100-123 has no {column}" in said


def test_unknown_task_is_named_with_its_trial(folder, capsys):
    edit(folder, "trials", lambda place, _: {"task": "reacher"} if place == 1 else {})
    assert "100-123 has the unknown task 'reacher'" in fails_with(capsys, run(folder))


@pytest.mark.parametrize("config", ["{", "[]"])
def test_broken_config_is_named_where_it_is_needed(folder, capsys, config):
    edit(folder, "trials", lambda place, _: {"config": config} if place == 1 else {})
    said = fails_with(capsys, run(folder, "--reference", "pwm"))
    assert "trials.arrow: the config of trial reacher-easy-baseline-100-123" in said


@pytest.mark.parametrize("name", list(SCHEMAS))
@pytest.mark.parametrize("place", [0, 9, 60, 200, 600, -300, -60, -9])
def test_changed_bytes_are_told_of_or_change_values_alone(folder, capsys, name, place):
    path = folder / f"{name}.arrow"
    content = bytearray(path.read_bytes())
    content[place] ^= 0xD5
    path.write_bytes(content)
    code = run(folder, "--format", "json")
    printed = capsys.readouterr()
    assert (code == 2 and str(path) in printed.err) or json.loads(printed.out)["arms"]


def test_what_is_there_is_shown_while_trials_run_and_fail(folder, capsys):
    lost = {"return_mean": None, "train_seconds": None, "epochs_reached": None, "ended_at": None}
    states = ["EVALUATED", "RUNNING", "FAILED"]
    edit(folder, "trials", lambda place, row: {"status": states[place % 3]} | (
        lost if place % 3 else {}))  # fmt: skip
    for format in RENDERERS.keys() - {"html"}:
        assert run(folder, "--format", format) == 0
    assert "Incomplete (1/3 seeds)" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["curves", "evaluations"])
def test_table_that_is_missing_leaves_the_others(folder, capsys, name):
    (folder / f"{name}.arrow").unlink()
    code = run(folder, "--format", "json")
    printed = capsys.readouterr()
    if name == "curves":
        assert json.loads(printed.out)["counts"] == {"planned": 18, "EVALUATED": 18}
    else:
        assert code == 2
        assert "18 marked evaluated without usable episodes" in printed.err


@pytest.mark.parametrize("name", list(SCHEMAS))
@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_page_of_damaged_numbers_is_made_or_says_why_not(folder, capsys, name, value):
    column = {"evaluations": "return"}.get(name, "return_mean")
    edit(folder, name, lambda place, _: {column: value} if place % 4 == 0 else {})
    code = run(folder, "--format", "html")
    printed = capsys.readouterr()
    is_refused = code == 2 and str(folder / f"{name}.arrow") in printed.err
    assert (is_refused and printed.err.count("\n") == 1) or code == 0


def test_rows_of_two_versions_are_not_compared(folder, capsys):
    edit(folder, "trials", lambda place, row: {"git_commit": "c9"} if row["epochs"] == 400 else {})
    assert run(folder, "--format", "md") == 0
    printed = capsys.readouterr().out
    assert "Not comparable" in printed
    assert "git_commit: c1 against c9" in printed
