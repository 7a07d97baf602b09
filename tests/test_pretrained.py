"""Trials that start from a pretrained world model: frozen, fine-tuned, refused, resumed."""

import dataclasses
import functools
import json

import pytest
import torch

from pwmray import cli, plan, registry, results
from pwmray.build import build_learner
from pwmray.config import TrialConfig
from pwmray.contract import check_promises
from pwmray.data.store import open_store
from pwmray.envs.vector import make_vector
from pwmray.failures import Failure
from pwmray.models import WORLD_MODELS
from pwmray.models.checkpoints import describe_world_model, load_world_model, save_world_model
from pwmray.models.world_model_mlp import MLPWorldModel
from pwmray.pretraining import pretrained
from pwmray.pretraining.config import PretrainingConfig
from pwmray.pretraining.pretrained import check_pretrained, load_pretrained, world_model_id
from pwmray.pretraining.run import pretrain
from pwmray.registry import Status
from pwmray.sweep import PRETRAINED, Sweep
from pwmray.tables import Tables, open_sweep
from pwmray.trainable import TrialTrainable
from pwmray.trial import Trial
from tests.made_trials import run_to_the_end
from tests.tiny import SCALES, SETTINGS

CPU = torch.device("cpu")
make_environments = functools.cache(make_vector)
pytestmark = pytest.mark.usefixtures("short_episodes")
TASK = "pendulum-spin"
SCALE = {"tasks": (TASK,), "iterations": 2, "batch_size": 8, "check_every": 1}
FROZEN, FINETUNED, SCRATCH = "frozen", "finetuned", "scratch"


@pytest.fixture
def checkpoint(tmp_path):
    return save(tmp_path / "model.ckpt")


def save(path, tasks=(TASK,), seed=7, **settings):
    """Write a world model whose weights follow from the seed."""
    model = build_learner(make_config("scratch", seed=seed, **settings)).world_model
    model.set_observation_scale(torch.full((3,), 0.5), torch.full((3,), 2.0))
    described = describe_world_model(model, "corrected", "few", tasks, 200, "d1")
    save_world_model(path, described)
    return path


def make_config(source, finetune_wm=True, **settings):
    trial = {"task": TASK, "seed": 42, "epochs": 4, "variant": "baseline"}
    flat = {**SETTINGS, **trial, **settings}
    return TrialConfig.from_flat(
        {**flat, "world_model_from": str(source), "finetune_wm": finetune_wm}
    )


def methodologies(checkpoint, **settings):
    return {
        FROZEN: make_config(checkpoint, finetune_wm=False, **settings),
        FINETUNED: make_config(checkpoint, **settings),
        SCRATCH: make_config(SCRATCH, **settings),
    }


class WithEncoder(MLPWorldModel):
    """Encode by a network of its own."""

    def _build_dynamics(self):
        super()._build_dynamics()
        self.encoder = torch.nn.ModuleDict({"own": self.encoder})

    def encode(self, obs_BO, e_BT):
        return self.encoder["own"](torch.cat([obs_BO, e_BT], dim=-1))


class Deeper(MLPWorldModel):
    def _build_dynamics(self):
        super()._build_dynamics()
        self.more = torch.nn.Linear(2, 3)


class Misspelt(MLPWorldModel):
    def _build_dynamics(self):
        self.dynamics = self.absent


def test_model_of_a_kind_with_an_encoder_of_its_own_is_taken_up(tmp_path, monkeypatch):
    monkeypatch.setitem(WORLD_MODELS, "mlp", WithEncoder)
    config = make_config(save(tmp_path / "model.ckpt"))
    model = build_learner(config).world_model
    load_pretrained(model, config)
    assert model.obs_std[0] == 2.0


@pytest.mark.parametrize(
    ("then", "now", "said"),
    [
        (MLPWorldModel, Deeper, r"its more\.weight is missing, not \[3, 2\]"),
        (Deeper, MLPWorldModel, r"its more\.weight is \[3, 2\], not there"),
    ],
)
def test_model_of_a_kind_that_was_edited_since_is_refused_before_trials_run(
    then, now, said, tmp_path, monkeypatch
):
    monkeypatch.setitem(WORLD_MODELS, "mlp", then)
    config = make_config(save(tmp_path / "model.ckpt"))
    monkeypatch.setitem(WORLD_MODELS, "mlp", now)
    with pytest.raises(ValueError, match=rf"model\.ckpt does not fit .*: {said}$"):
        check_pretrained(config)


def test_kind_that_cannot_be_built_is_left_to_the_check_of_promises(tmp_path, monkeypatch):
    config = make_config(save(tmp_path / "model.ckpt"))
    monkeypatch.setitem(WORLD_MODELS, "mlp", Misspelt)
    check_pretrained(config)
    with pytest.raises(ValueError, match=r"cannot be built .* no attribute 'absent'"):
        check_promises([config])


def open_trial(config, folder, data, fingerprint=None):
    if registry.read(folder).status is None:
        registry.record(folder, Status.PENDING, config=config.to_dict())
        registry.record(folder, Status.QUEUED)
    return Trial(config, folder, data, make_environments, CPU, fingerprint)


def outcome(folder):
    curve = results.read_table(folder / "curve.arrow").drop_columns(["seconds", "trial"])
    return curve.to_pylist(), results.read_table(folder / "evaluations.arrow")["return"].to_pylist()


def world_model_state(trial):
    return {name: t.clone() for name, t in trial.learner.world_model.state_dict().items()}


def changed(before, after):
    return [name for name in before if not torch.equal(before[name], after[name])]


# Starting from it.


def test_trial_starts_from_the_weights_and_the_scale_of_its_checkpoint(checkpoint, tmp_path, data):
    trial = open_trial(make_config(checkpoint), tmp_path / "t", data)
    trial.close()
    wanted = load_world_model(checkpoint).state
    assert not changed(wanted, world_model_state(trial))
    assert trial.learner.world_model.obs_std[:3].tolist() == [2.0] * 3


def test_frozen_world_model_does_not_change(checkpoint, tmp_path, data):
    trial = open_trial(make_config(checkpoint, finetune_wm=False), tmp_path / "t", data)
    before = world_model_state(trial)
    run_to_the_end(trial)
    assert not changed(before, world_model_state(trial))
    assert set(trial.learner.optimizers) == {"actor", "critic"}


def test_finetuned_world_model_changes(checkpoint, tmp_path, data):
    trial = open_trial(make_config(checkpoint), tmp_path / "t", data)
    before = world_model_state(trial)
    run_to_the_end(trial)
    assert "encoder.0.weight" in changed(before, world_model_state(trial))


def test_table_names_methodology_and_content(checkpoint, tmp_path, data):
    config = make_config(checkpoint, finetune_wm=False)
    folder = registry.trial_folder(tmp_path / "results", config.fingerprint)
    run_to_the_end(open_trial(config, folder, data))
    sweep = make_sweep()
    planned = plan.make(sweep, "tiny", [config], tmp_path / "results")
    Tables(open_sweep(planned, "python sweep.py")).write()
    row = results.read_table(tmp_path / "results" / "few" / "trials.arrow").to_pylist()[0]
    assert row["methodology"] == "policy_finetuning"
    assert row["world_model_from"].startswith("mlp-200-")
    assert row["world_model_training"] == "200 iterations on data d1 of 1 task"
    assert row["imagined_start_value"] is not None


def test_predictions_know_the_trials_that_share_a_frozen_world_model(checkpoint, tmp_path, data):
    configs = [make_config(checkpoint, finetune_wm=False, seed=seed) for seed in (1, 2)]
    configs.append(make_config(checkpoint))
    for config in configs:
        folder = registry.trial_folder(tmp_path / "results", config.fingerprint)
        run_to_the_end(open_trial(config, folder, data))
    planned = plan.make(make_sweep(), "tiny", configs, tmp_path / "results")
    folder = open_sweep(planned, "python sweep.py")
    checkpoint.unlink()  # each trial has its own copy
    assert cli.main(["predict", "few", "--results", str(tmp_path / "results")]) == 0
    table = results.read_table(folder / "predictions" / f"{TASK}.arrow", results.PREDICTIONS)
    models = dict(zip(table["trial"].to_pylist(), table["world_model"].to_pylist(), strict=True))
    first, second, finetuned = (models[config.fingerprint] for config in configs)
    assert first == second != finetuned


def test_named_level_keeps_its_trials_when_its_world_model_is_moved(checkpoint, tmp_path):
    files = [checkpoint, save(tmp_path / "other.ckpt", seed=8)]
    found = tmp_path / "results"

    def open_again(seeds, files):
        levels = {name: {"world_model_from": str(f)} for name, f in zip("AB", files, strict=True)}
        vary = {"wm": levels, "task": [TASK], "seed": seeds}
        sweep = make_sweep(vary=vary, compare="wm")
        trials = sweep.trials("tiny", results=found)
        for trial in trials:
            folder = registry.trial_folder(found, trial.fingerprint)
            if not folder.exists():
                registry.queue(folder, trial.to_dict())
                registry.record(folder, Status.RUNNING, world_model_id=world_model_id(trial))
        opened = open_sweep(plan.make(sweep, "tiny", trials, found), "python few.py")
        rows = Tables(opened).join()["trials"].select(["wm", "seed"]).to_pylist()
        return sorted((row["wm"], row["seed"]) for row in rows)

    assert open_again([1], files) == [("A", 1), ("B", 1)]
    moved = [file.rename(file.with_name(f"moved-{file.name}")) for file in files]
    assert open_again([2], moved) == [("A", 1), ("A", 2), ("B", 1), ("B", 2)]


def test_fingerprint_follows_the_content_of_the_checkpoint(checkpoint, tmp_path):
    same = tmp_path / "elsewhere.ckpt"
    same.write_bytes(checkpoint.read_bytes())
    other = save(tmp_path / "other.ckpt", seed=8)
    assert make_config(same).fingerprint == make_config(checkpoint).fingerprint
    assert make_config(other).fingerprint != make_config(checkpoint).fingerprint


def test_trial_whose_file_changed_since_it_was_planned_fails_and_says_so(
    checkpoint, tmp_path, data
):
    planned = make_config(checkpoint)
    fingerprint = planned.fingerprint
    save(checkpoint, seed=8)
    in_its_process = TrialConfig.from_dict(planned.to_dict())
    with pytest.raises(ValueError, match=r"model\.ckpt changed since the sweep was planned: start"):
        open_trial(in_its_process, tmp_path / "t", data, fingerprint)
    record = registry.read(tmp_path / "t")
    assert (record.status, record.last("failure")) == (Status.FAILED, Failure.CONFIG)


def test_process_that_takes_a_trial_up_holds_it_to_the_plan(checkpoint, tmp_path, data):
    planned = make_config(checkpoint)
    folder = tmp_path / planned.fingerprint
    registry.queue(folder, planned.to_dict())
    grid = {
        "trial": json.dumps(planned.to_dict()),
        "fingerprint": planned.fingerprint,
        "folder": str(folder),
        "data": str(data),
        "use_gpu": False,
    }
    save(checkpoint, seed=8)
    with pytest.raises(ValueError, match="changed since the sweep was planned"):
        TrialTrainable.open(TrialTrainable.__new__(TrialTrainable), grid)


def test_file_that_is_replaced_before_it_is_loaded_is_refused(checkpoint):
    config = make_config(checkpoint)
    assert config.fingerprint  # the plan's look at the file
    save(checkpoint, seed=9)
    with pytest.raises(ValueError, match=r"model\.ckpt changed since it was first looked at"):
        load_pretrained(build_learner(make_config("scratch")).world_model, config)


def test_file_that_is_replaced_after_it_is_loaded_changes_nothing(checkpoint):
    config = make_config(checkpoint)
    check_pretrained(config)
    name = pretrained.world_model_id(config)
    save(checkpoint, seed=10)
    assert pretrained.world_model_id(config) == name


# Refusing it.


def test_world_model_with_a_number_that_is_not_finite_is_refused(checkpoint):
    found = load_world_model(checkpoint)
    found.state["encoder.0.weight"][0, 0] = float("nan")
    save_world_model(checkpoint, found)
    with pytest.raises(ValueError, match=r"model.ckpt: its tensor 'encoder.0.weight' has number"):
        check_pretrained(make_config(checkpoint))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"world_model.latent_dim": 8}, "world_model.latent_dim is 16 there and 8 here"),
        ({"variant": "flowwm"}, "world_model.kind is 'mlp' there and 'flow' here"),
        ({"task": "cartpole-swingup"}, "it was trained on pendulum-spin"),
    ],
)
def test_checkpoint_that_does_not_fit_is_refused_before_anything_runs(
    checkpoint, tmp_path, settings, said
):
    config = make_config(checkpoint, **settings)
    with pytest.raises(ValueError, match=said) as refused:
        plan.make(make_sweep(), "tiny", [config], tmp_path / "results")
    assert str(checkpoint) in str(refused.value)
    assert not (tmp_path / "results").exists()


def test_flow_of_the_other_fidelity_is_refused(tmp_path):
    path = save(tmp_path / "flow.ckpt", variant="flowwm")
    check_pretrained(make_config(path, variant="flowwm"))
    with pytest.raises(ValueError, match="tangent_velocity is True there and False here"):
        check_pretrained(make_config(path, variant="flowwm", fidelity="published"))


def test_integrator_is_free(tmp_path):
    path = save(tmp_path / "flow.ckpt", variant="flowwm")
    settings = {"world_model.integrator": "euler", "world_model.num_substeps": 8}
    check_pretrained(make_config(path, variant="flowwm", **settings))


@pytest.mark.parametrize("mode", [["--plan"], []], ids=["plan", "run"])
@pytest.mark.parametrize(
    ("value", "place", "said"),
    [
        ("models/modle.ckpt", "models/modle.ckpt", "; did you mean 'model.ckpt'?"),
        ("nowhere/model.ckpt", "nowhere/model.ckpt", ";"),
        ("models", "models", ";"),
        ("", "", ";"),
        ("~nobody-of-that-name/model.ckpt", "~nobody-of-that-name/model.ckpt", ";"),
        ("scrach", "scrach", "; did you mean 'scratch'?"),
        ("pretraind", "pretraind", "; did you mean 'pretrained'?"),
    ],
)
def test_file_that_is_not_there_is_one_line(
    value, place, said, mode, tmp_path, capsys, monkeypatch
):
    (tmp_path / "models").mkdir()
    save(tmp_path / "models" / "model.ckpt")
    monkeypatch.chdir(tmp_path)
    hold = {"epochs": 4, "variant": "baseline", "world_model_from": value, "task": TASK}
    sweep = make_sweep(vary={"seed": [1]}, compare="seed", within=[], hold=hold)
    with pytest.raises(SystemExit) as ended:
        sweep.main(mode)
    errors = capsys.readouterr().err.splitlines()
    assert (ended.value.code, len(errors)) == (2, 1)
    assert errors[0].startswith(
        f"error: world_model_from is {value!r}, but {tmp_path / place} is not a file{said} "
        "valid: a file, 'scratch', or 'pretrained' in a sweep"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


def test_path_is_taken_from_the_folder_of_the_command_and_whole_in_the_trial(tmp_path, monkeypatch):
    path = save(tmp_path / "model.ckpt")
    whole = make_config(path)
    monkeypatch.chdir(tmp_path)
    hold = {**SETTINGS, "epochs": 4, "variant": "baseline", "task": TASK, "seed": 42}
    sweep = make_sweep(
        vary={"world_model_from": ["model.ckpt"]},
        compare="world_model_from",
        within=[],
        hold=hold,
    )
    (trial,) = sweep.trials("tiny", results=tmp_path)
    assert trial.world_model_from == str(path)
    assert trial.fingerprint == whole.fingerprint
    monkeypatch.chdir("/")
    check_pretrained(trial)


@pytest.mark.parametrize("content", [b"", b"nonsense\n"])
def test_file_that_is_no_world_model_is_refused(tmp_path, content):
    path = tmp_path / "model.ckpt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.ckpt is not a world model of ours"):
        check_pretrained(make_config(path))


def test_damaged_checkpoint_is_refused(checkpoint):
    checkpoint.write_bytes(checkpoint.read_bytes()[:-20])
    with pytest.raises(ValueError, match="its content is damaged"):
        check_pretrained(make_config(checkpoint))


# Finding it.


def make_sweep(**changes):
    settings = {
        "name": "few",
        "vary": {
            "methodology": [
                {"world_model_from": PRETRAINED, "finetune_wm": False},
                {"world_model_from": "scratch", "finetune_wm": True},
            ],
            "task": [TASK],
            "seed": [1, 2],
        },
        "hold": {"epochs": 4, "variant": "baseline"},
        "compare": "methodology",
        "within": ["task"],
        "scales": {"tiny": {**SCALES["tiny"], "pretrain": SCALE}},
        "pretraining": "phase8_pretrain",
    }
    return Sweep(**{**settings, **changes})


def test_sweep_says_which_command_makes_a_missing_world_model(tmp_path):
    wanted = r"make it with: python sweeps/phase8_pretrain\.py --scale tiny"
    with pytest.raises(ValueError, match=wanted):
        make_sweep().trials("tiny", results=tmp_path)


def test_sweep_finds_the_world_model_of_its_scale(tmp_path, data):

    trial = make_config("scratch")
    pretraining = PretrainingConfig.of(trial, SCALE)
    pretrain(pretraining, pretraining.folder(tmp_path), [open_store(data)], CPU, lambda *_: None)

    trials = make_sweep().trials("tiny", {"seed": [5]}, tmp_path)

    assert [trial.methodology for trial in trials] == ["policy_finetuning", "joint_from_scratch"]
    assert [trial.seed for trial in trials] == [5, 5]
    assert trials[0].world_model_from == str(pretraining.folder(tmp_path) / "best.ckpt")


def test_scale_gives_a_sweep_other_axes_and_held_settings(tmp_path):
    sweep = make_sweep(
        vary={"task": ["walker-run"], "seed": [1, 2], "methodology": [{"finetune_wm": True}]},
        at_scale={"tiny": {"epochs": 9, "task": [TASK]}},
    )
    trials = sweep.trials("tiny", results=tmp_path)
    assert {(trial.task, trial.epochs) for trial in trials} == {(TASK, 9)}
    assert len(sweep.trials("tiny", {"task": ["walker-walk"]}, tmp_path)) == 2


# Going on with it.


@pytest.mark.parametrize("fidelity", ["corrected", "published"])
@pytest.mark.parametrize("num_pieces", [1, 2])
@pytest.mark.parametrize("methodology", [FROZEN, FINETUNED, SCRATCH])
def test_resumed_trial_is_bit_for_bit_the_uninterrupted_one(
    methodology, num_pieces, fidelity, checkpoint, tmp_path, data
):
    settings = {"fidelity": fidelity, "epochs": 5, "evaluation.plan_episodes": 0}
    config = methodologies(checkpoint, **settings)[methodology]
    run_to_the_end(open_trial(config, tmp_path / "whole", data))

    cut = open_trial(config, tmp_path / "cut", data)
    for _ in range(num_pieces):
        cut.advance()
    cut.close()
    run_to_the_end(open_trial(config, tmp_path / "cut", data))

    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")


# Every setting acts.

CHANGES = {
    "horizon": 2,
    "wm_horizon": 2,
    "discount": 0.5,
    "td_lambda": 0.1,
    "policy_batch_size": 8,
    "wm_batch_size": 8,
    "wm_iterations": 3,
    "wm_buffer_size": 600,
    "critic_iterations": 2,
    "critic_batches": 2,
    "model_lr": 1e-2,
    "actor_lr": 1e-2,
    "critic_lr": 1e-2,
    "final_lr": 1e-3,
    "model_clip": 1e-3,
    "actor_clip": 1e-3,
    "critic_clip": 1e-3,
    "action_penalty": 0.5,
    "consistency_weight": 1.0,
    "matching_weight": 1.0,
    "reward_weight": 5.0,
    "matmul": "bfloat16",
}


def test_every_setting_of_the_learner_is_tried():
    config = make_config("scratch").learner
    assert set(CHANGES) == {field.name for field in dataclasses.fields(config)}


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory, data):
    return losses_after_training(tmp_path_factory.mktemp("unchanged"), data)


def losses_after_training(folder, data, **settings):
    given = {"variant": "fullflow", "evaluation.plan_episodes": 0, **settings}
    trial = open_trial(make_config("scratch", **given), folder, data)
    trial.advance()
    trial.close()
    return {name: t.clone() for name, t in trial.learner.state_dict().items()}


@pytest.mark.parametrize("name", CHANGES)
def test_setting_of_the_learner_acts(name, unchanged, tmp_path, data):
    found = losses_after_training(tmp_path, data, **{f"learner.{name}": CHANGES[name]})
    assert changed(unchanged, found)
