"""A search's space: what it may hold, and what is proposed of it."""

import dataclasses
import json

import pytest

from pwmray import learner_code, prices, registry, results
from pwmray.search.plan_text import as_json, as_table
from pwmray.search.study import FINGERPRINT
from tests.planned_sweeps import run
from tests.studies import TASK, THREE, advance, evaluate, fail, make_plan, open_trials
from tests.tiny_search import search

pytestmark = pytest.mark.usefixtures("short_episodes", "one_machine")


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({}, "the search space is empty"),
        ({"policy.num_substeps": []}, r"'policy.num_substeps' is \[\]: valid: a list of choices"),
        ({"policy.num_substeps": "124"}, "is '124': valid: a list of choices"),
        ({"learner.model_lr": {"low": 1.0}}, "a range has low and high, and may have log"),
        ({"learner.model_lr": {"low": 1.0, "high": 2.0, "lg": True}}, "a range has low and high"),
        ({"learner.model_lr": {"low": 2.0, "high": 1.0}}, "'learner.model_lr' is {.*}: .*low"),
        ({"learner.model_lr": {"low": 0.0, "high": 1.0, "log": True}}, "'learner.model_lr' is"),
        ({"learner.model_rl": [1.0]}, "unknown config key 'learner.model_rl'; did you mean"),
        ({"policy.num_substeps": [0]}, "policy.num_substeps is 0; it must be at least 1"),
        ({"policy.num_substeps": [1, 2, 0]}, "policy.num_substeps is 0; it must be at least 1"),
        ({"policy.integrator": ["euler", "hune"]}, "policy.integrator is 'hune'"),
        ({"learner.td_lambda": {"low": 0.5, "high": 1.5}}, "learner.td_lambda is 1.5"),
        (
            {"world_model[flow].num_substeps": [1, 2], "learner.actor_lr": [1e-3, 1e-2]},
            r"search tiny_search: 'world_model\[flow\].num_substeps' changes no trial",
        ),
    ],
)
def test_space_that_cannot_be_searched_is_refused(space, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        make_plan(tmp_path, of=dataclasses.replace(search, space=space))


def test_choice_that_asks_for_another_keys_is_searched(tmp_path, data):
    space = {"policy.kind": ["gaussian", "flow"], "policy[flow].num_substeps": [1, 2]}
    kinds = dataclasses.replace(search, space=space, hold={"epochs": 6, "seed": 1})
    plan = make_plan(tmp_path, of=kinds)
    assert len(plan.cells) == plan.num_trials == 3  # a Gaussian has no substeps
    trials = open_trials(tmp_path, data, of=kinds)
    configs = [trials.next(str(number)) for number in range(4)]
    assert len({config["grid"][FINGERPRINT] for config in configs[:3]}) == 3
    assert configs[3] is None


def test_choices_that_are_tuples_are_searched_and_gone_on_with(tmp_path, recwarn):
    space = {"policy.units": [(16,), (32,), (8, 8)], **search.space}
    widths = dataclasses.replace(search, space=space)
    for _ in range(2):  # TPE begins with ten draws
        plan = make_plan(tmp_path, of=widths)
        found = plan.open_study(TASK)
        for value in range(12):
            trial = found.ask(plan.space)
            units = plan.config(TASK, trial.params).policy.units
            assert units in space["policy.units"]
            found.tell(trial, value)
    assert not recwarn.list


def test_range_with_whole_ends_is_of_whole_numbers_from_one_to_the_other(tmp_path):
    space = {"policy.num_substeps": {"low": 1, "high": 4}, "learner.horizon": [2]}
    plan = make_plan(tmp_path, 999, dataclasses.replace(search, space=space))
    assert [cell["policy.num_substeps"] for cell in plan.cells] == [1, 2, 3, 4]
    assert (plan.num_trials, plan.is_finite) == (4, True)
    assert "policy.num_substeps: 1 to 4\n" in as_table(plan)
    for low, high in ((0, 0.5), (0.5, 1)):
        half = {"learner.td_lambda": {"low": low, "high": high}}
        plan = make_plan(tmp_path, 999, dataclasses.replace(search, space=half))
        assert (plan.cells, plan.num_trials, plan.is_finite) == ([], 999, False)


def test_number_of_trials_is_at_most_that_of_different_settings(tmp_path):
    space = {"policy.num_substeps": list(range(1, 31)), "learner.horizon": list(range(2, 32))}
    assert make_plan(tmp_path, 999, dataclasses.replace(search, space=space)).num_trials == 900


def test_space_with_nothing_new_is_asked_again_when_a_trial_has_ended(tmp_path, data, monkeypatch):
    monkeypatch.setattr("pwmray.search.space._MAX_CELLS", 0)  # as of a space that has too many
    trials = open_trials(tmp_path, data, number=9, of=THREE)
    assert all(trials.next(name) is not None for name in "abc")
    assert [trials.next("d") for _ in range(20)] == [None] * 20
    num_proposals = len(trials.study.get_trials())
    assert num_proposals < 20
    evaluate(registry.trial_folder(tmp_path, next(iter(trials._proposals.asked))))
    trials.end("a", {"epoch": 6}, is_error=False)
    assert trials.next("d") is None
    assert len(trials.study.get_trials()) > num_proposals
    assert not trials.is_over


def test_scale_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="search tiny_search: at_scale: unknown scale 'tny'"):
        dataclasses.replace(search, at_scale={"tny": {"num_trials": 1}}).check()


@pytest.mark.parametrize("key", ["seed", "epochs", "task", "data.num_episodes", "runtime.num_cpus"])
def test_what_makes_returns_incomparable_is_not_searched_over(key):
    with pytest.raises(ValueError, match=f"search tiny_search: '{key}' cannot be searched over"):
        dataclasses.replace(search, space={key: [1, 2]}).check()


def test_plan_of_a_short_search_says_minutes_and_of_a_long_one_hours(tmp_path):
    # Ten minutes for 1,000 epochs: six epochs a trial.
    assert "to run: 5 trials, about 0.3 device minutes if" in as_table(make_plan(tmp_path, 5))
    longer = dataclasses.replace(search, hold={**search.hold, "epochs": 12_000})
    said = "to run: 5 trials, about 10.0 device hours if"
    assert said in as_table(make_plan(tmp_path, 5, of=longer))


SCALE = {**search.scales["tiny"], "minutes_per_1000_epochs": {"flowpolicy": 1000.0}}
PRICED = dataclasses.replace(search, scales={"tiny": SCALE}, space={"policy.num_substeps": [1, 9]})


def test_trial_of_a_search_costs_what_those_of_its_space_cost_on_average(tmp_path):
    ends = [PRICED.config("tiny", TASK, {"policy.num_substeps": number}) for number in (1, 9)]
    cheap, dear = (price.minutes(6) for price in prices.price(ends, {}, SCALE))
    minutes = make_plan(tmp_path, of=PRICED).minutes
    assert 0.7 * cheap + 0.3 * dear < minutes < 0.3 * cheap + 0.7 * dear


def test_search_of_which_only_the_default_has_a_price_is_priced_by_operations(tmp_path):
    known = {"settings": {"policy.num_substeps": 1}, "epochs": 6, "minutes": (12,), "gpu": ""}
    scales = {"tiny": {**search.scales["tiny"], "earlier_runs": [known]}}
    dearer = {"policy.num_substeps": [5, 9]}
    assert (
        make_plan(tmp_path, of=dataclasses.replace(search, scales=scales, space=dearer)).minutes
        > 12
    )


def test_search_is_priced_at_the_pace_of_its_finished_trials(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # of a GPU they would tell nothing
    before = make_plan(tmp_path, of=PRICED)
    done = PRICED.config("tiny", TASK, {"policy.num_substeps": 1})
    seconds = 4 * 60 * prices.price([done], {}, SCALE)[0].minutes(done.epochs)
    row = dict.fromkeys(results.TRIALS.names) | {
        "trial": done.fingerprint, "status": "EVALUATED", "epochs": done.epochs, "device": "cpu",
        "train_seconds": seconds, "evaluation_seconds": 0.0, "config": json.dumps(done.to_dict()),
    }  # fmt: skip
    other = row | {"trial": "other", "config": json.dumps(done.to_dict() | {"momentum": 0.9})}
    broken = row | {"trial": "broken", "config": "{"}
    lost = row | {"trial": "lost", "config": None}
    before.folder.mkdir()
    rows = [other, broken, lost, row]
    results.write_rows(before.folder / "trials.arrow", rows, results.TRIALS)
    assert make_plan(tmp_path, of=PRICED).minutes == pytest.approx(4 * before.minutes)
    said = f"trial other in {before.folder} cannot be used to price the plan: unknown config key"
    assert f"{said} 'momentum'\n" in caplog.text


def test_plan_tells_how_each_trial_ended_that_was_tried(tmp_path, data):
    trials = open_trials(tmp_path, data)
    trials.next("a")
    fail(trials, "b", reason="the loss is nan", failure="non-finite")
    plan = make_plan(tmp_path)
    said = as_table(plan)
    assert f"learner.actor_lr: 0.0001 to 0.01, logarithmically\n{TASK}: 1 failed, 1 begun\n" in said
    assert "confirm it in a sweep" not in said  # there is no best one yet
    shown = json.loads(as_json(plan))
    assert shown["tasks"] == {TASK: {"counts": {"failed": 1, "begun": 1}, "best": []}}
    assert (shown["trials_of_a_task"], shown["trials_left"]) == (5, 5)  # what failed is tried again
    assert shown["disk_bytes"] == 5 * plan.trial_bytes
    assert shown["minutes_if_none_stops_early"] == round(5 * plan.minutes, 2)
    again = open_trials(tmp_path, data)
    assert again.next("c") and again.next("d")
    assert f"{TASK}: 1 failed, 1 begun\n" in as_table(make_plan(tmp_path))  # each counts once


def test_search_that_is_changed_is_another_study(tmp_path):
    names = [
        make_plan(tmp_path, of=changed).open_study(TASK).study_name
        for changed in (
            search,
            dataclasses.replace(search, num_trials=9),
            dataclasses.replace(search, space={"policy.num_substeps": [1, 2]}),
            dataclasses.replace(search, hold={**search.hold, "epochs": 8}),
        )
    ]
    assert names[0] == names[1]
    assert len(set(names)) == 3


def test_search_by_an_earlier_version_of_the_learner_is_another_study(tmp_path, monkeypatch):
    now = make_plan(tmp_path).open_study(TASK).study_name
    monkeypatch.setattr("pwmray.search.plan.FORMAT", 1)
    assert make_plan(tmp_path).open_study(TASK).study_name != now


def test_plan_of_a_changed_search_says_what_does_not_count(tmp_path, data):
    trials = open_trials(tmp_path, data)
    for number in range(2):
        fail(trials, f"{number}", reason="the loss is nan", failure="non-finite")
    said = "study.journal has 2 trials of pendulum-spin from other settings of the search, not"
    assert said not in as_table(make_plan(tmp_path))
    changed = dataclasses.replace(search, hold={**search.hold, "epochs": 8})
    assert said in as_table(make_plan(tmp_path, of=changed))


def test_trials_that_other_code_trained_are_told(tmp_path, data, monkeypatch):
    trials = open_trials(tmp_path, data)
    advance(trials, "0", data)
    assert "other code" not in as_table(make_plan(tmp_path))
    monkeypatch.setattr(learner_code, "_digest_shared", lambda: "0" * 8)
    said = f"note: 1 of {TASK}'s trials were trained by other code of the learner; they count all"
    assert said in as_table(make_plan(tmp_path))


def test_trials_that_ended_on_other_data_than_is_there_now_are_told(
    tmp_path, data, monkeypatch, capsys
):
    trials = open_trials(tmp_path, data)
    advance(trials, "0", data)
    advance(trials, "1", data)
    data_dir = data.parent.parent
    for folder, notes in ((None, 0), (data_dir, 0), (tmp_path / "none", 0)):
        plan = dataclasses.replace(make_plan(tmp_path), data_dir=folder)
        assert as_table(plan).count("note: ") == notes
    monkeypatch.setattr("pwmray.search.plan.current_fingerprint", lambda *_: "0" * 16)
    said = f"note: 2 of {TASK}'s trials were trained on data that has changed since"
    plan = dataclasses.replace(make_plan(tmp_path), data_dir=data_dir)
    assert said in as_table(plan)
    _, out, _ = run(capsys, "--plan", "--results", tmp_path, "--data", data_dir, of=search)
    assert said in out
    one = next((tmp_path / "trials").iterdir())
    (one / "events.jsonl").write_text("<<<<<<< HEAD\n")
    assert said.replace("2 of", "1 of") in as_table(plan)


def test_space_is_drawn_jointly_and_goes_on_with_other_draws(tmp_path):
    plan = make_plan(tmp_path)
    space = plan.space
    first = plan.open_study(TASK)
    assert first.sampler._multivariate
    drawn = [first.ask(space).params["learner.actor_lr"] for _ in range(2)]
    drawn += [plan.open_study(TASK).ask(space).params["learner.actor_lr"] for _ in range(2)]
    assert len(set(drawn)) == 4
    assert all(1e-4 <= value <= 1e-2 for value in drawn)
