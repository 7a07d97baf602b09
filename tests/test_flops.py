"""Operations of an update: the formula against torch's own counter, and the table that shows it."""

import dataclasses

import pytest

from pwmray.commands.model_table import as_table, make_rows
from pwmray.config import TrialConfig
from pwmray.flops import count_pretraining_flops, count_update_flops
from pwmray.models.sizes import SIZES
from pwmray.variants import VARIANTS
from tests.model_inputs import (
    TRIAL,
    measure_pretraining_flops,
    measure_update_flops,
    tiny_trial,
)

# No two numbers are the same, so that no two can be mixed up.
UNEVEN = {
    "world_model.latent_dim": 24,
    "world_model.encoder_units": (17, 18),
    "world_model.units": (19, 21),
    "policy.units": (22, 11, 13),
    "critic.units": (14, 15),
    "critic.num_critics": 2,
    "world_model[flow].num_substeps": 2,
    "policy[flow].num_substeps": 3,
    "learner.horizon": 5,
    "learner.wm_horizon": 3,
    "learner.policy_batch_size": 7,
    "learner.wm_batch_size": 4,
    "learner.wm_iterations": 2,
    "learner.critic_iterations": 3,
    "learner.critic_batches": 2,
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("integrator", ["euler", "heun"])
def test_operations_are_those_that_torch_counts_in_an_update(variant, integrator):
    integrators = {f"{part}[flow].integrator": integrator for part in ("world_model", "policy")}
    trial = tiny_trial(**{**UNEVEN, **integrators, "variant": variant})
    assert count_update_flops(trial).total == measure_update_flops(trial)


@pytest.mark.parametrize("variant", VARIANTS)
def test_operations_of_the_published_learner_are_those_that_torch_counts(variant):
    trial = tiny_trial(**UNEVEN, variant=variant, fidelity="published")
    assert count_update_flops(trial).total == measure_update_flops(trial)


def test_frozen_world_model_costs_no_operations_of_its_own():
    trained = tiny_trial(**UNEVEN)
    frozen = dataclasses.replace(trained, world_model_from="model.pt", finetune_wm=False)
    assert count_update_flops(frozen) == count_update_flops(trained)._replace(world_model=0)
    assert count_update_flops(frozen).total == measure_update_flops(frozen)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("fidelity", ["corrected", "published"])
def test_operations_of_pretraining_are_those_that_torch_counts(variant, fidelity):
    trial = tiny_trial(**UNEVEN, variant=variant, fidelity=fidelity)
    assert count_pretraining_flops(trial, 9) == measure_pretraining_flops(trial, 9)


def test_operations_of_each_part_follow_its_settings():
    once = count_update_flops(tiny_trial(**UNEVEN))
    twice = count_update_flops(tiny_trial(**{**UNEVEN, "learner.wm_iterations": 4}))
    assert twice.world_model == 2 * once.world_model
    assert (twice.policy, twice.critic) == (once.policy, once.critic)


def test_table_has_a_row_for_each_size_and_variant():
    rows = make_rows()
    assert [(row.size, row.variant) for row in rows] == [(s, v) for s in SIZES for v in VARIANTS]
    assert len(as_table(rows).splitlines()) == 4 + len(rows)


def test_ratios_are_within_two_percent_and_those_of_the_baseline_are_one():
    ratios = {(r.variant, part): ratio for r in make_rows() for part, ratio in r.ratios.items()}
    assert ratios == {key: pytest.approx(1.0, abs=0.02) for key in ratios}
    assert {ratio for (variant, _), ratio in ratios.items() if variant == "baseline"} == {1.0}


def test_row_says_what_one_variant_costs():
    (row,) = make_rows("48", "fullflow")
    trial = TrialConfig.from_flat({**TRIAL, "variant": "fullflow"})
    assert (row.world_model_calls, row.policy_calls) == (8, 4)  # heun, 4 and 2 substeps
    assert row.parameters["total"] == 20_525_608
    assert row.update_flops == count_update_flops(trial).total


def test_table_shows_the_numbers():
    line = as_table(make_rows("5", "flowpolicy")).splitlines()[-1]
    assert line.split()[:6] == ["5", "flowpolicy", "1,599,717", "307,424", "860,403", "2,767,544"]
    assert line.split()[6:11] == ["1.0000", "0.9997", "1.0000", "1", "4"]
