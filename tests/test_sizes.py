"""The table of sizes: counted parameters, matched variants, named configurations."""

import dataclasses

import pytest

from pwmray.build import count_parameters
from pwmray.config import TrialConfig
from pwmray.models import WORLD_MODELS
from pwmray.models.sizes import SIZES
from pwmray.variants import VARIANTS
from search_spaces import NAMED, SCALES
from tests.model_inputs import TRIAL

every_variant = pytest.mark.parametrize("variant", VARIANTS)


def make(**settings):
    return TrialConfig.from_flat({**TRIAL, **settings})


@pytest.mark.parametrize("size", SIZES)
@every_variant
def test_variant_has_as_many_parameters_as_the_baseline_part_by_part(size, variant):
    counts = count_parameters(make(size=size, variant=variant))
    baseline = count_parameters(make(size=size))
    assert counts == pytest.approx(baseline, rel=0.02)
    assert sum(counts.values()) == pytest.approx(sum(baseline.values()), rel=0.02)


@pytest.mark.parametrize(
    ("size", "world_model", "policy", "critic"),
    [
        ("1", 598_373, 153_912, 399_603),
        ("5", 1_599_717, 307_512, 860_403),
        ("19", 5_603_301, 307_512, 860_403),
        ("48", 18_983_909, 409_912, 1_167_603),
        ("317", 107_886_629, 653_112, 1_897_203),
    ],
)
def test_baseline_has_the_counted_parameters(size, world_model, policy, critic):
    counts = {"world_model": world_model, "policy": policy, "critic": critic}
    assert count_parameters(make(size=size)) == counts


def test_counts_are_those_that_were_measured_on_the_published_classes():
    middle, small = count_parameters(make(size=48)), count_parameters(make(size=5))
    assert middle["world_model"] == pytest.approx(18.98e6, abs=0.005e6)
    assert middle["policy"] == pytest.approx(0.410e6, abs=0.0005e6)
    assert middle["critic"] == pytest.approx(1.168e6, abs=0.0005e6)
    assert small["world_model"] == pytest.approx(1.600e6, abs=0.0005e6)
    assert small["policy"] == pytest.approx(0.308e6, abs=0.0005e6)
    assert small["critic"] == pytest.approx(0.860e6, abs=0.0005e6)


@every_variant
def test_size_48_is_the_default(variant):
    assert make(variant=variant, size=48) == make(variant=variant)


def test_size_is_written_as_a_number_or_as_text():
    assert make(size=5) == make(size="5")


def test_every_size_sets_the_same_keys():
    assert len({tuple(settings) for settings in SIZES.values()}) == 1


@every_variant
def test_width_that_is_spelled_out_wins_over_the_size_wherever_it_stands(variant):
    explicit = {"world_model.units": (32, 16), "policy.units": (8,), "critic.num_critics": 1}
    before, after = ({**explicit, "size": 5}, {"size": 5, **explicit})

    trial = make(variant=variant, **before)

    assert trial == make(variant=variant, **after)
    assert trial.world_model.units == (32, 16)
    assert trial.policy.units == (8,)
    assert trial.critic.num_critics == 1
    assert trial.world_model.latent_dim == 512


def test_size_is_not_stored_but_what_it_stands_for():
    trial = make(size="laptop", variant="fullflow")
    assert TrialConfig.from_dict(trial.to_dict()) == trial
    assert "size" not in trial.to_dict()


@pytest.mark.parametrize("size", [49, "lapop", True, 48.0])
def test_unknown_size_is_named_with_the_valid_ones(size):
    with pytest.raises(ValueError) as caught:
        make(size=size)
    assert f"unknown size {size!r}" in str(caught.value)
    assert "valid: laptop, 1, 5, 19, 48, 317" in str(caught.value)


def test_unknown_size_is_shown_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'laptop'"):
        make(size="lapop")


def test_mistyped_key_is_shown_the_keys_that_stand_for_several():
    with pytest.raises(ValueError, match="'sise'; did you mean 'size'"):
        make(sise=5)


@pytest.mark.parametrize(("name", "settings"), NAMED.items())
def test_named_configuration_is_its_variant_at_48_million(name, settings):
    trial = TrialConfig.from_flat({**settings, **TRIAL})
    assert name == f"pwm_48M_mt_{trial.variant}"
    assert trial == make(variant=trial.variant)


def test_every_variant_has_a_named_configuration():
    assert [settings["variant"] for settings in NAMED.values()] == list(VARIANTS)


@every_variant
def test_laptop_scale_has_the_widths_of_the_laptop_size(variant):
    scaled = make(**SCALES["laptop"]["set"], variant=variant)
    assert count_parameters(scaled) == count_parameters(make(size="laptop", variant=variant))


def register(monkeypatch, by_size, fields=()):
    config = dataclasses.make_dataclass(
        "Narrow", fields, bases=(WORLD_MODELS["mlp"].Config,), frozen=True
    )
    config.by_size = by_size
    mine = type("Mine", (WORLD_MODELS["mlp"],), {"Config": config})
    monkeypatch.setitem(WORLD_MODELS, "mine", mine)


@pytest.mark.parametrize("key", [5, "5"])
def test_new_kind_says_itself_how_wide_it_is_at_a_size(key, monkeypatch):
    register(monkeypatch, {key: {"units": (40, 30)}})
    given = {"world_model.kind": "mine"}
    assert make(size=5, **given).world_model.units == (40, 30)
    assert make(size=5, **given, **{"world_model.units": (8,)}).world_model.units == (8,)
    assert make(size=1, **given).world_model.units == make(size=1).world_model.units
    assert make(size=5).world_model.units == (512, 512)


@pytest.mark.parametrize("base", ["mlp", "flow"])
def test_default_size_is_a_new_kinds_own_defaults(base, monkeypatch):
    fields = [("units", tuple, (40, 30)), ("latent_dim", int, 96)]
    register(monkeypatch, {5: {"units": (50,)}}, fields)
    given = {"world_model.kind": "mine"}
    assert make(size=48, **given) == make(**given)
    assert make(size=48, **given).world_model.units == (40, 30)
    assert make(size=48, **given, **{"world_model.units": (8,)}).world_model.units == (8,)
    assert make(size=48, **{"world_model.kind": base}) == make(**{"world_model.kind": base})


@pytest.mark.parametrize(
    ("by_size", "problem"),
    [
        ({"49": {"units": (40,)}}, "Narrow.by_size: unknown size '49'"),
        ({48: {"units": (40,)}}, "Narrow.by_size: size 48 is its fields' defaults"),
        ({"5": {"unit": (40,)}}, r"unknown config key 'world_model\[mine\].unit'"),
    ],
)
def test_mistake_in_what_a_kind_says_of_a_size_is_named(by_size, problem, monkeypatch):
    register(monkeypatch, by_size)
    with pytest.raises(ValueError, match=problem):
        make(size=5)
