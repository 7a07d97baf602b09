"""Published returns beside ours: the numbers, what differs in the protocol, and every format."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from analysis.arms import build_arms
from analysis.load import load_sweep
from analysis.reference import REFERENCES, list_beside
from analysis.summarize import main
from pwmray.published_returns import PUBLISHED_RETURNS
from pwmray.results import EVALUATIONS, read_table, write_rows
from pwmray.tasks import TASKS
from tests.squares import write_square, write_trials

OURS = {
    "reacher-easy": {"baseline": (900.0, 950.0, 1000.0)},
    "walker-stand": {"baseline": (500.0,)},
}
# What a trial must say of itself to have been made as PWM's runs were.
AS_PWM: dict[str, Any] = {
    "config": json.dumps({"data": {"source": "mt30"}}),
    "methodology": "policy_finetuning",
    "world_model_from": "w1",
}


def make(folder: Path, epochs: int = 10_000, **changes: Any) -> Path:
    return write_square(folder, OURS, epochs=epochs, **{**AS_PWM, **changes})


def beside(folder: Path, name: str = "pwm"):
    return list_beside(name, build_arms(load_sweep(folder)))


def run(folder: Path, *options: str) -> int:
    return main([str(folder), "--results", str(folder.parent), *options])


def test_every_task_of_mt30_has_published_returns():
    assert set(PUBLISHED_RETURNS) == set(TASKS)


def test_difference_is_given_under_the_published_protocol(tmp_path):
    reacher, walker = beside(make(tmp_path / "s")).rows
    assert reacher.differs_in == walker.differs_in == ()
    assert (reacher.published, walker.published) == (991.7, 995.4)
    assert reacher.difference == pytest.approx(950.0 - 991.7)
    assert walker.difference == pytest.approx(500.0 - 995.4)


@pytest.mark.parametrize(
    ("changes", "name", "note"),
    [
        ({"epochs": 300}, "epochs", "epochs: 10,000 published, ours 300."),
        ({"config": "{}"}, "data", "data: mt30 published, ours not recorded."),
        ({"world_model_parameters": 92_101}, "size", "size: 18,983,909 published, ours 92,101."),
        ({"evaluation_protocol": "action repeat 4"}, "action repeat", "2 published, ours 4."),
        (
            {"methodology": "joint_from_scratch"},
            "methodology",
            "policy_finetuning published, ours joint_from_scratch.",
        ),
    ],
)
def test_setting_that_differs_is_named_and_no_difference_is_given(tmp_path, changes, name, note):
    table = beside(make(tmp_path / "s", **changes))
    assert {row.differs_in for row in table.rows} == {(name,)}
    assert {row.difference for row in table.rows} == {None}
    assert "Not a comparison with PWM (48M)" in table.notes[0]
    assert note in table.notes[1]


def test_size_may_differ_by_what_the_guard_allows(tmp_path):
    assert beside(make(tmp_path / "s", world_model_parameters=18_945_293)).rows[0].differs_in == ()


def test_methodology_and_epochs_do_not_apply_to_one_agent_for_all_tasks(tmp_path):
    row = beside(make(tmp_path / "s", epochs=300), "tdmpc2").rows[0]
    assert row.differs_in == ()
    assert (row.published, row.published_sd) == (981.4, 8.96)


def test_difference_to_a_planner_is_that_of_the_plan_return(tmp_path):
    folder = make(tmp_path / "s")
    assert {row.difference for row in beside(folder, "tdmpc2").rows} == {None}
    episodes = read_table(folder / "evaluations.arrow").to_pylist()
    planned = [row | {"actor": "planner", "return": row["return"] + 20.0} for row in episodes]
    write_rows(folder / "evaluations.arrow", [*episodes, *planned], EVALUATIONS)
    row = beside(folder, "tdmpc2").rows[0]
    assert row.difference == pytest.approx(950.0 + 20.0 - 981.4)


def test_trials_that_others_replaced_have_no_say(tmp_path):
    rows = read_table(make(tmp_path / "first") / "trials.arrow").to_pylist()
    replaced = [row | {"trial": f"{row['trial']}-old", "epochs_reached": 9_000} for row in rows]
    write_trials(tmp_path / "s", [*rows, *replaced], ["variant", "task", "seed"], "variant")
    assert [row.differs_in for row in beside(tmp_path / "s").rows] == [(), ()]


def test_each_task_stands_beside_its_own_published_return(tmp_path):
    arms = build_arms(load_sweep(make(tmp_path / "s")))
    reacher, walker = list_beside("pwm", arms).rows
    assert (reacher.published, walker.published) == (991.7, 995.4)


def test_some_arms_under_the_protocol_are_told_from_the_others(tmp_path):
    folder = make(tmp_path / "s")
    other = write_square(tmp_path / "t", OURS, epochs=300, **AS_PWM)
    arms = [*build_arms(load_sweep(folder)), *build_arms(load_sweep(other))]
    table = list_beside("pwm", arms)
    assert "for the 2 of 4 arms" in table.notes[0]
    assert [row.difference is None for row in table.rows] == [False, False, True, True]


def test_no_verdict_is_given_under_any_reference(tmp_path):
    folder = make(tmp_path / "s")
    assert all("No verdict" in beside(folder, name).notes[-1] for name in REFERENCES)


# Every format.


@pytest.mark.parametrize("format", ["table", "md", "tex", "html"])
def test_formats_for_people_show_the_table_and_its_notes(tmp_path, capsys, format):
    folder = make(tmp_path / "s", epochs=300)
    assert run(folder, "--format", format, "--reference", "tdmpc2") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Beside TD-MPC2 (48M)" in shown
    assert "981.4" in shown
    assert "one agent for all 30 tasks" in shown
    assert run(folder, "--format", format) == 0
    assert "TD-MPC2" not in capsys.readouterr().out


def test_markdown_has_a_minus_where_nothing_is_compared(tmp_path, capsys):
    run(make(tmp_path / "s", epochs=300), "--format", "md", "--reference", "pwm")
    assert "| reacher-easy | 3 | 950.0 +- 50.0 | 991.7 | - |" in capsys.readouterr().out


def test_csv_has_columns_of_the_reference(tmp_path, capsys):
    run(make(tmp_path / "s", epochs=300), "--format", "csv", "--reference", "pwm")
    row = next(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert row["pwm_return"] == "991.7"
    assert (row["pwm_sd"], row["pwm_difference"], row["pwm_differs_in"]) == ("", "", "epochs")


def test_csv_per_seed_has_the_published_return_of_each_trial(tmp_path, capsys):
    run(make(tmp_path / "s"), "--format", "csv", "--reference", "pwm", "--per-seed")
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["pwm_return"] for row in rows] == ["991.7"] * 3 + ["995.4"]


def test_json_has_the_whole_table(tmp_path, capsys):
    run(make(tmp_path / "s"), "--format", "json", "--reference", "pwm")
    shown = json.loads(capsys.readouterr().out)["reference"]
    assert shown["rows"][0]["difference"] == pytest.approx(-41.7)
    assert shown["rows"][0]["differs_in"] == []
    assert "protocol agrees" in shown["notes"][0]


def test_plan_return_stands_beside_that_of_a_planning_agent(tmp_path, capsys):
    folder = make(tmp_path / "s")
    rows = read_table(folder / "evaluations.arrow").to_pylist()
    planned = [row | {"actor": "planner", "return": row["return"] + 10.0} for row in rows]
    write_rows(folder / "evaluations.arrow", rows + planned, EVALUATIONS)
    run(folder, "--format", "md", "--reference", "tdmpc2")
    assert "| 950.0 +- 50.0 | 960.0 +- 50.0 | 981.4 +- 9.0 | -21.4 |" in capsys.readouterr().out


def test_unknown_reference_is_one_line(tmp_path, capsys):
    assert run(make(tmp_path / "s"), "--reference", "pwn") == 2
    said = capsys.readouterr().err
    assert "invalid choice: 'pwn' (choose from" in said
    assert said.count("\n") == 1
    with pytest.raises(ValueError, match="unknown reference 'pwn'; did you mean 'pwm'"):
        list_beside("pwn", [])
