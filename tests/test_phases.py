"""Every file in sweeps/: what its docstring promises is what it runs."""

import dataclasses
import json
import re
from collections import Counter

import pytest

from pwmray.fidelity import Fidelity
from pwmray.pretraining.config import PretrainingConfig
from pwmray.search import Search
from pwmray.search.plan import SearchPlan
from pwmray.tasks import TASKS
from search_spaces import SEARCH_SEED, TRAIN_SEEDS
from tests.phases import FILES, PHASES, SPECIFIED, SWEEPS
from tests.planned_sweeps import run

PAPER_TRIALS = {
    "phase3_policy": 18,
    "phase4_full_flow": 9,
    "phase5_flow_tuning": 18,
    "phase6_epochs": 72,
    "phase7_finetune": 27,
    "phase8_factorial": 72,
    "phase9_corrections": 216,
    "phase9_errors": 135,
    "collection_rounds": 81,
    "matmul": 90,
}
DEV3 = {"reacher-easy", "walker-stand", "cheetah-run"}
JOINT = {"joint_from_scratch"}
FROZEN, FINETUNED = {"policy_finetuning"}, {"policy_and_wm_finetuning"}
# variants, epochs, tasks, methodologies
GRIDS = {
    "phase3_policy": ({"baseline", "flowpolicy"}, {15_000}, DEV3, FROZEN),
    "phase4_full_flow": ({"fullflow"}, {10_000}, DEV3, JOINT),
    "phase5_flow_tuning": ({"fullflow"}, {15_000}, DEV3 - {"reacher-easy"}, JOINT),
    "phase7_finetune": ({"baseline", "flowpolicy"}, {15_000}, DEV3, FINETUNED),
    "phase8_factorial": (
        {"baseline", "flowpolicy", "flowwm", "fullflow"},
        {15_000},
        DEV3,
        FROZEN | FINETUNED,
    ),
}


def sections(name):
    """Return the docstring's sections by their first word."""
    text = PHASES[name]["__doc__"].split("\n\n", 1)[1]
    parts = re.split(r"^(\w+) {2,}", text, flags=re.MULTILINE)[1:]
    return {
        word: " ".join(said.split()) for word, said in zip(parts[::2], parts[1::2], strict=True)
    }


def axes(specified):
    return specified.space if isinstance(specified, Search) else specified.vary


def named_axes(varies):
    return re.split(r",\s*", re.sub(r"\s*\([^)]*\)", "", varies))


@pytest.mark.parametrize("name", PHASES)
def test_specification_says_what_it_asks_varies_holds_and_compares(name):
    assert list(sections(name)) == ["Question", "Varies", "Holds", "Compares"]


@pytest.mark.parametrize("name", PHASES)
def test_docstring_names_the_axes_in_any_order(name):
    assert sorted(named_axes(sections(name)["Varies"])) == sorted(axes(SPECIFIED[name]))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_specification_is_short_and_ends_with_a_main_of_two_lines(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= 50
    assert lines[-2] == 'if __name__ == "__main__":'
    assert lines[-1].strip() in ("sweep.main()", "pretraining.main()", "search.main()")


@pytest.mark.parametrize("name", SPECIFIED)
def test_specification_has_the_name_of_its_file(name):
    assert SPECIFIED[name].name == name


def test_every_sweep_is_counted_below():
    assert set(PAPER_TRIALS) == set(SWEEPS)


@pytest.mark.parametrize(("name", "number"), PAPER_TRIALS.items())
def test_paper_scale_has_exactly_the_trials_of_the_experiment(name, number):
    trials = SWEEPS[name].cells("paper")
    assert len(trials) == len({trial.fingerprint for trial in trials}) == number
    assert {42, 123, 456} <= {trial.seed for trial in trials}


@pytest.mark.parametrize(("name", "grid"), GRIDS.items())
def test_phase_is_the_whole_grid_of_the_experiment(name, grid):
    trials = SWEEPS[name].cells("paper")
    assert (
        tuple(
            {getattr(trial, key) for trial in trials}
            for key in ("variant", "epochs", "task", "methodology")
        )
        == grid
    )
    assert {trial.seed for trial in trials} == {42, 123, 456}
    assert len(set(Counter((t.task, t.seed) for t in trials).values())) == 1


def test_phase5_has_the_three_tunings_of_both_flows():
    trials = SWEEPS["phase5_flow_tuning"].cells("paper")
    flows = ((t.world_model, t.policy) for t in trials)
    assert {(w.integrator, w.num_substeps, p.integrator, p.num_substeps) for w, p in flows} == {
        ("heun", 8, "heun", 2),
        ("heun", 4, "heun", 4),
        ("euler", 4, "euler", 2),
    }


def test_phase7_has_a_gaussian_policy_and_flows_of_two_and_four_substeps():
    trials = SWEEPS["phase7_finetune"].cells("paper")
    steps = Counter(getattr(trial.policy, "num_substeps", None) for trial in trials)
    assert steps == {None: 9, 2: 9, 4: 9}
    assert {trial.world_model.kind for trial in trials} == {"mlp"}


def test_phase6_asks_for_h100_up_to_50_000_epochs_and_for_h200_beyond():
    trials = SWEEPS["phase6_epochs"].cells("paper")
    assert {(trial.epochs, trial.runtime.gpu_type) for trial in trials} == {
        (15_000, "H100"),
        (50_000, "H100"),
        (100_000, "H200"),
        (150_000, "H200"),
    }
    laptop = SWEEPS["phase6_epochs"].cells("laptop")
    assert {trial.runtime.gpu_type for trial in laptop} == {""}


@pytest.mark.parametrize("name", SWEEPS)
def test_laptop_scale_is_small_and_without_duplicates(name):
    trials = SWEEPS[name].cells("laptop")
    assert len(trials) == len({trial.fingerprint for trial in trials}) > 0
    assert max(trial.epochs for trial in trials) <= 300
    assert {trial.world_model.latent_dim for trial in trials} == {64}


@pytest.mark.parametrize("scale", ["paper", "laptop"])
@pytest.mark.parametrize("name", SWEEPS)
def test_pretrained_world_models_of_a_phase_are_those_that_its_pretraining_makes(name, scale):
    sweep = SWEEPS[name]
    trials = [trial for trial in sweep.cells(scale) if trial.awaits_world_model]
    behind = [PretrainingConfig.behind(trial, sweep.scales[scale]) for trial in trials]
    made = {config.fingerprint for config in SPECIFIED[sweep.pretraining].configs(scale)}
    assert {config.fingerprint for config in behind} <= made
    assert all(t.task in config.tasks for t, config in zip(trials, behind, strict=True))


def test_phase8_pretraining_is_a_pair_of_200_000_iterations_on_all_tasks():
    pair = SPECIFIED["phase8_pretrain"].configs("paper")
    assert [config.world_model.kind for config in pair] == ["mlp", "flow"]
    assert {config.settings.iterations for config in pair} == {200_000}
    assert {config.tasks for config in pair} == {tuple(TASKS)}


@pytest.mark.parametrize("name", SWEEPS)
def test_every_phase_is_planned_on_all_30_tasks(name, tmp_path, capsys):
    options = ["--plan", "--scale", "paper", "--results", tmp_path, "--format", "json"]
    code, out, errors = run(capsys, *options, "--tasks", "mt30", "--seeds", "42", of=SWEEPS[name])
    assert (code, errors) == (0, [])
    content = json.loads(out)
    assert {trial["task"] for trial in content["trials"]} == set(TASKS)
    assert sum(content["device_hours"].values()) > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("scale", "epochs"), [("paper", 15_000), ("laptop", 225)])
def test_search_is_of_the_full_flow_from_scratch_with_one_seed(scale, epochs, tmp_path):
    search = SPECIFIED["search_flow"]
    tasks = list(search.tasks_at(scale))
    plan = SearchPlan.make(search, scale, tasks, search.num_trials_at(scale), tmp_path)
    config = plan.config(tasks[0], {})
    found = (config.variant, config.methodology, config.epochs, config.seed)
    assert found == ("fullflow", "joint_from_scratch", epochs, SEARCH_SEED)
    assert SEARCH_SEED not in TRAIN_SEEDS


def test_search_is_planned_on_all_30_tasks(tmp_path, capsys):
    options = ["--plan", "--scale", "paper", "--results", tmp_path, "--tasks", "mt30"]
    code, out, errors = run(capsys, *options, of=SPECIFIED["search_flow"])
    assert (code, errors) == (0, [])
    assert all(f"{task}: nothing yet" in out for task in TASKS)


def test_errors_are_none_all_and_each_switch_alone():
    trials = SWEEPS["phase9_errors"].cells("paper", {"task": ["cheetah-run"], "seed": [42]})
    switches = [field.name for field in dataclasses.fields(Fidelity)]
    wrong = [[s for s in switches if not getattr(trial.fidelity, s)] for trial in trials]
    assert wrong == [[], switches, *([switch] for switch in switches)]
