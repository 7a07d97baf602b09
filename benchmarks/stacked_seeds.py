"""Measure whether several seeds train faster as one computation than one after the other.

    python benchmarks/stacked_seeds.py --size laptop,1 --batch 128 --seeds 3

The seeds are of one variant on one frozen world model. Their policies and critics are stacked along
a first dimension of seeds, so that one set of operations is an epoch of all of them. Each seed has
generators of its own and learns what it would learn alone, up to rounding: the last column says how
far the weights drift apart in an epoch, relative to the step. Both ways are timed in turns, eagerly
on a CPU and as CUDA graphs on a GPU: the best of `--repeat`. Needs only torch, numpy and pyarrow.
"""

import argparse
import copy
import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import machine
import torch
import workload
from torch import Tensor, nn
from torch.func import functional_call, vmap

from pwmray.algorithm import replay
from pwmray.algorithm.clipped_step import Adam
from pwmray.algorithm.pwm import Learner, Metrics
from pwmray.algorithm.returns import td_lambda
from pwmray.build import build_learner
from pwmray.checks import check_least
from pwmray.commands import CommandParser, names, run_command
from pwmray.data.sampler import WindowSampler
from pwmray.devices import choose_device, set_up_torch
from pwmray.models.sizes import SIZES
from pwmray.precision import FLOAT32, MATMULS, autocast, check_on_cpu
from pwmray.seeding import generator
from pwmray.variants import VARIANTS
from pwmray.wording import unknown

_NUM_EPISODES = 50
_EPSILON = 1e-6  # of clip_grad_norm_

Parameters = dict[str, Tensor]  # by name; [S, ...] for S seeds


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table with a row a case; return the exit status."""
    return run_command(lambda: _report(_parser().parse_args(arguments)))


class Stack(nn.Module):
    """Learners of one variant, task and frozen world model, trained as one.

    Shapes: S seeds. The learners' weights become views of the stacked ones, so that each learner
    can be evaluated and saved as before.
    """

    def __init__(self, learners: Sequence[Learner]):
        super().__init__()
        self.learners = nn.ModuleList(learners)
        self._first = learners[0]
        self._roll_out = _RollOut(self._first)
        self.stacked = {name: _stack(learners, name) for name in ("policy", "critics")}
        self.optimizers = {
            "actor": _optimizer(self._first.optimizers["actor"], self.stacked["policy"]),
            "critic": _optimizer(self._first.optimizers["critic"], self.stacked["critics"]),
        }

    def set_schedules(self, progress: float) -> None:
        """Set what falls over the epochs, as each learner would."""
        for learner in self.learners:
            learner.set_schedules(progress)  # type: ignore[operator]
        for name, optimizer in self.optimizers.items():
            replay.set_rate(optimizer, self._first.optimizers[name].param_groups[0]["lr"])

    def update(
        self, samplers: Sequence[WindowSampler], generators: Sequence[torch.Generator]
    ) -> Metrics:
        """Run one epoch of every seed; each draws from its own sampler and generator."""
        learner, config = self._first, self._first.config
        size = config.policy_batch_size
        obs_SBO = torch.stack([sampler.sample(size).obs_HBO[0] for sampler in samplers])
        shape = (config.horizon, size, learner.mask_A.numel())
        draws = [torch.randn(shape, generator=g, device=obs_SBO.device) for g in generators]
        learner.world_model.requires_grad_(False)
        constant = {name: value.detach() for name, value in self.stacked["critics"].items()}
        with autocast(config.matmul, obs_SBO.device):
            returns_SB1, rollout, u_SHBA = vmap(self._roll_out.of)(
                self.stacked["policy"], constant, obs_SBO, torch.stack(draws)
            )
        scales = [one.return_scale for one in self.learners]  # type: ignore[union-attr]
        for scale, returns_B1 in zip(scales, returns_SB1.detach(), strict=True):
            scale.update(returns_B1)  # type: ignore[operator]
        std_S = torch.stack([scale.std for scale in scales])  # type: ignore[union-attr]
        loss_S = -returns_SB1.mean((1, 2)) / std_S
        if config.action_penalty:
            loss_S = loss_S + learner.action_penalty * u_SHBA.square().sum(-1).mean((1, 2))
        self._step("actor", "policy", loss_S, config.actor_clip)
        critic_loss_S = self._update_critics(rollout, generators)
        return {"actor_loss": loss_S.detach(), "critic_loss": critic_loss_S}

    def _update_critics(self, rollout: Any, generators: Sequence[torch.Generator]) -> Tensor:
        config = self._first.config
        targets = vmap(lambda r, v: td_lambda(r, v, config.discount, config.td_lambda))
        y_SN = targets(rollout.r, rollout.next_v).flatten(1)
        z_SNL = rollout.z.flatten(1, 2)
        critics = vmap(lambda parameters, z: functional_call(self._first.critics, parameters, (z,)))
        loss_S = y_SN.new_zeros(len(y_SN))
        orders = [self._first.draw_orders(y_SN.shape[1], g, y_SN) for g in generators]
        for of_a_pass in zip(*orders, strict=True):
            for rows_SR in torch.stack(of_a_pass).chunk(config.critic_batches, dim=1):
                z_SRL = z_SNL.gather(1, rows_SR.unsqueeze(-1).expand(-1, -1, z_SNL.shape[-1]))
                with autocast(config.matmul, z_SRL.device):
                    v_SCR = critics(self.stacked["critics"], z_SRL)
                y_SR = y_SN.gather(1, rows_SR)
                loss_S = (v_SCR - y_SR.unsqueeze(1)).square().mean((1, 2))
                self._step("critic", "critics", loss_S, config.critic_clip)
        return loss_S.detach()

    def _step(self, name: str, part: str, loss_S: Tensor, clip: float) -> None:
        """Take one gradient step of all seeds, each clipped by the norm of its own gradient."""
        optimizer = self.optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        loss_S.sum().backward()
        gradients = [p.grad for p in self.stacked[part].values() if p.grad is not None]
        squares_S = torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0)
        factor_S = (clip / (squares_S.sqrt() + _EPSILON)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(factor_S.view(-1, *[1] * (gradient.dim() - 1)))
        optimizer.step()


class _RollOut(nn.Module):
    """A learner's rollout as a function of its policy's and critics' parameters."""

    def __init__(self, learner: Learner):
        super().__init__()
        self.learner = copy.copy(learner)
        # vmap differentiates one graph: the learner's own acts and last values are cut off it.
        self.learner._act = self._act
        self.learner._value = lambda z_BL: (learner.critics.minimum(z_BL), None)

    def forward(self, obs_BO: Tensor, noise_HBA: Tensor) -> Any:
        self._us: list[Tensor] = []
        returns_B1, rollout = self.learner._roll_out(obs_BO, noise_HBA)
        return returns_B1, rollout, torch.stack(self._us)

    def _act(self, z_BL: Tensor, noise_BA: Tensor) -> Tensor:
        a_BA, u_BA = self.learner.policy.sample(z_BL, noise_BA, self.learner.mask_A)
        self._us.append(u_BA)
        return a_BA

    def of(self, policy: Parameters, critics: Parameters, obs: Tensor, noise: Tensor) -> Any:
        """Return returns, rollout and actions before tanh with these parameters."""
        parts = {"policy": policy, "critics": critics}
        given = {f"learner.{p}.{n}": v for p, named in parts.items() for n, v in named.items()}
        return functional_call(self, given, (obs, noise))


def _stack(learners: Sequence[Learner], part: str) -> Parameters:
    """Stack the parameters of a part, which become views of the result."""
    named = [dict(getattr(learner, part).named_parameters()) for learner in learners]
    stacked = {}
    for name in named[0]:
        values = [parameters[name] for parameters in named]
        stacked[name] = torch.stack([value.detach() for value in values]).requires_grad_()
        for value, view in zip(values, stacked[name].detach(), strict=True):
            value.data = view
    return stacked


def _optimizer(like: Adam, parameters: Parameters) -> Adam:
    group = like.param_groups[0]
    return Adam(parameters.values(), group["lr"], group["betas"])


class _Seeds:
    """The learners of a case with what each of them draws from."""

    def __init__(self, case: workload.Case, num_seeds: int, device: torch.device):
        learner = build_learner(case.config).to(device)
        self.learners = [copy.deepcopy(learner) for _ in range(num_seeds)]
        store = workload.random_store(workload.TASK, _NUM_EPISODES)
        horizon = learner.window_horizon
        draws = [generator(seed, "windows", device) for seed in range(num_seeds)]
        self.samplers = [
            WindowSampler(store, horizon, device, draw, place="memory") for draw in draws
        ]
        self.noises = [generator(seed, "noise", device) for seed in range(num_seeds)]
        self.generators = [*self.noises, *draws]


def _stacked(seeds: _Seeds, device: torch.device) -> Callable[[], object]:
    stack = Stack(seeds.learners)
    tensors = [t for part in stack.stacked.values() for t in part.values()]
    tensors += [t for learner in seeds.learners for t in learner.return_scale.buffers()]
    work = functools.partial(stack.update, seeds.samplers, seeds.noises)
    return _recorded(work, list(stack.optimizers.values()), tensors, seeds.generators, device)


def _one_after_the_other(seeds: _Seeds, device: torch.device) -> Callable[[], object]:
    runs = []
    drawn = zip(seeds.learners, seeds.samplers, seeds.noises, strict=True)
    for learner, sampler, noise in drawn:
        work = functools.partial(learner.run_epoch, sampler.sample, noise)
        tensors = [*learner.parameters(), *learner.buffers()]
        optimizers = list(learner.optimizers.values())
        runs.append(_recorded(work, optimizers, tensors, [noise, sampler.generator], device))
    return lambda: [run() for run in runs]


def _recorded(
    work: replay.Work,
    optimizers: Sequence[torch.optim.Optimizer],
    tensors: Sequence[Tensor],
    generators: Sequence[torch.Generator],
    device: torch.device,
) -> replay.Work:
    if device.type != "cuda":
        return work
    return replay.replayed(work, optimizers, tensors, generators, [replay.record_graph]).run


def _report(options: argparse.Namespace) -> int:
    device = choose_device(options.device)
    _check(options, device)
    set_up_torch(device, options.threads or torch.get_num_threads(), options.dtype)
    about = machine.describe(device)
    print(f"{about['gpu'] or about['cpu']}, {torch.get_num_threads()} threads, {options.dtype}")
    print("size    variant     seeds  batch  stacked ms  in turn ms  times as fast  difference")
    for size in options.size:
        for variant in options.variants:
            print(_line(size, variant, options, device), flush=True)
    return 0


def _line(size: str, variant: str, options: argparse.Namespace, device: torch.device) -> str:
    case = workload.Case(size, variant, workload.FROZEN, options.batch, 1, options.dtype)
    sides = [_Seeds(case, options.seeds, device) for _ in range(2)]
    before = [p.detach().clone() for learner in sides[0].learners for p in learner.parameters()]
    stacked, in_turn = _stacked(sides[0], device), _one_after_the_other(sides[1], device)
    seconds = [(machine.time_call(stacked, device), machine.time_call(in_turn, device))]
    together, alone = (nn.ModuleList(side.learners) for side in sides)
    difference = workload.difference(together, alone, before)
    for _ in range(options.repeat):
        seconds.append((machine.time_call(stacked, device), machine.time_call(in_turn, device)))
    ours, theirs = (1e3 * min(column) for column in zip(*seconds[1:], strict=True))
    return (
        f"{size:7} {variant:11} {options.seeds:5}  {options.batch:5}  {ours:10.1f}  {theirs:10.1f}"
        f"  {theirs / ours:13.2f}  {difference:10.1e}"
    )


def _check(options: argparse.Namespace, device: torch.device) -> None:
    """Raise ValueError for an option outside its valid set."""
    for what, given, valid in (
        ("size", options.size, SIZES),
        ("variant", options.variants, VARIANTS),
        ("dtype", [options.dtype], MATMULS),
    ):
        for name in given:
            if name not in valid:
                raise ValueError(unknown(what, name, valid))
    if device.type == "cpu":
        check_on_cpu(options.dtype)
    counts = [n for n in ("seeds", "batch", "threads", "repeat") if getattr(options, n) is not None]
    check_least("", options, 1, *counts)


def _parser() -> CommandParser:
    parser = CommandParser(description="Time several seeds stacked against one after the other.")
    add = parser.add_argument
    add("--size", type=names, default=["laptop"], metavar="A,B", help=f"of {', '.join(SIZES)}")
    add("--variants", type=names, default=["baseline"], metavar="A,B", help=", ".join(VARIANTS))
    add("--seeds", type=int, default=3, metavar="N", help="default: 3")
    add("--batch", type=int, default=workload.EPOCH_BATCH, metavar="N", help="default: 256")
    add("--dtype", default=FLOAT32, metavar="NAME", help=f"of products: {', '.join(MATMULS)}")
    add("--device", metavar="NAME", help="cpu or cuda (default: the GPU where there is one)")
    add("--threads", type=int, metavar="N", help="default: as many as torch takes")
    add("--repeat", type=int, default=5, metavar="N", help="default: 5")
    return parser


if __name__ == "__main__":
    sys.exit(main())
