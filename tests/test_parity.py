"""Under `published` the learner computes what PWM's and its flow fork's own classes computed.

The reference numbers were made with the published code; tests/data/published/README.md says how.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pwmray.algorithm import pwm, world_model_loss
from pwmray.algorithm.learner_config import LearnerConfig
from pwmray.algorithm.pwm import Learner
from pwmray.algorithm.returns import ReturnScale, td_lambda
from pwmray.data.sampler import Batch
from pwmray.fidelity import FIDELITIES, PUBLISHED
from pwmray.models import POLICIES, WORLD_MODELS, CriticConfig, CriticEnsemble, ode
from pwmray.models.checkpoints import fitting_state
from pwmray.models.published import read_published
from pwmray.pickles import load_pickled
from pwmray.tasks import find_task
from tests.model_inputs import stream, update_policy

DATA = Path(__file__).parent / "data" / "published"
CASES = {"mlp": DATA / "pwm_mlp", "flow": DATA / "fork_flowwm_heun2"}
CONFIG = LearnerConfig(horizon=8, wm_horizon=8)
TOLERANCE = 1e-5  # relative to the largest entry, float32
every_case = pytest.mark.parametrize("kind", CASES)


class ManyTasks(Learner):
    """The published batches mix tasks; a learner of ours has one."""

    def _embedding(self, batch_size):
        return self.world_model.embed(BATCH["task"])


BATCH = {name: torch.from_numpy(array) for name, array in np.load(DATA / "batch.npz").items()}


def expected(kind, name):
    return torch.from_numpy(np.asarray(np.load(CASES[kind] / "expected.npz")[name]))


def assert_equals(found, kind, name):
    wanted = expected(kind, name)
    found = found.detach().reshape(wanted.shape)
    error = (found - wanted).abs().max() / wanted.abs().max()
    assert error < TOLERANCE, f"{name}: relative error {error:.1e}"


def imagine(learner):
    obs_BO = BATCH["obs"][0]
    return learner.imagine(obs_BO, learner.draw_noise(obs_BO, stream())).rollout


def published_learner(kind):
    """Build the learner that the published checkpoint holds."""
    path = CASES[kind] / "checkpoint.pt"
    found, content = read_published(path), load_pickled(path, trust=False)
    settings = {**vars(found.config)} | ({"num_substeps": 2} if kind == "flow" else {})
    fidelity = FIDELITIES[PUBLISHED]
    model = WORLD_MODELS[kind](WORLD_MODELS[kind].Config(**settings), stream(), 3, fidelity)
    model.load_state_dict(fitting_state(found))
    gaussian = POLICIES["gaussian"]
    policy = gaussian(gaussian.Config(units=(64, 48, 32)), 64, stream(), fidelity)
    policy.load_state_dict(
        {"log_std": content["actor"]["logstd"]}
        | {
            name.replace("mu_net", "mean"): t
            for name, t in content["actor"].items()
            if "mu" in name
        }
    )
    critics = CriticEnsemble(CriticConfig(units=(64, 48)), 64, stream())
    load_critics(critics, content["critic"])
    learner = ManyTasks(CONFIG, model, policy, critics, find_task("walker-run"))
    # Published are the statistics of the cost, ours are those of the return.
    learner.return_scale.mean.copy_(-expected(kind, "ret_rms_mean_before").squeeze())
    learner.return_scale.var.copy_(expected(kind, "ret_rms_var_before").squeeze())
    learner.return_scale.count.copy_(expected(kind, "ret_rms_count_before"))
    return learner


def load_critics(critics, params):
    """Published order: W, b, norm weight, norm bias of each layer, W as [critic, out, in]."""
    with torch.no_grad():
        for layer in range(3):
            critics.weights[layer].copy_(params[f"params.{4 * layer}"].transpose(1, 2))
            critics.biases[layer].copy_(params[f"params.{4 * layer + 1}"].unsqueeze(1))
        for layer in range(2):
            critics.norm_weights[layer].copy_(params[f"params.{4 * layer + 2}"].unsqueeze(1))
            critics.norm_biases[layer].copy_(params[f"params.{4 * layer + 3}"].unsqueeze(1))


def windows():
    return Batch(BATCH["obs"], BATCH["act"], BATCH["rew"])


def fix_draws(monkeypatch, noise=2, times=2):
    """Give the learner the noise and the flow times that the reference used."""
    monkeypatch.setattr(pwm, "_normal", lambda *_: BATCH["eps"][noise])
    monkeypatch.setattr(world_model_loss, "_uniform", lambda *_: BATCH["tau"][times])


# Forward passes.


@every_case
def test_forward_passes_are_the_published_ones(kind):
    learner = published_learner(kind)
    model, e = learner.world_model, learner.world_model.embed(BATCH["task"])
    z, e_8 = model.encode(BATCH["obs"], e.expand(9, 16, 16)), e.expand(8, 16, 16)
    assert_equals(z, kind, "encode")
    assert_equals(model.reward_logits(z[:8], e_8, BATCH["act"]), kind, "reward_logits")
    assert_equals(model.reward(z[:8], e_8, BATCH["act"]), kind, "almost_two_hot_inv")
    no_noise = torch.zeros(16, 6)
    assert_equals(learner.policy.pre_squash(z[0], no_noise, learner.mask_A), kind, "actor_mu")
    assert_equals(learner.policy.act(z[0], learner.mask_A), kind, "actor_tanh_mu")
    noise = learner.policy.log_std.exp() * BATCH["eps"][3, 0]
    assert_equals(
        learner.policy.pre_squash(z[0], noise, learner.mask_A), kind, "actor_sample_eps3_0"
    )
    assert_equals(learner.critics(z[0]), kind, "critic_values")


def test_mlp_model_steps_as_published():
    learner = published_learner("mlp")
    e = learner.world_model.embed(BATCH["task"])
    z = learner.world_model.encode(BATCH["obs"][0], e)
    assert_equals(learner.world_model.next(z, e, BATCH["act"][0]), "mlp", "next")


@pytest.mark.parametrize("integrator", ["euler", "heun"])
@pytest.mark.parametrize("num_substeps", [1, 2, 4, 8])
def test_flow_model_integrates_as_published(integrator, num_substeps):
    model = published_learner("flow").world_model
    e = model.embed(BATCH["task"])
    z = model.encode(BATCH["obs"][0], e)

    def velocity(x, tau):
        return model.velocity(x, e, BATCH["act"][0], torch.full((16, 1), tau))

    end = ode.integrate(velocity, z, integrator, num_substeps)
    assert_equals(end, "flow", f"next_{integrator}_{num_substeps}")


@pytest.mark.parametrize("tau", [0.0, 0.25, 0.5, 1.0])
def test_flow_velocity_is_the_published_one(tau):
    model = published_learner("flow").world_model
    e = model.embed(BATCH["task"])
    z = model.encode(BATCH["obs"][0], e)
    v = model.velocity(z, e, BATCH["act"][0], torch.full((16, 1), tau))
    assert_equals(v, "flow", f"velocity_tau{tau}")


# The world model's loss.


@every_case
def test_world_model_loss_is_the_published_one(kind, monkeypatch):
    fix_draws(monkeypatch)
    learner = published_learner(kind)
    dynamics = {"mlp": "consistency_loss", "flow": "matching_loss"}[kind]

    loss, parts = learner.world_model_loss(windows(), stream())

    assert_equals(loss, kind, "wm_total_loss")
    assert_equals(parts[dynamics], kind, "wm_dynamics_loss")
    assert_equals(parts["reward_loss"] / 8, kind, "wm_reward_loss")
    assert len(parts) == 3  # with the total: nothing else is in it


@every_case
def test_world_model_gradients_are_the_published_ones(kind, monkeypatch):
    fix_draws(monkeypatch)
    learner = published_learner(kind)
    loss, _ = learner.world_model_loss(windows(), stream())
    loss.backward()
    names = {"encoder": "_encoder", "reward_head": "_reward", "dynamics": "_dynamics"}
    names |= {"published_velocity": "_velocity", "task_embedding": "_task_emb"}
    for name, parameter in learner.world_model.named_parameters():
        part, _, rest = name.partition(".")
        assert_equals(parameter.grad.norm(), kind, f"wm_gradnorm.{names[part]}.{rest}")
    norms = [parameter.grad.norm() for parameter in learner.world_model.parameters()]
    assert_equals(torch.stack(norms).norm(), kind, "wm_grad_norm_total")


# The policy's and the critics' updates.


@every_case
def test_policy_update_is_the_published_one(kind, monkeypatch):
    fix_draws(monkeypatch)
    learner = published_learner(kind)
    clipped = {}

    def keep(parameters, clip):
        """Look at the gradients where they would be clipped."""
        clipped.update({name: p.grad.clone() for name, p in learner.policy.named_parameters()})
        return torch.tensor(0.0)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", keep)
    metrics, rollout = update_policy(learner, BATCH["obs"][0], stream())

    assert_equals(metrics["actor_loss"], kind, "actor_loss")
    # Without return statistics the published loss is divided by the horizon.
    assert_equals(-metrics["imagined_return"] / 8, kind, "actor_loss_no_ret_rms")
    assert_equals(-learner.return_scale.mean, kind, "ret_rms_mean_after")
    assert_equals(learner.return_scale.var, kind, "ret_rms_var_after")
    assert_equals(rollout.z, kind, "obs_buf")
    assert_equals(rollout.r, kind, "rew_buf")
    assert_equals(rollout.next_v, kind, "next_values")
    for name, gradient in clipped.items():
        published = name.replace("mean.", "mu_net.").replace("log_std", "logstd")
        assert_equals(gradient, kind, f"actor_grad.{published}")
    assert len(clipped) == 15


@every_case
def test_critic_targets_and_loss_are_the_published_ones(kind, monkeypatch):
    fix_draws(monkeypatch)
    learner = published_learner(kind)
    rollout = imagine(learner)
    gamma = CONFIG.discount

    targets = td_lambda(rollout.r, rollout.next_v, gamma, 0.0)

    assert_equals(targets, kind, "targets_offline")
    first = slice(0, 32)  # a quarter of the rows, in order of time
    values = learner.critics(rollout.z.flatten(0, 1)[first])
    loss = (values - targets.flatten()[first]).square().mean()
    assert_equals(loss, kind, "critic_loss_batch0")


@every_case
def test_critic_gradients_are_the_published_ones(kind, monkeypatch):
    fix_draws(monkeypatch)
    learner = published_learner(kind)
    rollout = imagine(learner)
    targets = td_lambda(rollout.r, rollout.next_v, CONFIG.discount, 0.0).flatten()
    first = slice(0, 32)
    values = learner.critics(rollout.z.flatten(0, 1)[first])
    (values - targets[first]).square().mean().backward()
    for name, gradients in published_critic_gradients(learner.critics).items():
        assert_equals(gradients.norm(), kind, f"critic_gradnorm.{name}")


def published_critic_gradients(critics):
    """Return the gradients by published name; see load_critics for their order."""
    parts = {0: critics.weights, 1: critics.biases, 2: critics.norm_weights, 3: critics.norm_biases}
    return {
        f"params.{4 * layer + place}": parameter.grad
        for place, parameters in parts.items()
        for layer, parameter in enumerate(parameters)
    }


@every_case
def test_published_clip_norm_grows_to_that_of_the_gradient_nobody_clears(kind):
    # Measured on the published code: from .005 to 20 in 50 updates.
    learner, draws = published_learner(kind), stream()
    for _ in range(50):
        metrics = learner.update_world_model(windows(), draws)
        update_policy(learner, BATCH["obs"][0], draws)
    assert metrics["world_model_gradient_norm"].item() == pytest.approx(20, rel=0.05)


@every_case
def test_td_lambda_is_the_published_recursion_where_episodes_do_not_end(kind):
    r, v = expected(kind, "tdl_rew"), expected(kind, "tdl_next_values")
    r, v = r.unsqueeze(-1), v.unsqueeze(-1)
    found = td_lambda(r, v, CONFIG.discount, CONFIG.td_lambda)
    assert_equals(found, kind, "tdl_target_last")
    assert_equals(td_lambda(r, v, CONFIG.discount, 0.0), kind, "onestep_target")


def test_return_statistics_are_the_published_ones():
    data = np.load(DATA / "ret_rms.npz")
    scale, found = ReturnScale(), []
    for row in torch.from_numpy(data["inputs"]).float():
        scale.update(row)
        found.append([scale.mean.item(), scale.var.item(), scale.count.item()])
    np.testing.assert_allclose(found, data["mean_var_count"], rtol=TOLERANCE)


def test_learning_rates_are_the_published_ones():
    schedule = json.loads((DATA / "lr_schedule.json").read_text())
    learner = published_learner("mlp")
    for epoch, *wanted in schedule["rows"]:
        learner.set_schedules(epoch / schedule["max_epochs"])
        rates = [learner.optimizers[n].param_groups[0]["lr"] for n in ("actor", "critic", "model")]
        np.testing.assert_allclose(rates, wanted, rtol=TOLERANCE)
