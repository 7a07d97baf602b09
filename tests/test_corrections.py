"""Every correction decides something: right with its switch, and not as published without it."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from pwmray.algorithm import pwm
from pwmray.algorithm.pwm import Rollout
from pwmray.build import build_learner
from pwmray.config import TrialConfig
from pwmray.data.sampler import Batch, draw_episodes
from pwmray.data.store import open_store, write_store
from pwmray.fidelity import CORRECTED, FIDELITIES, PUBLISHED, Fidelity
from pwmray.models.layers import groups
from pwmray.tasks import MAX_ACTION_DIM, MAX_OBS_DIM
from tests.model_inputs import stream, update_critics, update_policy
from tests.tiny import SETTINGS

SWITCHES = [field.name for field in dataclasses.fields(Fidelity)]


def make_config(settings=(), **switches):
    flat = {f"fidelity.{name}": value for name, value in switches.items()}
    trial = {"variant": "fullflow", "task": "reacher-easy", "seed": 0, "epochs": 1}
    return TrialConfig.from_flat({**SETTINGS, **trial, **dict(settings), **flat})


def make_learner(settings=(), **switches):
    return build_learner(make_config(settings, **switches))


def make_batch(horizon=3, size=16, seed=1):
    """Windows in which the reward is 1 where the first action is above 0, else 0."""
    draws = stream(seed)
    a = torch.zeros(horizon, size, MAX_ACTION_DIM)
    a[..., :2] = 2 * torch.rand(horizon, size, 2, generator=draws) - 1
    obs = torch.randn(horizon + 1, size, MAX_OBS_DIM, generator=draws)
    return Batch(obs, a, (a[..., :1] > 0).float())


def train_world_model(learner, num_steps):
    for step in range(num_steps):
        learner.update_world_model(make_batch(seed=step, size=64), stream(step))


# The presets.


def test_presets_are_the_two_extremes():
    assert list(dataclasses.asdict(FIDELITIES[CORRECTED]).values()) == [True] * len(SWITCHES)
    assert list(dataclasses.asdict(FIDELITIES[PUBLISHED]).values()) == [False] * len(SWITCHES)


def test_fidelity_is_named_by_the_nearer_preset():
    one_wrong = Fidelity(td_lambda=False)
    one_right = dataclasses.replace(FIDELITIES[PUBLISHED], td_lambda=True)
    assert FIDELITIES[CORRECTED].name == "corrected"
    assert FIDELITIES[PUBLISHED].name == "published"
    assert one_wrong.name == "corrected but td_lambda"
    assert one_right.name == "published but td_lambda"


@pytest.mark.parametrize("switch", SWITCHES)
def test_each_switch_makes_another_trial(switch):
    assert make_config(**{switch: False}).fingerprint != make_config().fingerprint


def test_a_switch_wins_over_the_preset_wherever_it_stands():
    settings = {"fidelity.td_lambda": True, "fidelity": "published"}
    assert make_config(settings).fidelity.name == "published but td_lambda"


# The world model's losses.


def reward_error(**switches):
    """Train a reward head on rewards of 0 and 1; return the error of its read-out."""
    settings = {"variant": "baseline", "learner.model_lr": 1e-2, "learner.reward_weight": 1.0}
    learner = make_learner(settings, **switches)
    train_world_model(learner, 150)
    batch = make_batch(size=256, seed=999)
    with torch.no_grad():
        e = learner._embedding(256)
        z = learner.world_model.encode(batch.obs_HBO[0], e)
        found = learner.world_model.reward(z, e, batch.a_HBA[0])
    return (found - torch.log1p(batch.r_HB1[0])).abs().mean().item()


def test_reward_head_learns_a_known_reward():
    assert reward_error() < 0.15
    assert reward_error(reward_cross_entropy=False) > 0.3  # half of log 2: nothing learned


def test_losses_weigh_what_the_settings_say():
    settings = {"variant": "baseline", "learner.consistency_weight": 7.0}
    right, wrong = make_learner(settings), make_learner(settings, loss_weights=False)

    total, parts = right.world_model_loss(make_batch(), stream())
    published_total, published = wrong.world_model_loss(make_batch(), stream())

    assert_close(total, 7.0 * parts["consistency_loss"] + 0.1 * parts["reward_loss"])
    assert_close(published_total, published["consistency_loss"] + published["reward_loss"] / 3)


def step_far(**switches):
    """Train a flow on random latents; return its velocity and the latent after 8 steps."""
    learner = make_learner({"learner.model_lr": 1e-2}, **switches)
    train_world_model(learner, 10)
    batch = make_batch(horizon=8, size=64)
    model, e = learner.world_model, learner._embedding(64)
    with torch.no_grad():
        z = model.encode(batch.obs_HBO[0], e)
        v = model.velocity(z, e, batch.a_HBA[0], torch.zeros(64, 1))
        for a in batch.a_HBA:
            z = model.next(z, e, a)
    return v, groups(z).sum(-1)


def test_flow_velocity_can_be_negative_and_its_rollout_stays_on_the_simplex():
    v, sums = step_far()
    assert v.min() < 0
    assert_close(sums, torch.ones_like(sums))


def test_published_flow_velocity_is_positive_and_leaves_the_simplex():
    v, sums = step_far(tangent_velocity=False)
    assert v.min() >= 0
    assert_close(sums, torch.full_like(sums, 9.0))  # 1 and another 1 with each step


def gradient_of_start(**switches):
    """Return the gradient of the matching loss to the start, without the velocity's share."""
    model = make_learner(**switches).world_model  # its velocity is 0 before training
    z = torch.full((4, 16), 1 / 8, requires_grad=True)
    target = torch.eye(16).repeat(1, 1)[:4]
    e = torch.zeros(4, 4)
    a, tau = torch.zeros(4, MAX_ACTION_DIM), torch.full((4, 1), 0.5)
    model.matching_loss(z, e, a, target, tau).sum().backward()
    return z.grad


def test_flow_matching_does_not_pull_the_start_towards_its_target():
    assert gradient_of_start() is None
    assert gradient_of_start(constant_flow_start=False).abs().max() > 0.01


def consistency_gradient_of_encoder(**switches):
    """Return its largest entry before training, when velocities and rewards are 0."""
    learner = make_learner(**switches)
    loss, parts = learner.world_model_loss(make_batch(), stream())
    assert parts["consistency_loss"] > 0
    loss.backward()
    return max(p.grad.abs().max().item() for p in learner.world_model.encoder.parameters())


def test_consistency_does_not_pull_the_latents_together():
    assert consistency_gradient_of_encoder() == 0
    assert consistency_gradient_of_encoder(constant_flow_start=False) > 1e-4


def test_flow_is_also_trained_on_where_it_ends():
    _, right = make_learner().world_model_loss(make_batch(), stream())
    _, wrong = make_learner(integrated_consistency=False).world_model_loss(make_batch(), stream())
    assert right["consistency_loss"] > 0
    assert "consistency_loss" not in wrong


# The critics' targets.


def critic_targets(monkeypatch, **switches):
    """Return the targets for rewards of 1 and values of 0, 0 and 8, at gamma and lambda .5."""
    settings = {"learner.discount": 0.5, "learner.td_lambda": 0.5}
    learner = make_learner(settings, **switches)
    seen = []
    monkeypatch.setattr(
        pwm, "td_lambda", lambda *given: seen.append(pwm_td_lambda(*given)) or seen[-1]
    )
    value = torch.tensor([0.0, 0.0, 8.0]).view(3, 1, 1)
    rollout = Rollout(torch.rand(3, 1, 16), torch.ones(3, 1, 1), value, ())
    update_critics(learner, rollout, stream())
    return seen[0].flatten().tolist()


pwm_td_lambda = pwm.td_lambda


def test_critic_targets_look_further_than_one_step(monkeypatch):
    # y_2 = 1 + 8/2; y_1 = 1 + (y_2/2)/2; y_0 = 1 + (y_1/2)/2
    assert critic_targets(monkeypatch) == [1.5625, 2.25, 5.0]
    assert critic_targets(monkeypatch, td_lambda=False) == [1.0, 1.0, 5.0]


def terminal_weight(**switches):
    """Return what a terminal value of 1 weighs in the objective, at gamma .5 over 3 steps."""
    learner = make_learner({"learner.discount": 0.5}, **switches)
    for weight in learner.critics.weights:
        torch.nn.init.zeros_(weight)
    torch.nn.init.ones_(learner.critics.biases[-1])  # V = 1, and an untrained reward is 0
    return learner.predict_return(torch.zeros(1, MAX_OBS_DIM)).item()


def test_terminal_value_weighs_gamma_to_the_horizon():
    assert terminal_weight() == pytest.approx(0.5**3, abs=1e-6)
    assert terminal_weight(terminal_discount=False) == pytest.approx(0.5**4, abs=1e-6)


def critic_rows(monkeypatch, **switches):
    """Return the first latent entry of each critic minibatch's rows, in order."""
    learner = make_learner({"learner.critic_batches": 2}, **switches)
    rows, forward = [], learner.critics.forward

    def look(z):
        rows.append(z[:, 0].tolist())
        return forward(z)

    monkeypatch.setattr(learner.critics, "forward", look)
    z = torch.arange(8.0).view(4, 2, 1).expand(4, 2, 16)
    nothing = torch.zeros(4, 2, 1)
    update_critics(learner, Rollout(z, nothing, nothing, ()), stream())
    return rows


def test_critic_minibatches_mix_the_times(monkeypatch):
    assert critic_rows(monkeypatch, shuffled_critic_batches=False) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    mixed = critic_rows(monkeypatch)
    assert sorted(mixed[0] + mixed[1]) == [0, 1, 2, 3, 4, 5, 6, 7]
    assert mixed != [[0, 1, 2, 3], [4, 5, 6, 7]]


# The policy.


def actions_beyond_the_task(**switches):
    learner = make_learner({"variant": "baseline"}, **switches)
    noise = torch.ones(4, MAX_ACTION_DIM)
    return learner.policy(torch.rand(4, 16), noise, learner.mask_A)[:, 2:]


def test_policy_acts_only_where_its_task_has_actions():
    assert actions_beyond_the_task().abs().max() == 0
    assert actions_beyond_the_task(masked_actions=False).abs().min() > 0


def noise_after_collapse(**switches):
    """Return the noise of a flow policy whose log std was driven far down."""
    learner = make_learner(**switches)
    torch.nn.init.constant_(learner.policy.log_std, -20.0)
    torch.nn.init.zeros_(learner.policy.velocity[-1].weight)  # which would carry it further
    still = learner.policy(torch.zeros(1, 16), torch.zeros(1, MAX_ACTION_DIM), learner.mask_A)
    moved = learner.policy(torch.zeros(1, 16), torch.ones(1, MAX_ACTION_DIM), learner.mask_A)
    return (moved - still).abs()[0, :2].max().item()


def test_flow_policy_keeps_exploring():
    assert noise_after_collapse() > 0.1
    assert noise_after_collapse(exploration_floor=False) == pytest.approx(np.exp(-10), rel=1e-3)


# Data.


@pytest.fixture
def store(tmp_path):
    """Forty episodes of 5 rows."""
    path = tmp_path / "reacher-easy.arrow"
    rows = np.zeros(200, np.float32)
    columns = {"obs": np.zeros((200, 6), np.float32), "action": np.zeros((200, 2), np.float32)}
    write_store(path, "reacher-easy", **columns, reward=rows, episode_lengths=[5] * 40,
                behaviours=["uniform"] * 40, recipe={})  # fmt: skip
    return open_store(path)


def test_every_episode_is_used_once(store):
    right = draw_episodes(store, 0, with_replacement=False, generator=stream())
    wrong = draw_episodes(store, 0, with_replacement=True, generator=stream())
    assert sorted(right) == list(range(40))
    assert len(wrong) == 40
    assert len(set(wrong)) < 32  # a share of 1/e is never drawn


def test_buffer_holds_whole_episodes_up_to_its_size(store):
    for num_rows, num_episodes in ((5, 1), (19, 3), (20, 4), (23, 4)):
        drawn = draw_episodes(store, num_rows, with_replacement=False, generator=stream())
        assert len(drawn) == num_episodes
    with pytest.raises(ValueError, match="wm_buffer_size is 4 rows, fewer than one episode"):
        draw_episodes(store, 4, with_replacement=False, generator=stream())


# The world model's updates.


def embedding_after(num_steps, **switches):
    learner = make_learner({"variant": "baseline"}, **switches)
    before = learner.world_model.task_embedding.weight.detach().clone()
    norms = []
    for _ in range(num_steps):
        metrics = learner.update_world_model(make_batch(), stream())
        norms.append(metrics["world_model_gradient_norm"].item())
    moved = (learner.world_model.task_embedding.weight - before).abs().max().item()
    return moved, norms, learner


def test_task_embedding_is_trained():
    moved, _, _ = embedding_after(5)
    assert moved > 1e-4


def test_published_task_embedding_stays_and_its_gradient_adds_up():
    moved, _, learner = embedding_after(1, trained_task_embedding=False)
    after_one = learner.stale_gradient.norm().item()
    still, _, later = embedding_after(20, trained_task_embedding=False)
    assert moved == still == 0
    assert later.stale_gradient.norm().item() > 5 * after_one > 0


def stale_after_a_policy_step(**switches):
    """Return what one policy step adds to the kept gradient, and the learner before it."""
    learner = make_learner(trained_task_embedding=False, **switches)
    train_world_model(learner, 5)
    before = copy.deepcopy(learner)
    update_policy(learner, make_batch().obs_HBO[0], stream())
    return learner.stale_gradient - before.stale_gradient, before


def test_published_policy_step_adds_its_gradient_of_the_task_embedding():
    added, learner = stale_after_a_policy_step()
    obs = make_batch().obs_HBO[0]
    returns, _ = learner._roll_out(obs, learner.draw_noise(obs, stream()))
    learner.return_scale.update(returns.detach())
    loss = -returns.mean() / learner.return_scale.std
    (wanted,) = torch.autograd.grad(loss, learner.world_model.task_embedding.weight)
    assert_close(added, wanted)
    assert added.norm() > 0


def test_policy_step_leaves_no_gradient_on_the_world_model():
    learner = make_learner()
    update_policy(learner, make_batch().obs_HBO[0], stream())
    assert [p.grad for p in learner.world_model.parameters() if p.grad is not None] == []


def sizes_drawn(**switches):
    """Return the sizes of the batches that one epoch draws, and the length of their windows."""
    settings = {
        "learner.wm_iterations": 3,
        "learner.wm_batch_size": 5,
        "learner.policy_batch_size": 7,
        "learner.wm_horizon": 2,
    }
    learner = make_learner(settings, **switches)
    drawn = []

    def sample(size):
        drawn.append(size)
        return make_batch(learner.window_horizon, size)

    learner.update(sample, stream(), 0.0)
    return drawn, learner.window_horizon


def test_world_model_takes_the_steps_and_batches_of_its_settings():
    assert sizes_drawn() == ([5, 5, 5, 7], 2)
    assert sizes_drawn(world_model_batches=False) == ([7], 3)
