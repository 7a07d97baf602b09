"""The planner: its promises for every variant, a toy with a known optimum, and that it helps."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pwmray.algorithm.evaluate import PLANNER_GROUP, Actor, evaluate
from pwmray.algorithm.planner import MAX_ROWS, Planner, PlannerConfig
from pwmray.build import build_learner
from pwmray.config import TrialConfig
from pwmray.tasks import MAX_ACTION_DIM, MAX_OBS_DIM
from pwmray.variants import VARIANTS
from tests.learners import make_learner
from tests.model_inputs import stream
from tests.point import POINT_SETTINGS, play_point, point_windows
from tests.three_episodes import ThreeEpisodes
from tests.tiny import SETTINGS

SMALL = {"num_samples": 32, "num_elites": 8, "num_policy_trajectories": 4, "num_iterations": 2}
every_variant = pytest.mark.parametrize("variant", VARIANTS)


def make_planner(learner, seed=7, max_rows=MAX_ROWS, **settings):
    return Planner(PlannerConfig(**{**SMALL, **settings}), learner, stream(seed), max_rows)


def observations(num_episodes=5):
    return torch.randn(num_episodes, MAX_OBS_DIM, generator=stream(1))


# For every variant; the task has two of the six action dimensions.


@every_variant
def test_plan_is_a_bounded_action_in_the_dimensions_of_the_task_alone(variant):
    planner = make_planner(make_learner(variant))
    for _ in range(2):
        a_NA = planner(observations())
        assert a_NA.shape == (5, MAX_ACTION_DIM)
        assert a_NA.abs().max() <= 1
        assert a_NA[:, :2].abs().min() > 0
        assert torch.equal(a_NA[:, 2:], torch.zeros(5, 4))
    assert torch.equal(planner.mean_HNA[..., 2:], torch.zeros(3, 5, 4))


@every_variant
def test_plan_follows_from_its_generator(variant):
    learner, before = make_learner(variant), torch.get_rng_state()
    first, same, other = (make_planner(learner, seed) for seed in (7, 7, 8))
    for _ in range(2):
        a_NA = first(observations())
        assert torch.equal(same(observations()), a_NA)
        assert not torch.equal(other(observations()), a_NA)
    assert torch.equal(torch.get_rng_state(), before)


@every_variant
def test_planning_takes_no_gradient(variant):
    learner = make_learner(variant)
    a_NA = make_planner(learner)(observations().requires_grad_())
    assert not a_NA.requires_grad
    assert all(p.grad is None for p in learner.parameters())


@every_variant
@pytest.mark.parametrize("max_rows", [1, 2 * 3 * 32])
def test_plan_does_not_depend_on_how_many_rows_are_held_at_once(variant, max_rows):
    learner = make_learner(variant)
    whole, parts = make_planner(learner), make_planner(learner, max_rows=max_rows)
    for _ in range(2):
        assert_close(parts(observations()), whole(observations()))
    assert_close(parts.mean_HNA, whole.mean_HNA)


@every_variant
def test_search_starts_from_the_last_plan_moved_on_by_a_step(variant):
    still = {"num_policy_trajectories": 0, "min_std": 1e-7, "max_std": 1e-7}
    learner = make_learner(variant)
    planner = make_planner(learner, **still)
    plan_HNA = torch.rand(3, 5, MAX_ACTION_DIM, generator=stream(3)) * learner.mask_A
    planner.mean_HNA = plan_HNA

    a_NA = planner(observations())

    assert_close(a_NA, plan_HNA[1])
    assert_close(planner.mean_HNA[:2], plan_HNA[1:])
    assert_close(planner.mean_HNA[2], torch.zeros(5, MAX_ACTION_DIM), atol=1e-5, rtol=0)


@every_variant
def test_planner_with_one_sample_of_the_policy_follows_the_policy_through_the_model(variant):
    learner = make_learner(variant)
    alone = {"num_samples": 1, "num_elites": 1, "num_policy_trajectories": 1}
    planner = make_planner(learner, horizon=3, **alone)

    a_NA = planner(observations())

    noise = torch.randn(3, 5, 1, MAX_ACTION_DIM, generator=stream(7)).squeeze(2)
    with torch.no_grad():
        e_NT = learner.world_model.embed(learner.task).expand(5, -1)
        z_NL = learner.world_model.encode(observations(), e_NT)
        actions = []
        for noise_NA in noise:
            actions.append(learner.policy(z_NL, noise_NA, learner.mask_A))
            z_NL = learner.world_model.next(z_NL, e_NT, actions[-1])
    assert_close(a_NA, actions[0])
    assert_close(planner.mean_HNA, torch.stack(actions))


@every_variant
@pytest.mark.parametrize("num", [0, 32])
def test_planner_takes_none_or_all_of_its_samples_from_the_policy(variant, num):
    planner = make_planner(make_learner(variant), num_policy_trajectories=num)
    assert planner(observations()).isfinite().all()


@pytest.mark.parametrize(("max_rows", "expected"), [(1, 32), (2 * 3 * 32, 64), (MAX_ROWS, 160)])
def test_no_more_rows_are_held_at_once_than_asked_for_but_those_of_one_episode(
    max_rows, expected, monkeypatch
):
    learner, seen = make_learner("fullflow"), []
    minimum = learner.critics.minimum
    monkeypatch.setattr(
        learner.critics, "minimum", lambda z: seen.append(z.shape[:-1].numel()) or minimum(z)
    )
    make_planner(learner, max_rows=max_rows)(observations())
    assert max(seen) == expected  # after each of 3 steps


# A toy whose optimum is known: a point on a line, pushed by the action.


class Line(nn.Module):
    """z' = z + a and a reward of the action alone; the latent is the point's place."""

    def __init__(self, reward):
        super().__init__()
        self._reward = reward

    def embed(self, task):
        return torch.zeros(0)

    def encode(self, obs_NO, e_NT):
        return obs_NO[..., :1]

    def next(self, z_NL, e_NT, a_NA):
        return z_NL + a_NA[..., :1]

    def reward(self, z_NL, e_NT, a_NA):
        return self._reward(a_NA[..., :1])


class Goal(nn.Module):
    """Critics of which the least is -scale (z - 1.5)^2; the others would lead elsewhere."""

    def __init__(self, scale=1.0):
        super().__init__()
        self._scale = scale

    def minimum(self, z_NL):
        return -self._scale * (z_NL - 1.5).square()


def make_line_learner(reward, critics):
    trial = {"task": "pendulum-spin", "seed": 0, "epochs": 1, "learner.discount": 0.5}
    learner = build_learner(TrialConfig.from_flat({**SETTINGS, **trial}))
    learner.world_model, learner.policy, learner.critics = Line(reward), Idle(), critics
    return learner


class Idle(nn.Module):
    """A policy that does nothing."""

    def forward(self, z_NL, noise_NA, mask_A):
        return torch.zeros_like(noise_NA)


def at(*places):
    obs_NO = torch.zeros(len(places), MAX_OBS_DIM)
    obs_NO[:, 0] = torch.tensor(places)
    return obs_NO


def test_value_of_a_plan_is_the_hand_worked_one():
    planner = make_planner(make_line_learner(lambda a: a, Goal()))
    a_HNSA = torch.zeros(3, 1, 2, MAX_ACTION_DIM)
    a_HNSA[:, 0, 0, 0] = torch.tensor([0.5, 0.25, -1.0])
    value_NS = planner._value(at(2.0)[:, :1], a_HNSA)
    rewards = 0.5 + 0.25 / 2 - 1.0 / 4
    assert value_NS.tolist() == [[rewards - (1.75 - 1.5) ** 2 / 8, -(0.5**2) / 8]]


def test_search_goes_on_from_the_weighted_mean_and_sd_of_the_elites():
    planner = make_planner(make_line_learner(lambda a: a, Goal()), min_std=0.05)
    a_HNEA = torch.zeros(2, 1, 2, MAX_ACTION_DIM)
    a_HNEA[0, 0, :, 0], a_HNEA[1, 0, :, 0] = torch.tensor([0.0, 1.0]), 0.3

    mean_HNA, std_HNA = planner._fit(a_HNEA, torch.tensor([[0.25, 0.75]]))

    # sqrt(.25 (0 - .75)^2 + .75 (1 - .75)^2) = sqrt(3) / 4; where they agree, the least sd.
    assert mean_HNA[:, 0, 0].tolist() == pytest.approx([0.75, 0.3])
    assert std_HNA[:, 0, 0].tolist() == pytest.approx([3**0.5 / 4, 0.05])
    assert std_HNA[..., 1:].abs().max() == 0


def test_planner_finds_the_hand_worked_optimum():
    # The largest of -(a0^2 + a1^2 / 2 + a2^2 / 4) / 10 - (d - a0 - a1 - a2)^2 / 8 with discount
    # 1/2 and d = 1.5 - z0 has a1 = 2 a0, a2 = 4 a0 and a0 = (d / 8) / (1 / 10 + 7 / 8).
    learner = make_line_learner(lambda a: -0.1 * a.square(), Goal())
    planner = make_planner(learner, num_iterations=25, num_samples=512, min_std=0.005)

    a_NA = planner(at(0.0, 0.5, 2.5))

    a0 = (1.5 - torch.tensor([0.0, 0.5, 2.5])) / 7.8
    assert_close(a_NA[:, 0], a0, atol=0.05, rtol=0)
    best_HN = torch.stack([a0, 2 * a0, 4 * a0])
    assert_close(planner.mean_HNA[..., 0], best_HN, atol=0.05, rtol=0)


def test_planner_takes_one_of_two_optima_and_not_their_mean():
    learner = make_line_learner(lambda a: -(a.abs() - 0.6).square(), Goal(scale=0.0))
    one_look = {"num_iterations": 1, "num_samples": 4096, "num_elites": 16, "horizon": 1}
    a_N = make_planner(learner, **one_look)(at(*[0.0] * 32))[:, 0]
    assert_close(a_N.abs(), torch.full((32,), 0.6), atol=0.02, rtol=0)
    assert a_N.min() < 0 < a_N.max()


def test_weights_of_elites_are_those_of_the_temperature():
    # Two sequences, the idle policy's and one at -1 or 1, with the values 0 and 2: of exp(0) and
    # exp(-2 * .5), the first's share is .731.
    learner = make_line_learner(lambda a: -2 * a.abs(), Goal(scale=0.0))
    two = {"num_samples": 2, "num_elites": 2, "num_policy_trajectories": 1, "num_iterations": 1}
    planner = make_planner(learner, horizon=1, min_std=1e6, max_std=1e6, **two)
    a_N = planner(at(*[0.0] * 4000))[:, 0]
    assert_close(planner.mean_HNA[0, :, 0].abs(), torch.full((4000,), 0.268941))
    assert (a_N == 0).float().mean().item() == pytest.approx(0.731, abs=0.03)


# Evaluation.


def test_each_evaluation_plans_from_nothing(short_episodes):
    learner, made = make_learner("fullflow"), []
    least = {"num_iterations": 1, "num_samples": 4, "num_elites": 2, "num_policy_trajectories": 1}

    def make_act(group):
        made.append(make_planner(learner, seed=group, **least))
        return made[-1]

    evaluate(Actor(make_act, PLANNER_GROUP), ThreeEpisodes(), [5, 6, 7], 2, torch.device("cpu"))
    first = made[0].mean_HNA
    evaluate(Actor(make_act, PLANNER_GROUP), ThreeEpisodes(), [5, 6, 7], 2, torch.device("cpu"))
    assert len(made) == 2
    assert first.shape[1] == PLANNER_GROUP
    assert torch.equal(made[1].mean_HNA, first)


# Planning helps: the model and the critics have learned, the policy has not.

UNTAUGHT_POLICY = {
    "learner.actor_lr": 1e-12,
    "learner.critic_lr": 1e-3,
    "learner.wm_iterations": 10,
    "learner.discount": 0.9,
}


@every_variant
def test_planning_beats_the_bare_policy_of_an_undertrained_agent(variant):
    trial = {"variant": variant, "seed": 2, "epochs": 1}
    learner = build_learner(
        TrialConfig.from_flat({**SETTINGS, **POINT_SETTINGS, **UNTAUGHT_POLICY, **trial})
    )
    windows, noise = point_windows(stream(1)), stream(2)
    for _ in range(30):
        learner.update(windows, noise, 0.0)

    policy_return = play_point(learner.act)
    plan_return = play_point(make_planner(learner))

    assert policy_return < 18
    assert plan_return > 20  # of at most 24.4


# Settings.


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"horizon": 0}, "planner.horizon is 0"),
        ({"num_iterations": 0}, "planner.num_iterations is 0"),
        ({"num_samples": 0}, "planner.num_samples is 0"),
        ({"num_elites": 0}, "planner.num_elites is 0"),
        ({"num_elites": 513}, "planner.num_elites is 513; it must be at most .*, 512"),
        ({"num_policy_trajectories": -1}, "planner.num_policy_trajectories is -1"),
        ({"num_policy_trajectories": 513}, "planner.num_policy_trajectories is 513"),
        ({"temperature": 0.0}, "planner.temperature is 0.0"),
        ({"temperature": float("nan")}, "planner.temperature is nan"),
        ({"min_std": 0.0}, "planner.min_std is 0.0"),
        ({"min_std": 3.0}, "planner.min_std is 3.0; it must be at most planner.max_std, 2.0"),
        ({"max_std": float("nan")}, "planner.max_std is nan"),
    ],
)
def test_planner_setting_outside_its_range_is_named(settings, named):
    with pytest.raises(ValueError, match=named):
        PlannerConfig(**settings).check()


def test_defaults_of_the_planner_are_those_of_tdmpc2():
    PlannerConfig().check()
    assert PlannerConfig() == PlannerConfig(3, 6, 512, 64, 24, 0.5, 0.05, 2.0)
