"""What every kind of world model and policy promises, checked by shapes before anything runs.

A kind that returns another shape than it is to may train all the same, on what torch broadcasts it
to, or fail where it is used last: in the planner, after hours. One that draws random numbers of its
own gives other results each time.

Shapes: two leading dimensions, as the losses and the planner have them; L latent, A action.
"""

import re
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pwmray.build import build_shapes
from pwmray.commands import one_line
from pwmray.config import TrialConfig
from pwmray.models import (
    POLICIES,
    WORLD_MODELS,
    Policy,
    PolicyConfig,
    WorldModel,
    WorldModelConfig,
)
from pwmray.models.layers import SIMPLEX_SIZE
from pwmray.models.policy_flow import FlowPolicy
from pwmray.models.policy_gaussian import GaussianPolicy
from pwmray.models.world_model_flow import FlowWorldModel
from pwmray.models.world_model_mlp import MLPWorldModel
from pwmray.tasks import MAX_ACTION_DIM, MAX_OBS_DIM

_LEADING = (2, 3)
_TESTED = {MLPWorldModel, FlowWorldModel, GaussianPolicy, FlowPolicy}
_UNKNOWN = object()
_TORCH = str(Path(torch.__file__).parent)

Promises = dict[str, tuple[Callable[[], Any], tuple[int, ...]]]  # what is called, what it returns


def check_kinds(configs: Iterable[TrialConfig]) -> None:
    """Raise ValueError for the first kind that breaks a promise, naming what of it and where.

    A model of all its widths is called, whose weights are 0. The kinds that are here already are
    left out: tests hold them to more than this.
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
        model, policy, _ = build_shapes(config)
    except ValueError:
        raise
    except Exception as error:
        kinds = f"world model {config.world_model.kind!r} with policy {config.policy.kind!r}"
        raise ValueError(f"{kinds} cannot be built{_where(error)}: {_say(error)}") from error
    with torch.no_grad():
        if type(model) not in _TESTED:
            _set_to_zero(model)
            _keep(config.world_model, model, _of_world_model(model))
            _keep_gradients(config.world_model, model)
        if type(policy) not in _TESTED:
            _set_to_zero(policy)
            _keep(config.policy, policy, _of_policy(policy, model.latent_dim))


def _set_to_zero(part: torch.nn.Module) -> None:
    """Give a part of shapes alone numbers: torch's formulas for shapes take seconds."""
    part.to_empty(device="cpu")
    for tensor in (*part.parameters(), *part.buffers()):
        tensor.zero_()


def _of_world_model(model: WorldModel) -> Promises:
    config = model.config
    z, e = _latents(config.latent_dim), torch.zeros(*_LEADING, config.task_dim)
    a, r = torch.zeros(*_LEADING, MAX_ACTION_DIM), torch.zeros(*_LEADING, 1)
    logits = torch.zeros(*_LEADING, config.num_bins)
    obs = torch.zeros(*_LEADING, MAX_OBS_DIM)
    latent, one = tuple(z.shape), (*_LEADING, 1)
    promises: Promises = {
        "encode": (lambda: model.encode(obs, e), latent),
        "next": (lambda: model.next(z, e, a), latent),
        "next_and_given": (lambda: model.next_and_given(z, z, e, a)[1], latent),
        "reward_logits": (lambda: model.reward_logits(z, e, a), tuple(logits.shape)),
        "reward": (lambda: model.reward(z, e, a), one),
        "reward_loss": (lambda: model.reward_loss(logits, r), _LEADING),
    }
    if type(model).matching_loss is not WorldModel.matching_loss:
        promises["matching_loss"] = (lambda: model.matching_loss(z, e, a, z, r), _LEADING)
    return promises


def _of_policy(policy: Policy, latent_dim: int) -> Promises:
    z, noise = _latents(latent_dim), torch.zeros(*_LEADING, MAX_ACTION_DIM)
    mask, action = torch.ones(MAX_ACTION_DIM), tuple(noise.shape)
    return {
        "pre_squash": (lambda: policy.pre_squash(z, noise, mask), action),
        "sample": (lambda: policy.sample(z, noise, mask)[0], action),
        "act": (lambda: policy.act(z, mask), action),
    }


def _keep(
    config: WorldModelConfig | PolicyConfig, part: WorldModel | Policy, promises: Promises
) -> None:
    """Call all that a part promises; raise ValueError for what it does not keep."""
    whose = _whose(config, part)
    for name, (call, shape) in promises.items():
        with _Drawing() as drawing:
            found = _call(whose, name, call)
        if found is _UNKNOWN:
            continue
        if drawing.operation:
            raise ValueError(
                f"{whose}: {name} draws random numbers of its own ({drawing.operation}), which "
                "follow from no seed; it is to use those that it is given"
            )
        if not isinstance(found, Tensor) or tuple(found.shape) != shape:
            raise ValueError(
                f"{whose}: {name} returns {_describe(found)} for inputs with leading dimensions "
                f"{list(_LEADING)}; it must return {list(shape)}"
            )
        if found.dtype != torch.float32:
            raise ValueError(f"{whose}: {name} returns {found.dtype} for inputs of torch.float32")


def _keep_gradients(config: WorldModelConfig, model: WorldModel) -> None:
    """Raise ValueError for a next latent that cuts what the policy learns from."""
    z = _latents(config.latent_dim).requires_grad_()
    a = torch.zeros(*_LEADING, MAX_ACTION_DIM, requires_grad=True)
    whose, e = _whose(config, model), torch.zeros(*_LEADING, config.task_dim)

    def gradients() -> tuple[Tensor | None, ...]:
        with torch.enable_grad():
            total = model.next(z, e, a).sum()
        if not total.requires_grad:
            return (None, None)
        return torch.autograd.grad(total, (z, a), allow_unused=True)

    found = _call(whose, "next", gradients)
    if found is _UNKNOWN:
        return
    for what, gradient in zip(("latent", "action"), found, strict=True):
        if gradient is None:
            raise ValueError(
                f"{whose}: next passes no gradient back to its {what}, from which "
                "the policy is to learn"
            )


def _call(whose: str, name: str, call: Callable[[], Any]) -> Any:
    """Return what it returns; raise ValueError if it fails.

    _UNKNOWN where it has tensors that are neither parameters nor buffers: these were left shapes.
    """
    try:
        return call()
    except Exception as error:
        if re.search(r"\bmeta\b", str(error).lower()):  # the device of shapes
            return _UNKNOWN
        raise ValueError(
            f"{whose}: {name} fails{_where(error)} for inputs with leading dimensions "
            f"{list(_LEADING)}: {_say(error)}"
        ) from error


class _Drawing(TorchDispatchMode):
    """Notice the first operation that draws from torch's global stream."""

    operation = ""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded in func.tags and kwargs.get("generator") is None:
            self.operation = self.operation or func.name().removeprefix("aten::")
        return func(*args, **kwargs)


def _latents(dim: int) -> Tensor:
    return torch.full((*_LEADING, dim), 1 / SIMPLEX_SIZE)


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
