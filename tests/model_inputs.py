"""What the tests of models share: small models of every kind, inputs, and what is measured."""

import dataclasses
import io
from collections import Counter

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pwmray.algorithm.world_model_loss import world_model_loss
from pwmray.build import build_learner, count_parameters
from pwmray.config import TrialConfig
from pwmray.data.sampler import Batch
from pwmray.fidelity import Fidelity
from pwmray.models import POLICIES, WORLD_MODELS
from pwmray.models.checkpoints import fitting_state
from pwmray.models.layers import groups
from pwmray.models.ode import INTEGRATORS
from pwmray.models.sizes import SIZES
from pwmray.tasks import MAX_ACTION_DIM, MAX_OBS_DIM
from tests.tiny import SETTINGS

SMALL = {"latent_dim": 16, "encoder_units": (24,), "units": (24, 20), "task_dim": 4}
LATENT_DIM = SMALL["latent_dim"]
ALL_DIMS = torch.ones(MAX_ACTION_DIM)
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else []), "meta"]
TRIAL = {"task": "reacher-easy", "seed": 42, "epochs": 1}


def cases(registry):
    """List every kind of a registry; one with an integrator, once with each of them."""
    return [
        pytest.param(kind, settings, id="-".join([kind, *map(str, settings.values())]))
        for kind, part in registry.items()
        for settings in _settings(part.Config)
    ]


def _settings(config):
    if "integrator" not in {field.name for field in dataclasses.fields(config)}:
        return [{}]
    return [{"integrator": name, "num_substeps": 3} for name in INTEGRATORS]


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def fresh_world_model(kind, settings, seed=0):
    part = WORLD_MODELS[kind]
    return part(part.Config(**SMALL, **settings), stream(seed))


def fresh_policy(kind, settings, seed=0):
    part = POLICIES[kind]
    return part(part.Config(units=(24, 20), **settings), LATENT_DIM, stream(seed))


def built(checkpoint):
    """Return the world model of a file, with its weights."""
    config = checkpoint.config
    fidelity = Fidelity(tangent_velocity=checkpoint.has_tangent_velocity)
    model = WORLD_MODELS[config.kind](config, stream(), checkpoint.num_tasks, fidelity)
    model.load_state_dict(fitting_state(checkpoint))
    return model


def initial_spread(module):
    """Return the standard deviation of the linear weights that do not start at zero."""
    layers = [layer for layer in module.modules() if isinstance(layer, torch.nn.Linear)]
    assert not any(layer.bias.any() for layer in layers)
    drawn = [layer.weight.flatten() for layer in layers if layer.weight.any()]
    return torch.cat(drawn).std().item()


def trained(module, seed=9):
    """Move every weight away from its initial value, as training does."""
    draws = stream(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draws), alpha=0.3)
    return module


def load_saved(saved, loaded):
    """Take the state of one module to another through a file's bytes."""
    file = io.BytesIO()
    torch.save(saved.state_dict(), file)
    file.seek(0)
    loaded.load_state_dict(torch.load(file, weights_only=True))


def update_policy(learner, obs, draws):
    """Take the policy's step of an epoch; return its metrics and what it imagined."""
    imagined = learner.imagine(obs, learner.draw_noise(obs, draws))
    return learner.improve_policy(imagined), imagined.rollout


def update_critics(learner, rollout, draws):
    """Take the critics' steps of an epoch; return their metrics."""
    orders = learner.draw_orders(rollout.next_v.numel(), draws, rollout.z)
    return learner.fit_critics(rollout, orders)


def embedded(model, num_rows=5):
    return model.embed(torch.arange(num_rows))


def observations(*shape):
    return torch.randn(*shape, MAX_OBS_DIM, generator=stream(1))


def actions(*shape):
    return torch.randn(*shape, MAX_ACTION_DIM, generator=stream(2)).tanh()


def noise(*shape):
    return torch.randn(*shape, MAX_ACTION_DIM, generator=stream(3))


def latents(*shape):
    raw = torch.randn(*shape, LATENT_DIM, generator=stream(4))
    return groups(raw).softmax(-1).flatten(-2)


def parameters_without_gradient(module):
    return {name for name, p in module.named_parameters() if p.grad is None}


def has_finite_gradients(module):
    return all(p.grad.isfinite().all() for p in module.parameters() if p.grad is not None)


def count_calls(module, run):
    """Return how often `run` calls the submodule that it calls most."""
    calls = Counter()
    hooks = [
        part.register_forward_hook(lambda part, *_: calls.update([id(part)]))
        for part in module.modules()
    ]
    run()
    for hook in hooks:
        hook.remove()
    return max(calls.values())


def count_at_every_size(part, kind):
    """Return the parameters of a kind of "world_model" or "policy" by size."""
    flats = {size: {**TRIAL, "size": size, f"{part}.kind": kind} for size in SIZES}
    return {
        size: count_parameters(TrialConfig.from_flat(flat))[part] for size, flat in flats.items()
    }


def trial_with(part, kind, settings):
    """Return a tiny trial with a kind of "world_model" or "policy" and settings of it."""
    keys = {f"{part}.{name}": value for name, value in settings.items()}
    return tiny_trial(**{f"{part}.kind": kind, **keys})


def tiny_trial(**settings):
    return TrialConfig.from_flat({**SETTINGS, **TRIAL, **settings})


def measure_update_flops(config):
    """Return the operations that torch counts while a learner makes one update."""
    learner, draws = build_learner(config), stream()
    with FlopCounterMode(display=False) as counter:
        learner.update(lambda size: windows(learner.window_horizon, size, draws), draws, 0.0)
    return counter.get_total_flops()


def measure_pretraining_flops(config, batch_size):
    """Return the operations that torch counts in a step on windows of different tasks."""
    model, draws = build_learner(config).world_model, stream()
    batch = windows(config.learner.wm_horizon, batch_size, draws)
    with FlopCounterMode(display=False) as counter:
        e_BT = model.embed(torch.arange(batch_size))
        world_model_loss(model, config.learner, batch, e_BT, draws)[0].backward()
    return counter.get_total_flops()


def windows(horizon, batch_size, draws):
    """Windows of data without any meaning."""
    obs = torch.rand(horizon + 1, batch_size, MAX_OBS_DIM, generator=draws)
    a = torch.rand(horizon, batch_size, MAX_ACTION_DIM, generator=draws)
    return Batch(obs, a, torch.rand(horizon, batch_size, 1, generator=draws))
