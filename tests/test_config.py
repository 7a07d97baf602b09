import dataclasses
import json
import math

import pytest

from pwmray import config, variants
from pwmray.build import count_parameters
from pwmray.config import TrialConfig
from pwmray.models import POLICIES, WORLD_MODELS, Policy, WorldModel
from pwmray.variants import VARIANTS

REQUIRED = {"task": "reacher-easy", "seed": 42, "epochs": 15_000}
FLOW_KINDS = {"world_model": "flow", "policy": "flow"}
KEYS = config.valid_keys(FLOW_KINDS)
# A checkpoint counts by its content: see test_pretrained.py.
DEFINING_KEYS = [
    key for key in KEYS if not key.startswith("runtime.") and key != "world_model_from"
]
RUNTIME_KEYS = [key for key in KEYS if key.startswith("runtime.")]


def make(**settings):
    return TrialConfig.from_flat({**REQUIRED, **settings})


def make_full_flow(settings=()):
    return TrialConfig.from_flat({**REQUIRED, "variant": "fullflow", **dict(settings)})


def with_another_value(trial, key):
    """Return the config with one field changed, whether it can be run or not."""
    part, _, name = key.rpartition(".")
    if not part:
        return dataclasses.replace(trial, **{name: another(getattr(trial, name))})
    old = getattr(trial, part)
    new = dataclasses.replace(old, **{name: another(getattr(old, name))})
    return dataclasses.replace(trial, **{part: new})


def another(value):
    return {
        bool: lambda: not value,
        int: lambda: value + 1,
        float: lambda: value / 2 or 0.5,
        str: lambda: "mt30" if value == "collected" else f"{value}-2",
        tuple: lambda: value[:-1],
    }[type(value)]()


# Building.


def test_config_takes_every_default_but_task_seed_and_epochs():
    trial = make()
    assert trial == TrialConfig(task="reacher-easy", seed=42, epochs=15_000)
    assert (trial.world_model.kind, trial.policy.kind) == ("mlp", "gaussian")


@pytest.mark.parametrize("variant", VARIANTS)
def test_config_survives_the_way_through_a_dict(variant):
    trial = make(variant=variant)
    assert TrialConfig.from_dict(trial.to_dict()) == trial


@pytest.mark.parametrize("variant", VARIANTS)
def test_config_survives_the_way_through_json(variant):
    trial = make(variant=variant)
    assert TrialConfig.from_dict(json.loads(json.dumps(trial.to_dict()))) == trial


def test_flat_keys_reach_their_fields():
    trial = make(**{"learner.horizon": 8, "policy.units": [32, 16], "learner.discount": 1})
    assert trial.learner.horizon == 8
    assert trial.policy.units == (32, 16)
    assert trial.learner.discount == 1.0
    assert type(trial.learner.discount) is float


def test_later_key_wins():
    flat = {**REQUIRED, "policy.units": (8,), "learner.horizon": 4}
    trial = TrialConfig.from_flat({**flat, "learner.horizon": 6})
    assert trial.learner.horizon == 6


@pytest.mark.parametrize(("variant", "kinds"), VARIANTS.items())
def test_variant_sets_both_kinds(variant, kinds):
    trial = make(variant=variant)
    assert (trial.world_model.kind, trial.policy.kind) == kinds
    assert trial.variant == variant
    assert trial == make(**{"world_model.kind": kinds[0], "policy.kind": kinds[1]})


def test_variants_are_the_2x2_of_kinds_and_other_pairs_have_both_names(monkeypatch):
    monkeypatch.setitem(WORLD_MODELS, "mine", type("Mine", (WORLD_MODELS["mlp"],), {}))

    assert len(VARIANTS) == 4
    assert set(VARIANTS.values()) == {(w, p) for w in ("mlp", "flow") for p in ("gaussian", "flow")}
    assert all(w in WORLD_MODELS and p in POLICIES for w, p in VARIANTS.values())
    assert make(**{"world_model.kind": "mine", "policy.kind": "flow"}).variant == "mine+flow"


def test_key_in_brackets_holds_for_that_kind_alone():
    settings = {"world_model[flow].num_substeps": 2, "world_model.latent_dim": 64}
    assert make(variant="fullflow", **settings).world_model.num_substeps == 2
    assert make(variant="baseline", **settings) == make(**{"world_model.latent_dim": 64})


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("world_model[flow].num_substep", 2, "unknown config key .*did you mean .*num_substeps"),
        ("world_model[flow].num_substeps", "two", "'two'; it must be of type int"),
        ("world_model[flow].kind", "mlp", "unknown config key"),
        ("world_model[flow]", 2, "unknown config key"),
    ],
)
@pytest.mark.parametrize("variant", ["baseline", "fullflow"])
def test_key_in_brackets_is_one_of_its_kind_whichever_is_chosen(variant, key, value, problem):
    with pytest.raises(ValueError, match=problem):
        make(variant=variant, **{key: value})


@pytest.mark.parametrize(
    ("annotation", "default", "problem"),
    [
        (int | None, None, "has the default None; valid: one of bool, int, float, str, tuple"),
        (list, dataclasses.field(default_factory=list), "has no default"),
        (float, 1, "is a float with the default 1; write 1.0"),
    ],
)
def test_new_kind_whose_setting_has_no_plain_default_is_refused_at_once(
    annotation, default, problem, monkeypatch
):
    fields, base = [("width", annotation, default)], WORLD_MODELS["mlp"]
    config = dataclasses.make_dataclass("Wide", fields, bases=(base.Config,), frozen=True)
    monkeypatch.setitem(WORLD_MODELS, "mine", type("Mine", (base,), {"Config": config}))

    with pytest.raises(ValueError, match=rf"Wide\.width {problem}"):
        make(**{"world_model.kind": "mine"})


def test_new_kind_whose_config_is_no_dataclass_is_refused(monkeypatch):
    class Wide(WORLD_MODELS["mlp"].Config):
        width: int = 3

    mine = type("Mine", (WORLD_MODELS["mlp"],), {"Config": Wide})
    monkeypatch.setitem(WORLD_MODELS, "mine", mine)
    with pytest.raises(ValueError, match=r"Wide is not a dataclass, .*@dataclass\(frozen=True\)"):
        make(**{"world_model.kind": "mine"})


def test_variant_of_a_new_kind_is_both_kinds(monkeypatch):
    monkeypatch.setitem(WORLD_MODELS, "mine", WORLD_MODELS["mlp"])
    trial = make(variant="mine+flow")
    assert trial == make(**{"world_model.kind": "mine", "policy.kind": "flow"})
    assert trial.variant == "mine+flow"
    assert make(variant="mlp+gaussian").variant == "baseline"


@pytest.mark.parametrize(
    ("variant", "problem"),
    [
        ("mne+flow", "unknown world_model.kind 'mne'"),
        ("mlp+flw", "unknown policy.kind 'flw'; did you mean 'flow'"),
        ("mlp+", "unknown variant 'mlp\\+'"),
        ("mlp+flow+flow", "unknown variant"),
    ],
)
def test_variant_of_kinds_that_there_are_not_is_refused(variant, problem):
    with pytest.raises(ValueError, match=problem):
        make(variant=variant)


def test_kind_beside_a_variant_of_another_one_is_refused_by_both_names_too():
    with pytest.raises(
        ValueError, match="variant 'mlp\\+flow' sets it to 'flow'; drop one of them"
    ):
        variants.check_kinds({"variant": "mlp+flow", "policy.kind": "gaussian"})


@pytest.mark.parametrize(
    ("part", "base", "lacks"),
    [("world_model", WorldModel, "_build_dynamics"), ("policy", Policy, "_build")],
)
def test_new_kind_without_a_method_is_refused_where_shapes_are_built(
    part, base, lacks, monkeypatch
):
    registry = WORLD_MODELS if part == "world_model" else POLICIES
    monkeypatch.setitem(registry, "mine", type("Mine", (base,), {}))
    with pytest.raises(ValueError, match=f"Mine lacks the method {lacks}; a {base.__name__} def"):
        count_parameters(make(**{f"{part}.kind": "mine"}))


def test_list_within_a_setting_is_a_tuple_too(monkeypatch):
    fields, base = [("pairs", tuple, ((1, 2),))], WORLD_MODELS["mlp"]
    config = dataclasses.make_dataclass("Paired", fields, bases=(base.Config,), frozen=True)
    monkeypatch.setitem(WORLD_MODELS, "mine", type("Mine", (base,), {"Config": config}))

    trial = make(**{"world_model.kind": "mine", "world_model.pairs": [[1, 2], [3, 4]]})

    assert trial.world_model.pairs == ((1, 2), (3, 4))
    assert TrialConfig.from_dict(json.loads(json.dumps(trial.to_dict()))) == trial


def test_key_in_brackets_follows_the_order_of_the_keys():
    first = {"world_model[flow].units": (8,), "world_model.units": (16,)}
    last = {"world_model.units": (16,), "world_model[flow].units": (8,)}
    assert make(variant="fullflow", **first).world_model.units == (16,)
    assert make(variant="fullflow", **last).world_model.units == (8,)


def test_every_valid_key_is_taken():
    trial = make_full_flow()
    flat = {key: value_of(trial, key) for key in KEYS}
    assert TrialConfig.from_flat(flat) == trial


def value_of(trial, key):
    part, _, name = key.rpartition(".")
    return getattr(getattr(trial, part) if part else trial, name)


# Fingerprint.


def test_fingerprint_does_not_change_with_the_version():
    # Every trial on disk is found by it; a new default or meaning needs a new literal here.
    assert make().fingerprint == "281ca99d772b3a50"
    assert make_full_flow().fingerprint == "1e01e0d5f443e68f"


def test_fingerprint_is_16_hex_digits():
    assert int(make().fingerprint, 16) >= 0
    assert len(make().fingerprint) == 16


@pytest.mark.parametrize("variant", VARIANTS)
def test_fingerprint_survives_the_way_through_json(variant):
    trial = make(variant=variant)
    loaded = TrialConfig.from_dict(json.loads(json.dumps(trial.to_dict())))
    assert loaded.fingerprint == trial.fingerprint


def test_fingerprint_does_not_depend_on_how_a_value_is_written():
    trial = make(**{"learner.discount": 1.0, "policy.units": (8, 4)})
    assert make(**{"policy.units": [8, 4], "learner.discount": 1}).fingerprint == trial.fingerprint


@pytest.mark.parametrize("key", RUNTIME_KEYS)
def test_fingerprint_does_not_depend_on_where_a_trial_runs(key):
    trial = make_full_flow()
    assert with_another_value(trial, key) != trial
    assert with_another_value(trial, key).fingerprint == trial.fingerprint


@pytest.mark.parametrize("key", DEFINING_KEYS)
def test_fingerprint_depends_on_every_other_setting(key):
    in_use = {"policy.units": (8, 4), "data.num_rounds": 1, "data.policy": "0" * 64}
    trial = make_full_flow({**in_use, "data.behaviours": ("policy", "uniform")})
    assert with_another_value(trial, key).fingerprint != trial.fingerprint


@pytest.mark.parametrize("key", ["data.num_episodes", "data.seed", "data.num_rounds"])
def test_fingerprint_takes_no_notice_of_how_data_would_be_collected_that_is_imported(key):
    imported = {"data.source": "mt30"}
    assert make(**imported, **{key: 7}).fingerprint == make(**imported).fingerprint


def test_fingerprint_depends_on_the_format(monkeypatch):
    before = make().fingerprint
    monkeypatch.setattr(config, "FORMAT", config.FORMAT + 1)
    assert make().fingerprint != before


# Derived names.


@pytest.mark.parametrize(
    ("world_model_from", "finetune_wm", "methodology"),
    [
        ("scratch", True, "joint_from_scratch"),
        ("mt30_48M", True, "policy_and_wm_finetuning"),
        ("mt30_48M", False, "policy_finetuning"),
    ],
)
def test_methodology_is_derived(world_model_from, finetune_wm, methodology):
    trial = dataclasses.replace(make(), world_model_from=world_model_from, finetune_wm=finetune_wm)
    assert trial.methodology == methodology


def test_label_names_task_variant_epochs_and_seed():
    assert make(variant="fullflow").label == "reacher-easy-fullflow-15000-seed42"


def test_evaluations_share_seeds_between_trials_but_not_with_training():
    evaluation = make().evaluation
    assert evaluation.final_seeds == range(1_000_000, 1_000_050)
    assert evaluation.training_seeds == range(1_000_050, 1_000_060)
    assert evaluation.plan_seeds == evaluation.final_seeds[:10]
    assert evaluation == make(seed=7).evaluation


def test_protocol_states_what_a_comparison_must_share():
    assert make().evaluation.protocol == (
        "50 episodes, environment seeds 1000000+, action repeat 2, deterministic policy"
    )


# Errors.


@pytest.mark.parametrize(
    ("settings", "messages"),
    [
        ({"epoch": 1}, ["'epoch'", "did you mean 'epochs'", "valid: task, seed, epochs"]),
        (
            {"learner.horizn": 8},
            ["'learner.horizn'", "did you mean 'learner.horizon'", "learner.wm_horizon"],
        ),
        ({"lerner.horizon": 8}, ["'lerner.horizon'", "did you mean 'learner.horizon'"]),
        ({"learner": 8}, ["'learner'", "learner.horizon"]),
        ({"epochs.x": 8}, ["unknown config key 'epochs.x'"]),
        ({"": 8}, ["unknown config key ''"]),
        ({"world_model.integrator": "heun"}, ["unknown config key 'world_model.integrator'"]),
        (
            {"variant": "fullflow", "world_model[flow].substeps": 2},
            ["'world_model[flow].substeps'", "did you mean", "num_substeps"],
        ),
        (
            {"world_model[flwo].num_substeps": 2},
            ["'world_model[flwo].num_substeps'", "did you mean 'flow'", "valid: mlp, flow"],
        ),
        ({"learner[flow].horizon": 2}, ["'learner[flow].horizon'"]),
        ({"variant": "ful_flow"}, ["'ful_flow'", "did you mean 'fullflow'", "baseline, flowpo"]),
        (
            {"world_model.kind": "flw"},
            ["world_model.kind 'flw'", "did you mean 'flow'", "valid: mlp, flow"],
        ),
        ({"policy.kind": "mlp"}, ["policy.kind 'mlp'", "valid: gaussian, flow"]),
        ({"task": "reacher-esy"}, ["'reacher-esy'", "did you mean 'reacher-easy'", "walker-run"]),
        ({"fidelity": "publishd"}, ["'publishd'", "did you mean 'published'", "valid: corrected"]),
        ({"fidelity.td_lamda": False}, ["'fidelity.td_lamda'", "'fidelity.td_lambda'"]),
        ({"finetune_wm": False}, ["finetune_wm is False", "name a checkpoint"]),
        ({"variant": None}, ["unknown variant None", "valid: baseline, flowpolicy"]),
        ({"size": None}, ["unknown size None", "valid: laptop, 1, 5"]),
        ({"fidelity": None}, ["unknown fidelity None", "valid: corrected"]),
    ],
)
def test_unknown_name_is_shown_with_the_valid_ones(settings, messages):
    assert_error_names(settings, messages)


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("seed", "42", "int"),
        ("seed", 42.0, "int"),
        ("epochs", True, "int"),
        ("task", 3, "str"),
        ("finetune_wm", 1, "bool"),
        ("learner.discount", "0.9", "float"),
        ("learner.discount", True, "float"),
        ("learner.horizon", 8.5, "int"),
        ("policy.units", 400, "tuple"),
        ("learner.horizon", None, "int"),
        ("data.num_episodes", "6", "int"),
    ],
)
def test_value_of_the_wrong_type_is_named(key, value, wanted):
    assert_error_names({key: value}, [repr(key), repr(value), f"of type {wanted}"])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", 0),
        ("seed", -1),
        ("learner.horizon", 0),
        ("learner.discount", 1.5),
        ("learner.model_lr", 0.0),
        ("learner.final_lr", math.inf),
        ("world_model.latent_dim", 12),
        ("world_model.latent_dim", 0),
        ("world_model.num_bins", 1),
        ("world_model.bin_range", 0.0),
        ("world_model.bin_range", math.inf),
        ("world_model.task_dim", -1),
        ("world_model.units", ()),
        ("world_model.units", (0,)),
        ("world_model.units", ("wide",)),
        ("world_model.encoder_units", ()),
        ("world_model[flow].num_substeps", 0),
        ("world_model[flow].integrator", "eulr"),
        ("policy.units", ()),
        ("policy.units", (-8,)),
        ("policy.units", (8, 0)),
        ("policy.units", (8, True)),
        ("policy[flow].num_substeps", 0),
        ("policy[flow].integrator", "rk5"),
        ("critic.units", ()),
        ("critic.units", (8.5,)),
        ("critic.num_critics", 0),
        ("evaluation.every_epochs", 0),
        ("evaluation.num_episodes", 0),
        ("evaluation.final_episodes", -1),
        ("evaluation.first_seed", -1),
        ("evaluation.first_seed", 2**32 - 59),  # 50 final episodes and 10 others
        ("evaluation.plan_episodes", -1),
        ("evaluation.plan_episodes", 51),
        ("planner.num_elites", 513),
        ("planner.min_std", 0.0),
        ("data.source", "mt31"),
        ("data.num_episodes", 0),
        ("data.seed", -1),
        ("data.behaviours", ()),
        ("data.behaviours", ("nonsense",)),
        ("data.behaviours", ("policy",)),
        ("data.num_rounds", -1),
        ("runtime.num_cpus", 0),
        ("runtime.gpu_fraction", 0.0),
        ("runtime.gpu_fraction", 1.5),
        ("runtime.checkpoint_seconds", -1.0),
        ("runtime.checkpoint_seconds", math.nan),
        ("learner.wm_horizon", 501),
        ("learner.wm_buffer_size", 500),
    ],
)
def test_value_outside_its_range_is_named(key, value):
    field = key.replace("[flow]", "")
    with pytest.raises(ValueError, match=field.replace(".", r"\.")):
        make_full_flow({key: value})


def test_what_may_be_infinite_is_without_a_limit():
    learner = make_full_flow({"learner.actor_clip": math.inf}).learner
    assert learner.actor_clip == math.inf
    assert make_full_flow({"runtime.hang_minutes": math.inf}).runtime.hang_minutes == math.inf


def test_no_number_where_one_from_0_belongs_is_one_too_small():
    with pytest.raises(ValueError, match=r"action_penalty is nan; it must be at least 0"):
        make_full_flow({"learner.action_penalty": math.nan})


@pytest.mark.parametrize(
    ("settings", "most", "what"),
    [
        ({}, 500, "wm_horizon"),
        ({"data.source": "mt30"}, 500, "wm_horizon"),
        ({"data.source": "mt80"}, 100, "wm_horizon"),
        ({"fidelity": "published"}, 500, "horizon"),
    ],
)
def test_windows_and_buffer_must_fit_the_episodes_of_the_data(settings, most, what):
    fitting = {**settings, f"learner.{what}": most, "learner.wm_buffer_size": most + 1}
    make_full_flow(fitting)
    with pytest.raises(ValueError, match=rf"learner\.{what} is {most + 1}; .* at most {most}"):
        make_full_flow({**fitting, f"learner.{what}": most + 1})
    with pytest.raises(ValueError, match=rf"wm_buffer_size is {most}; .* at least {most + 1}"):
        make_full_flow({**fitting, "learner.wm_buffer_size": most})


def test_policy_may_imagine_further_than_an_episode_of_the_data():
    assert make_full_flow({"learner.horizon": 501}).learner.horizon == 501


@pytest.mark.parametrize("name", ["task", "seed", "epochs"])
def test_missing_setting_is_named(name):
    flat = {key: value for key, value in REQUIRED.items() if key != name}
    with pytest.raises(ValueError, match=f"the config lacks {name}"):
        TrialConfig.from_flat(flat)


def assert_error_names(settings, messages):
    with pytest.raises(ValueError) as caught:
        make(**settings)
    missing = [message for message in messages if message not in str(caught.value)]
    assert missing == [], str(caught.value)
