"""What every kind of world model and policy promises, checked before anything runs.

A kind that returns a wrong shape may train all the same, on what torch broadcasts it to, or fail
only where it is used last: in the planner, after hours. One that draws random numbers of its own
gives different results each time.

Shapes: two leading dimensions, as the losses and the planner have them; L latent, A action.
"""

import functools
import pickle
import random
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pwmray.build import build_parts, build_shapes
from pwmray.config import TrialConfig
from pwmray.models import POLICIES, WORLD_MODELS, Policy, PolicyConfig, WorldModel, WorldModelConfig
from pwmray.models.layers import groups
from pwmray.models.policy_flow import FlowPolicy
from pwmray.models.policy_gaussian import GaussianPolicy
from pwmray.models.world_model_flow import FlowWorldModel
from pwmray.models.world_model_mlp import MLPWorldModel
from pwmray.seeding import generator
from pwmray.tasks import MAX_ACTION_DIM, MAX_OBS_DIM
from pwmray.wording import one_line

_LEADING, _FEWER = (2, 3), (1, 2)
_TOLERANCE = 1e-3  # between a row computed beside others and beside fewer, in any order of sums
_TESTED = {MLPWorldModel, FlowWorldModel, GaussianPolicy, FlowPolicy}
_TORCH = str(Path(torch.__file__).parent)
# The global streams of random numbers, and where each stands.
_STREAMS: dict[str, Callable[[], Any]] = {
    "torch": lambda: torch.get_rng_state().tolist(),
    "numpy": lambda: pickle.dumps(np.random.get_state()),
    "random": random.getstate,
}

Promises = dict[str, tuple[Callable[[], Any], tuple[int, ...]]]  # what is called, what it returns


def check_promises(configs: Iterable[TrialConfig]) -> None:
    """Raise ValueError for the first kind that breaks a promise, naming the method and the place.

    Each is called at its full widths, with the weights that a trial begins with: seconds at size
    317. The kinds that come with pwmray are left out: tests hold them to more than this.
    """
    checked = set()
    for config in configs:
        kinds = {WORLD_MODELS[config.world_model.kind], POLICIES[config.policy.kind]}
        parts = (config.world_model, config.policy, config.fidelity)
        if parts not in checked and not kinds <= _TESTED:
            checked.add(parts)
            _check(config)


def _check(config: TrialConfig) -> None:
    try:
        build_shapes(config)  # of which a plan counts parameters
        model, policy, _ = build_parts(config)
    except ValueError:
        raise
    except Exception as error:
        kinds = f"world model {config.world_model.kind!r} with policy {config.policy.kind!r}"
        raise ValueError(f"{kinds} cannot be built{_where(error)}: {_say(error)}") from error
    with torch.no_grad():
        if type(model) not in _TESTED:
            parts = [_of_world_model(model, *leading) for leading in (_LEADING, _FEWER)]
            _keep(_whose(config.world_model, model), *parts)
            _keep_gradients_of_world_model(_whose(config.world_model, model), model)
        if type(policy) not in _TESTED:
            whose = _whose(config.policy, policy)
            parts = [_of_policy(policy, model.latent_dim, *lead) for lead in (_LEADING, _FEWER)]
            _keep(whose, *parts)
            _keep_gradients_of_policy(whose, policy, model.latent_dim)


def _of_world_model(model: WorldModel, num_h: int, num_b: int) -> Promises:
    """Return what a world model promises of the first entries of the leading dimensions."""
    config = model.config
    given = (_latents(config.latent_dim), _numbers(config.task_dim), _numbers(MAX_ACTION_DIM))
    expected = (_numbers(1), _numbers(config.num_bins), _numbers(MAX_OBS_DIM))
    z, e, a, r, logits, obs = (x[:num_h, :num_b] for x in (*given, *expected))
    latent, one = tuple(z.shape), tuple(r.shape)
    promises: Promises = {
        "encode": (lambda: model.encode(obs, e), latent),
        "next": (lambda: model.next(z, e, a), latent),
        "next_and_given": (lambda: model.next_and_given(z, z, e, a)[1], latent),
        "reward_logits": (lambda: model.reward_logits(z, e, a), tuple(logits.shape)),
        "reward": (lambda: model.reward(z, e, a), one),
        "reward_loss": (lambda: model.reward_loss(logits, r), one[:-1]),
    }
    if type(model).matching_loss is not WorldModel.matching_loss:
        promises["matching_loss"] = (lambda: model.matching_loss(z, e, a, z, r), one[:-1])
    return promises


def _of_policy(policy: Policy, latent_dim: int, num_h: int, num_b: int) -> Promises:
    z, noise = (x[:num_h, :num_b] for x in (_latents(latent_dim), _numbers(MAX_ACTION_DIM)))
    mask, action = torch.ones(MAX_ACTION_DIM), tuple(noise.shape)
    return {
        "pre_squash": (lambda: policy.pre_squash(z, noise, mask), action),
        "sample": (lambda: policy.sample(z, noise, mask)[0], action),
        "act": (lambda: policy.act(z, mask), action),
    }


def _keep(whose: str, promises: Promises, of_fewer: Promises) -> None:
    """Call everything that a part promises; raise ValueError for the first promise broken.

    `of_fewer` is the same of fewer rows, which are to come out as they do beside others.
    """
    for name, (call, shape) in promises.items():
        before = _streams()
        found = _call(whose, name, call)
        after = _streams()
        drawn = [stream for stream in before if before[stream] != after[stream]]
        if drawn:
            raise ValueError(
                f"{whose}: {name} draws random numbers of its own (from the global stream of "
                f"{drawn[0]}), which follow from no seed; it must use those that it is given"
            )
        if name == "matching_loss" and found is None:  # it has none with these settings
            continue
        if not isinstance(found, Tensor) or tuple(found.shape) != shape:
            raise ValueError(
                f"{whose}: {name} returns {_describe(found)} for inputs with leading dimensions "
                f"{list(_LEADING)}; it must return {list(shape)}"
            )
        if found.dtype != torch.float32:
            raise ValueError(f"{whose}: {name} returns {found.dtype} for inputs of torch.float32")
        alone = _call(whose, name, of_fewer[name][0])
        same = found[: _FEWER[0], : _FEWER[1]]
        if not torch.allclose(same, alone, _TOLERANCE, _TOLERANCE, equal_nan=True):
            raise ValueError(
                f"{whose}: {name} returns something else for the same inputs beside others, or "
                "called again (batch normalization? a state or random numbers of its own?); it "
                "must compute each row by itself"
            )


def _keep_gradients_of_world_model(whose: str, model: WorldModel) -> None:
    """Raise ValueError for a model that cuts off the gradient that the policy learns from.

    A reward may depend on latents alone, or on actions alone.
    """
    z = _latents(model.config.latent_dim).requires_grad_()
    a, e = _numbers(MAX_ACTION_DIM).requires_grad_(), _numbers(model.config.task_dim)
    sources = {"latent": [z], "action": [a]}
    _keep_gradients(whose, "next", lambda: model.next(z, e, a), sources)
    sources = {"latent or action": [z, a]}
    _keep_gradients(whose, "reward", lambda: model.reward(z, e, a), sources)


def _keep_gradients_of_policy(whose: str, policy: Policy, latent_dim: int) -> None:
    """Raise ValueError for actions that none of a policy's parameters learns from."""
    z, noise = _latents(latent_dim), _numbers(MAX_ACTION_DIM)
    mask = torch.ones(MAX_ACTION_DIM)
    sources = {"parameters": [p for p in policy.parameters() if p.requires_grad]}
    _keep_gradients(whose, "pre_squash", lambda: policy.pre_squash(z, noise, mask), sources)


def _keep_gradients(
    whose: str, name: str, call: Callable[[], Tensor], sources: Mapping[str, Sequence[Tensor]]
) -> None:
    """Raise ValueError unless of each of the sources some tensor gets a gradient."""

    def gradients(tensors: Sequence[Tensor]) -> Sequence[Tensor | None]:
        with torch.enable_grad():
            total = call().sum()
        if not total.requires_grad:
            return [None]
        return torch.autograd.grad(total, tensors, allow_unused=True)

    for what, tensors in sources.items():
        found = _call(whose, name, functools.partial(gradients, tensors))
        if all(gradient is None for gradient in found):
            raise ValueError(
                f"{whose}: {name} passes no gradient back to its {what}, from which the policy is "
                "to learn"
            )


def _call(whose: str, name: str, call: Callable[[], Any]) -> Any:
    """Return what `call` returns; raise ValueError if it fails."""
    try:
        return call()
    except Exception as error:
        raise ValueError(
            f"{whose}: {name} fails{_where(error)} for inputs with leading dimensions "
            f"{list(_LEADING)}: {_say(error)}"
        ) from error


def _streams() -> dict[str, Any]:
    return {name: state() for name, state in _STREAMS.items()}


def _numbers(dim: int) -> Tensor:
    """Return inputs whose entries differ: a kind may divide by their standard deviation."""
    return torch.rand(*_LEADING, dim, generator=generator(0, "promises"))


def _latents(dim: int) -> Tensor:
    return groups(_numbers(dim)).softmax(-1).flatten(-2)


def _whose(config: WorldModelConfig | PolicyConfig, part: WorldModel | Policy) -> str:
    return f"{type(part).__module__}: {type(part).__name__} ({config.kind!r})"


def _describe(found: Any) -> str:
    return str(list(found.shape)) if isinstance(found, Tensor) else f"a {type(found).__name__}"


def _say(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(error)}"


def _where(error: Exception) -> str:
    """Return the last line outside of torch that the error came through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if not f.filename.startswith((_TORCH, __file__))]
    return f" at {Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else ""
