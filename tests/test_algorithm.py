"""The learner's formulas against hand-worked numbers, and one learner that learns."""

import copy
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from pwmray.algorithm import checkpoint, pwm
from pwmray.algorithm.evaluate import evaluate, policy_actor
from pwmray.algorithm.learner_config import LearnerConfig
from pwmray.algorithm.pwm import Rollout
from pwmray.algorithm.returns import ReturnScale, discounts, td_lambda
from pwmray.build import build_learner
from pwmray.config import TrialConfig
from pwmray.seeding import derive_seed, global_draws_from
from pwmray.tasks import EPISODE_STEPS, MAX_ACTION_DIM, MAX_OBS_DIM, find_task
from pwmray.variants import VARIANTS
from tests.learners import windows, windows_of
from tests.model_inputs import stream, update_critics, update_policy
from tests.point import NUM_POINTS, POINT_SETTINGS, play_point, point_windows
from tests.three_episodes import ThreeEpisodes
from tests.tiny import SETTINGS

CPU = torch.device("cpu")
every_variant = pytest.mark.parametrize("variant", VARIANTS)


def make_learner(variant="fullflow", seed=0, **learner_settings):
    settings = {f"learner.{name}": value for name, value in learner_settings.items()}
    trial = {"variant": variant, "task": "reacher-easy", "seed": seed, "epochs": 1}
    return build_learner(TrialConfig.from_flat({**SETTINGS, **settings, **trial}))


def random_batch(batch_size=8):
    return windows(1)(batch_size)


def random_rollout(horizon=3, batch_size=8):
    draws = stream(2)
    z = torch.rand(horizon, batch_size, SETTINGS["world_model.latent_dim"], generator=draws)
    r = torch.rand(horizon, batch_size, 1, generator=draws)
    v = torch.rand(horizon, batch_size, 1, generator=draws)
    return Rollout(z, r, v, ())


def copy_state(module):
    return copy.deepcopy(module.state_dict())


def has_no_gradient(module):
    return all(p.grad is None for p in module.parameters())


def assert_unchanged(module, before):
    assert_close(module.state_dict(), before, rtol=0, atol=0)


def assert_trained(module, before):
    parameters = dict(module.named_parameters())
    assert not [name for name, p in parameters.items() if torch.equal(p, before[name])]


# Returns.


def column(*values):
    return torch.tensor(values).view(-1, 1, 1)


@pytest.mark.parametrize(
    ("trace", "targets"),
    [
        # y_2 = 3 + .5 * 30; y_1 = 2 + .5 (.5 * 20 + .5 * 18); y_0 = 1 + .5 (.5 * 10 + .5 * 11.5)
        (0.5, (6.375, 11.5, 18.0)),
        # one step: r + .5 V
        (0.0, (6.0, 12.0, 18.0)),
        # the whole sum: 1 + .5 * 2 + .25 * 3 + .125 * 30
        (1.0, (6.5, 11.0, 18.0)),
    ],
)
def test_td_lambda_targets_are_the_hand_worked_ones(trace, targets):
    r, next_v = column(1.0, 2.0, 3.0), column(10.0, 20.0, 30.0)
    assert_close(td_lambda(r, next_v, 0.5, trace), column(*targets))


def test_td_lambda_keeps_the_rows_of_a_batch_apart():
    rollout = random_rollout()
    whole = td_lambda(rollout.r, rollout.next_v, 0.9, 0.7)
    row = td_lambda(rollout.r[:, 3:4], rollout.next_v[:, 3:4], 0.9, 0.7)
    assert_close(whole[:, 3:4], row)


def test_discounts_are_powers_of_gamma():
    assert_close(discounts(3, 0.5, torch.zeros(())), torch.tensor([[1.0], [0.5], [0.25]]))
    assert_close(discounts(2, 0.0, torch.zeros(())), torch.tensor([[1.0], [0.0]]))


def test_return_scale_is_that_of_all_batches_together():
    batches = [3 + 2 * torch.randn(n, 1, generator=stream(n)) for n in (8, 64, 5)]
    scale = ReturnScale()

    for batch in batches:
        scale.update(batch)

    returns = np.concatenate([batch.numpy().astype(np.float64) for batch in batches])
    assert scale.mean.item() == pytest.approx(returns.mean(), rel=1e-5)
    assert scale.var.item() == pytest.approx(returns.var(), rel=1e-4)
    assert scale.std.item() == pytest.approx(np.sqrt(returns.var() + 1e-5), rel=1e-4)


def test_return_scale_of_equal_returns_is_the_root_of_a_hundred_thousandth():
    scale = ReturnScale()
    for _ in range(3):
        scale.update(torch.zeros(1000, 1))
    assert scale.std.item() == pytest.approx(1e-5**0.5, rel=0.01)


def test_return_scale_is_one_before_the_first_batch():
    assert ReturnScale().std.item() == pytest.approx(1.0, rel=1e-4)


# The world model's update.


@every_variant
def test_world_model_update_changes_the_world_model_alone(variant):
    learner = make_learner(variant)
    before = {name: copy_state(part) for name, part in learner.named_children()}

    metrics = learner.update_world_model(random_batch(), stream())

    learner.update_world_model(random_batch(), stream())  # behind zero-initialised weights
    assert_trained(learner.world_model, before["world_model"])
    assert_unchanged(learner.policy, before["policy"])
    assert_unchanged(learner.critics, before["critics"])
    assert_unchanged(learner.return_scale, before["return_scale"])
    assert all(value.isfinite() and not value.requires_grad for value in metrics.values())


@every_variant
def test_world_model_targets_send_no_gradient(variant):
    learner = make_learner(variant)
    learner.update_world_model(random_batch(), stream())  # behind zero-initialised weights
    batch = random_batch()
    batch.obs_HBO.requires_grad_()

    learner.world_model_loss(batch, stream())[0].backward()

    assert batch.obs_HBO.grad[0].abs().max() > 0
    assert torch.equal(batch.obs_HBO.grad[1:], torch.zeros_like(batch.obs_HBO[1:]))


@every_variant
def test_world_model_loss_is_the_weighted_sum_of_its_parts(variant):
    learner = make_learner(variant, consistency_weight=2.0, reward_weight=3.0, matching_weight=5.0)

    loss, parts = learner.world_model_loss(random_batch(), stream())

    total = 2 * parts["consistency_loss"] + 3 * parts["reward_loss"]
    assert_close(loss.detach(), total + 5 * parts.get("matching_loss", torch.zeros(())))


def test_world_model_loss_discounts_each_step_once():
    learner = make_learner("baseline", discount=0.5)
    batch = random_batch()

    _, parts = learner.world_model_loss(batch, stream())

    # The reward head starts uniform: every step's loss is log 101 before its weight.
    expected = np.log(101) * (1 + 0.5 + 0.25) / 3
    assert parts["reward_loss"].item() == pytest.approx(expected, rel=1e-5)


# The policy's update.


@every_variant
def test_policy_update_changes_the_policy_alone(variant):
    learner = make_learner(variant)
    learner.update_world_model(random_batch(), stream())  # else no reward reaches the policy
    learner.world_model.zero_grad()
    before = {name: copy_state(part) for name, part in learner.named_children()}

    metrics, _ = update_policy(learner, random_batch().obs_HBO[0], stream())

    assert not torch.equal(learner.policy.log_std, before["policy"]["log_std"])
    assert_unchanged(learner.world_model, before["world_model"])
    assert_unchanged(learner.critics, before["critics"])
    assert has_no_gradient(learner.world_model)
    assert has_no_gradient(learner.critics)
    assert all(value.isfinite() and not value.requires_grad for value in metrics.values())


def test_policy_update_leaves_the_other_parts_trainable():
    learner = make_learner()
    update_policy(learner, random_batch().obs_HBO[0], stream())
    assert all(p.requires_grad for p in learner.parameters())


def test_policy_update_leaves_no_noise_below_its_floor():
    learner = make_learner()
    torch.nn.init.constant_(learner.policy.log_std, -3.0)
    update_policy(learner, random_batch().obs_HBO[0], stream())
    assert_close(learner.policy.log_std.detach(), torch.full((6,), -1.427))


def test_policy_sees_detached_latents(monkeypatch):
    learner, seen = make_learner(), []
    pre_squash = learner.policy.pre_squash
    monkeypatch.setattr(
        learner.policy, "pre_squash", lambda *x: seen.append(x[0]) or pre_squash(*x)
    )
    update_policy(learner, random_batch().obs_HBO[0], stream())
    assert [z.requires_grad for z in seen] == [False] * 4  # three steps, then all of them at once


def test_rollout_for_the_critics_is_detached():
    _, rollout = update_policy(make_learner(), random_batch().obs_HBO[0], stream())
    assert rollout.z.shape == (3, 8, SETTINGS["world_model.latent_dim"])
    assert rollout.r.shape == rollout.next_v.shape == (3, 8, 1)
    assert not any(part.requires_grad for part in (rollout.z, rollout.r, rollout.next_v))


def actor_loss_and_gradient(**penalty):
    learner = make_learner(**penalty)
    learner.set_schedules(0.0)
    before, obs = copy.deepcopy(learner), random_batch().obs_HBO[0]
    metrics, rollout = update_policy(learner, obs, stream())
    noise = before.draw_noise(obs, stream())
    _, u = before.policy.sample(rollout.z, noise, before.mask_A)
    return metrics["actor_loss"], u.square().sum(-1).mean()


def test_action_penalty_is_on_the_squared_action_before_tanh():
    plain, squares = actor_loss_and_gradient()
    penalised, _ = actor_loss_and_gradient(action_penalty=0.3)
    assert_close(penalised - plain, 0.3 * squares.detach())


def test_action_penalty_pulls_a_saturated_policy_back():
    learner = make_learner("baseline", action_penalty=0.1)
    learner.set_schedules(0.0)
    with torch.no_grad():
        learner.policy.mean[-1].bias.fill_(6.0)
    before = learner.policy.mean[-1].bias.clone()
    update_policy(learner, random_batch().obs_HBO[0], stream())
    moved = (learner.policy.mean[-1].bias - before)[: find_task("reacher-easy").action_dim]
    assert (moved < 0).all()


def test_action_penalty_falls_to_nothing_over_the_epochs(monkeypatch):
    learner, seen = make_learner(action_penalty=0.2), []
    improve_policy = learner.improve_policy

    def look(*given):
        seen.append(learner.action_penalty.item())
        return improve_policy(*given)

    monkeypatch.setattr(learner, "improve_policy", look)
    for progress in (0.0, 0.5, 1.0):
        learner.update(lambda size: random_batch(), stream(), progress)
    assert seen == pytest.approx([0.2, 0.1, 0.0])


def test_terminal_value_is_weighted_with_gamma_to_the_horizon():
    learner = make_learner("baseline", discount=0.5)  # whose rewards start at 0
    set_constant(learner.critics, 8.0)

    metrics, rollout = update_policy(learner, random_batch().obs_HBO[0], stream())

    assert metrics["imagined_return"].item() == pytest.approx(0.5**3 * 8.0, rel=1e-4)
    assert_close(rollout.next_v, torch.full((3, 8, 1), 8.0))


def test_imagined_rewards_are_discounted_from_the_first():
    learner = make_learner("baseline", discount=0.5)
    learner.world_model.reward = lambda z, e, a: torch.ones(*z.shape[:-1], 1) + 0 * a[..., :1]
    set_constant(learner.critics, 0.0)

    metrics, _ = update_policy(learner, random_batch().obs_HBO[0], stream())

    assert metrics["imagined_return"].item() == pytest.approx(1 + 0.5 + 0.25)


def set_constant(critics, value):
    with torch.no_grad():
        for parameter in critics.parameters():
            parameter.zero_()
        critics.biases[-1].fill_(value)


def test_policy_acts_in_the_dimensions_of_its_task_alone():
    a = make_learner().act(random_batch().obs_HBO[0])
    assert a.shape == (8, MAX_ACTION_DIM)
    assert a[:, :2].abs().min() > 0
    assert torch.equal(a[:, 2:], torch.zeros(8, 4))


# The critics' update.


def test_critic_update_changes_the_critics_alone():
    learner = make_learner()
    before = {name: copy_state(part) for name, part in learner.named_children()}

    metrics = update_critics(learner, random_rollout(), stream())

    assert all(value.isfinite() and not value.requires_grad for value in metrics.values())
    assert_trained(learner.critics, before["critics"])
    assert_unchanged(learner.world_model, before["world_model"])
    assert_unchanged(learner.policy, before["policy"])


def test_critics_come_to_their_targets():
    settings = {"critic_iterations": 100, "critic_batches": 2, "discount": 0.5, "critic_lr": 1e-2}
    learner, rollout = make_learner(**settings), random_rollout()
    far = update_critics(learner, rollout, stream())["critic_loss"]
    near = update_critics(learner, rollout, stream())["critic_loss"]
    assert near < 0.1 * far


def test_minibatches_that_a_gpu_gathers_at_once_are_those_of_each_pass(monkeypatch):
    rows, draws = (torch.arange(14).view(7, 2), torch.arange(7)), stream()
    orders = [torch.randperm(7, generator=draws) for _ in range(3)]
    expected = [y.tolist() for order in orders for y in order.chunk(3)]
    for is_cuda in (False, True):
        monkeypatch.setattr(torch.Tensor, "is_cuda", is_cuda)
        found = list(pwm._minibatches(rows, orders, 3))
        assert [y.tolist() for _, y in found] == expected
        assert all(torch.equal(z, rows[0][y]) for z, y in found)


def test_fused_steps_equal_plain_adam():
    learner = make_learner(critic_iterations=3, critic_batches=1, critic_clip=1e9)
    critics, rollout = copy.deepcopy(learner.critics), random_rollout()
    plain = torch.optim.Adam(
        critics.parameters(), lr=5e-4, betas=(0.7, 0.95), fused=False, foreach=False
    )
    y = td_lambda(rollout.r, rollout.next_v, 0.99, 0.95).flatten()

    update_critics(learner, rollout, stream())
    for _ in range(3):
        plain.zero_grad()
        (critics(rollout.z.flatten(0, 1)) - y).square().mean().backward()
        plain.step()

    assert_close(learner.critics.state_dict(), critics.state_dict(), rtol=0, atol=1e-6)


# A whole epoch.


def test_no_process_that_trains_loads_the_compiler_of_torch():
    program = (
        "import sys, torch; from tests.learners import make_learner, windows;"
        "learner = make_learner('baseline');"
        "learner.update(windows(1), torch.Generator().manual_seed(1), 0.0);"
        "states = [(o, o.state_dict()) for o in learner.optimizers.values()];"
        "[optimizer.load_state_dict(state) for optimizer, state in states];"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def run_epochs(learner, num_epochs, sample, noise):
    return [learner.update(sample, noise, i / num_epochs) for i in range(num_epochs)]


@every_variant
def test_epoch_follows_from_its_generators(variant):
    first, same, other = (make_learner(variant) for _ in range(3))

    losses = run_epochs(first, 2, windows(3), stream(4))
    same_losses = run_epochs(same, 2, windows(3), stream(4))
    run_epochs(other, 2, windows(3), stream(5))

    assert_unchanged(same, first.state_dict())
    assert_close(losses, same_losses, rtol=0, atol=0)
    assert not torch.equal(first.policy.log_std, other.policy.log_std)


def test_epoch_does_not_touch_the_global_random_state():
    learner, before = make_learner(), torch.get_rng_state()
    learner.update(windows(3), stream(4), 0.0)
    assert torch.equal(torch.get_rng_state(), before)


def test_initial_weights_follow_from_the_seed():
    assert_unchanged(make_learner(seed=0), make_learner(seed=0).state_dict())
    assert not torch.equal(
        make_learner(seed=0).critics.weights[0], make_learner(seed=1).critics.weights[0]
    )


def test_seed_gives_the_streams_and_the_initial_weights_that_it_always_gave():
    learner = make_learner("fullflow", seed=42)
    model, policy, critics = learner.world_model, learner.policy, learner.critics
    weights = {
        model.encoder[0].weight[2, 5]: 0.0078672,
        model.velocity_trunk[0].weight[1, 2]: 0.0066461,
        model.task_embedding.weight[3, 1]: -0.0093154,
        policy.velocity[0].weight[1, 2]: 0.0095961,
        critics.weights[0][1, 4, 3]: 0.1986421,
    }
    assert [w.item() for w in weights] == pytest.approx(list(weights.values()), abs=1e-6)
    assert derive_seed(42, "windows") == 3098668062500571034  # half of SHA-256's first 8 bytes


def test_layers_of_torch_itself_draw_what_the_seed_and_the_name_say():
    draws, before = stream(42), torch.get_rng_state()
    with global_draws_from(draws, "windows"):
        drawn = torch.rand(3)
    assert_close(torch.get_rng_state(), before)
    assert_close(drawn, torch.rand(3, generator=stream(3098668062500571034)))
    assert_close(draws.get_state(), stream(42).get_state())


def test_epoch_takes_the_configured_batches():
    sizes, sample = [], windows(3)
    learner = make_learner(wm_iterations=3, wm_batch_size=5, policy_batch_size=7)
    learner.update(lambda n: sizes.append(n) or sample(n), stream(4), 0.0)
    assert sizes == [5, 5, 5, 7]


@pytest.mark.parametrize("part", ["model", "actor", "critic"])
def test_gradients_of_a_part_are_clipped_by_its_own_setting(part):
    learner = make_learner("baseline", **{f"{part}_clip": 1e-12})  # far below Adam's epsilon
    before = copy.deepcopy(learner)

    learner.update(windows(3), stream(4), 0.0)

    modules = {"model": "world_model", "actor": "policy", "critic": "critics"}
    moved = {
        name: max(
            (p - q).abs().max().item()
            for p, q in zip(
                getattr(learner, module).parameters(),
                getattr(before, module).parameters(),
                strict=True,
            )
        )
        for name, module in modules.items()
    }
    assert [name for name in moved if moved[name] < 1e-6] == [part]
    assert sorted(moved.values())[1] > 1e-4


@pytest.mark.parametrize(
    ("progress", "rates"),
    [
        (0.0, {"model": 3e-4, "actor": 5e-4, "critic": 6e-4}),
        (0.5, {"model": 2e-4, "actor": 3e-4, "critic": 3.5e-4}),
        (1.0, {"model": 1e-4, "actor": 1e-4, "critic": 1e-4}),
    ],
)
def test_learning_rates_fall_linearly_to_the_final_one(progress, rates):
    learner = make_learner(model_lr=3e-4, actor_lr=5e-4, critic_lr=6e-4, final_lr=1e-4)
    learner.update(windows(3), stream(4), progress)
    found = {name: o.param_groups[0]["lr"] for name, o in learner.optimizers.items()}
    assert found == pytest.approx(rates)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("horizon", 0),
        ("wm_iterations", 0),
        ("critic_batches", -1),
        ("discount", 1.1),
        ("discount", float("nan")),
        ("td_lambda", -0.1),
        ("model_lr", 0.0),
        ("actor_clip", -1.0),
        ("reward_weight", float("nan")),
    ],
)
def test_setting_outside_its_range_is_named(setting, value):
    with pytest.raises(ValueError, match=rf"learner\.{setting} is {value}; "):
        LearnerConfig(**{setting: value}).check()


# Checkpoints.


@every_variant
def test_resumed_learner_goes_on_exactly(variant, tmp_path):
    saved, loaded = make_learner(variant), make_learner(variant, seed=1)
    streams = {"windows": stream(3), "noise": stream(4)}
    run_epochs(saved, 2, windows_of(streams["windows"]), streams["noise"])
    checkpoint.save(tmp_path / "c.pt", {}, saved, streams, {"epochs_reached": 2, "seconds": 0.5})

    fresh = {"windows": stream(8), "noise": stream(9)}
    progress = checkpoint.load(tmp_path / "c.pt", loaded, fresh, CPU)

    assert progress == {"epochs_reached": 2, "seconds": 0.5}
    expected = saved.update(windows_of(streams["windows"]), streams["noise"], 0.5)
    found = loaded.update(windows_of(fresh["windows"]), fresh["noise"], 0.5)
    assert_close(found, expected, rtol=0, atol=0)
    assert_unchanged(loaded, saved.state_dict())


def test_checkpoint_of_another_kind_of_device_goes_on_with_other_numbers(tmp_path, caplog):
    of_a_gpu = SimpleNamespace(get_state=lambda: torch.arange(16, dtype=torch.uint8))
    checkpoint.save(tmp_path / "c.pt", {}, make_learner(), {"noise": of_a_gpu}, {})
    drawn = []
    for _ in range(2):
        streams = {"noise": stream()}
        checkpoint.load(tmp_path / "c.pt", make_learner(), streams, CPU)
        drawn.append(torch.randn(4, generator=streams["noise"]))
    assert torch.equal(*drawn)
    assert not torch.equal(drawn[0], torch.randn(4, generator=stream()))
    assert "stream=noise was saved on another kind of device" in caplog.text


def save_checkpoint(path):
    checkpoint.save(path, {}, make_learner(), {"noise": stream()}, {"epochs_reached": 0})
    return path.read_bytes()


def load_checkpoint(path, learner=None):
    return checkpoint.load(path, learner or make_learner(), {"noise": stream()}, CPU)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_checkpoint_cut_short_is_named(share, tmp_path):
    path = tmp_path / "checkpoint.pt"
    whole = save_checkpoint(path)
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"checkpoint\.pt is not a readable checkpoint"):
        load_checkpoint(path)


@pytest.mark.parametrize("content", [[1, 2], {"model": {}}, "text"])
def test_file_that_is_no_checkpoint_is_named(content, tmp_path):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other\.pt is not a readable checkpoint"):
        load_checkpoint(tmp_path / "other.pt")


def test_checkpoint_of_another_format_is_named(tmp_path):
    (tmp_path / "old.pt").write_bytes(b"pwmray-checkpoint-0 abc\nstate")
    with pytest.raises(ValueError, match=r"old\.pt is not .*'pwmray-checkpoint-0'"):
        load_checkpoint(tmp_path / "old.pt")


def test_checkpoint_of_another_architecture_is_named(tmp_path):
    save_checkpoint(tmp_path / "flow.pt")
    with pytest.raises(ValueError, match=r"flow\.pt"):
        load_checkpoint(tmp_path / "flow.pt", make_learner("baseline"))


def test_checkpoint_with_a_flipped_byte_is_not_loaded(tmp_path):
    path = tmp_path / "checkpoint.pt"
    damaged = bytearray(save_checkpoint(path))
    damaged[len(damaged) // 2] ^= 0xFF
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"checkpoint\.pt"):
        load_checkpoint(path)


def test_checkpoint_replaces_the_last_one_whole(tmp_path):
    save_checkpoint(tmp_path / "checkpoint.pt")
    save_checkpoint(tmp_path / "checkpoint.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


# Evaluation.


def stand_still(obs):
    return torch.zeros(len(obs), 6)


def test_evaluation_sums_the_rewards_of_each_episode_until_it_ends():
    episodes = evaluate(policy_actor(stand_still), ThreeEpisodes(), [5, 6, 7], 2, CPU)
    assert episodes.returns.tolist() == [500.0, 6.0, 1500.0]
    assert episodes.lengths.tolist() == [500, 3, 500]


def test_evaluation_discounts_symlog_rewards_from_the_first():
    heard = []
    settings = {"discount": 0.5, "on_step": heard.append}
    episodes = evaluate(policy_actor(stand_still), ThreeEpisodes(), [5, 6, 7], 2, CPU, **settings)
    # 1 + 1/2 + 1/4 + ... = 2, of the one that ends on its third step 7/4.
    expected = [2 * np.log(2), 1.75 * np.log(3), 2 * np.log(4)]
    assert episodes.discounted == pytest.approx(expected)
    assert episodes.first_obs.shape == (3, MAX_OBS_DIM)
    assert episodes.first_obs[0, :3].tolist() == [7.0, 7.0, 0.0]
    assert heard == list(range(1, EPISODE_STEPS + 1))


def test_evaluation_pads_observations_and_cuts_actions():
    environments, seen = ThreeEpisodes(), []

    def act(obs):
        seen.append(obs.clone())
        return torch.arange(6.0).expand(len(obs), 6)

    evaluate(policy_actor(act), environments, [5, 6, 7], 2, CPU)

    assert environments.seed == [5, 6, 7]
    assert seen[0][0].tolist() == [7.0, 7.0] + [0.0] * (MAX_OBS_DIM - 2)
    assert seen[1][0, :3].tolist() == [1.0, 1.0, 0.0]
    assert environments.actions[0].tolist() == [[0.0, 1.0]] * 3


# Learning.


@pytest.mark.parametrize("variant", ["baseline", "fullflow"])
def test_learner_beats_its_random_policy(variant):
    trial = {"variant": variant, "seed": 2, "epochs": 1}
    learner = build_learner(TrialConfig.from_flat({**SETTINGS, **POINT_SETTINGS, **trial}))
    draws = stream(5)
    random_return = play_point(lambda _: 2 * torch.rand(NUM_POINTS, 1, generator=draws) - 1)

    run_epochs(learner, 100, point_windows(stream(1)), stream(2))

    assert random_return < 13
    assert play_point(learner.act) > 19  # of at most 24.4


def test_learner_sees_an_arm_that_wound_up_as_one_that_did_not():
    trial = {"variant": "baseline", "task": "reacher-easy", "seed": 0, "epochs": 1}
    raw = build_learner(TrialConfig.from_flat({**SETTINGS, **trial}))
    wrapped = {**SETTINGS, **trial, "world_model.wrap_angles": True}
    learner = build_learner(TrialConfig.from_flat(wrapped))
    obs = torch.zeros(1, MAX_OBS_DIM)
    wound = obs.clone()
    wound[0, 0] = 6 * torch.pi

    assert_close(learner.encode(wound), learner.encode(obs), rtol=0, atol=1e-5)
    assert (raw.encode(wound) - raw.encode(obs)).abs().max() > 1e-3
