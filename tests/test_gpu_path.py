"""The way that an epoch takes on a GPU, where there is none: shapes, devices and calls alone.

torch's meta device, whose tensors have no numbers, stands in for the GPU, and functions that do
nothing for Triton's kernels. What mixes devices, waits for a number, or calls a kernel wrongly
fails here; what kernels compute is for test_kernels_for_gpu.py and test_gpu.py.
"""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.workload import Case, random_store
from pwmray.algorithm.compiling import compile_networks
from pwmray.build import build_learner
from pwmray.data.sampler import WindowSampler
from pwmray.models import WorldModel
from pwmray.models.layers import Linear, NormedNetwork, use_kernels
from pwmray.models.world_model_flow import FlowWorldModel
from pwmray.models.world_model_mlp import MLPWorldModel
from pwmray.precision import BFLOAT16, FLOAT32
from pwmray.tasks import MAX_ACTION_DIM, MAX_OBS_DIM
from pwmray.variants import VARIANTS
from tests.pretended_gpu import (
    GPU,
    NUM_EPISODES,
    TASK,
    Branch,
    Kernel,
    begin,
    is_step,
    is_view,
    make_pretrainer,
    on_gpu,
    pretend,
)


@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    pretend(monkeypatch)


class OnDevice(TorchDispatchMode):
    """Refuse tensors elsewhere: a recording cannot copy them, and a replay would not see them."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = None if is_step(function) else function(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs, found)) if isinstance(t, torch.Tensor)]
        assert all(t.device == GPU for t in tensors), function
        return found


class Launches(OnDevice):
    """Count the operations that are kernels: neither views nor places in memory."""

    def __init__(self):
        super().__init__()
        self.num_operations = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        is_place = "empty" in function.overloadpacket.__name__
        if not (is_view(function) or is_place or is_step(function)):  # steps: kernels of our own
            self.num_operations += 1
            Branch.streams.launch()
        return super().__torch_dispatch__(function, types, args, kwargs)


@pytest.mark.parametrize("fidelity", ["corrected", "published"])
@pytest.mark.parametrize("matmul", [FLOAT32, BFLOAT16])
@pytest.mark.parametrize("variant", VARIANTS)
def test_epoch_stays_on_the_device(variant, matmul, fidelity):
    learner = on_gpu(variant, **{"learner.matmul": matmul, "fidelity": fidelity})
    draws = torch.Generator()
    store, horizon = random_store(TASK, NUM_EPISODES), learner.window_horizon
    sampler = WindowSampler(store, horizon, GPU, draws, place="memory")
    with OnDevice():
        metrics = learner.run_epoch(sampler.sample, draws)
    assert {tuple(value.shape) for value in metrics.values()} == {()}
    assert Kernel.num_calls


@pytest.mark.parametrize("matmul", [FLOAT32, BFLOAT16])
@pytest.mark.parametrize("part", ["world_model", "policy", "critics"])
@pytest.mark.parametrize("variant", ["baseline", "fullflow"])
def test_part_without_kernels_stays_on_the_device_with_the_others(variant, part, matmul):
    learner, draws = on_gpu(variant, **{"learner.matmul": matmul}), torch.Generator()
    use_kernels(getattr(learner, part), False)
    store, horizon = random_store(TASK, NUM_EPISODES), learner.window_horizon
    sampler = WindowSampler(store, horizon, GPU, draws, place="memory")
    with OnDevice():
        learner.run_epoch(sampler.sample, draws)
    assert Kernel.num_calls


@pytest.mark.parametrize("variant", VARIANTS)
def test_acting_and_its_imagined_return_stay_on_the_device(variant):
    learner = on_gpu(variant, world_model_from="nowhere", finetune_wm=False)
    obs_BO = torch.zeros(10, MAX_OBS_DIM, device=GPU)
    with OnDevice():
        assert learner.act(obs_BO).shape == (10, MAX_ACTION_DIM)
        assert learner.predict_return(obs_BO).shape == (10, 1)


@pytest.mark.parametrize("matmul", [FLOAT32, BFLOAT16])
@pytest.mark.parametrize("variant", ["baseline", "fullflow"])
def test_iteration_of_a_pretraining_stays_on_the_device(variant, matmul, monkeypatch):
    pretrainer = make_pretrainer(monkeypatch, on_gpu(variant, **{"learner.matmul": matmul}), 8)
    with OnDevice():
        losses = pretrainer._step()
    assert {tuple(value.shape) for value in losses.values()} == {()}


def test_epoch_without_a_task_embedding_runs():
    learner = on_gpu("fullflow", **{"world_model.task_dim": 0})
    store, draws = random_store(TASK, NUM_EPISODES), torch.Generator()
    sampler = WindowSampler(store, learner.window_horizon, GPU, draws, place="memory")
    learner.run_epoch(sampler.sample, draws)


def freeze(layer):
    return lambda model: model.velocity_trunk[layer].requires_grad_(False)


def linear(width, **settings):
    return Linear(width, width, device=GPU, **settings)


CHANGES = {
    "first layer frozen": freeze(0),
    "second layer frozen": freeze(1),
    "linear layer in the trunk": lambda model: model.velocity_trunk.append(linear(13)),
    "no bias": lambda model: model.velocity_trunk.insert(1, linear(20, bias=False)),
    "torch's own reward head": lambda model: setattr(
        model, "reward_head", NormedNetwork(nn.Linear(model.input_dim, 101, device=GPU))
    ),
    "own integration": lambda model: setattr(model, "_plan", None),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_flow_model_trains_what_it_is_to(change):
    model = on_gpu("fullflow").world_model
    CHANGES[change](model)
    use_kernels(model, True)
    z, a = torch.ones(5, model.latent_dim, device=GPU), torch.ones(5, MAX_ACTION_DIM, device=GPU)
    e = model.embed(torch.tensor(0, device=GPU)).expand(5, -1)
    z = model.next(z, e, a)
    (z.sum() + model.reward(z, e, a).sum()).backward()
    for part in (model.velocity_trunk, model.velocity_head, model.reward_head):
        assert all((p.grad is not None) == p.requires_grad for p in part.parameters())


class OwnFlow(FlowWorldModel):
    def _build_dynamics(self):
        self.field = nn.Linear(self.input_dim + 1, self.latent_dim)

    def _initialise(self, generator):
        WorldModel._initialise(self, generator)

    def velocity(self, z_BL, e_BT, a_BA, tau_B1):
        return self.field(torch.cat([z_BL, e_BT, a_BA, tau_B1], dim=-1))


def test_flow_with_a_velocity_of_its_own_is_called():
    like = on_gpu("fullflow").world_model
    with GPU:
        model = OwnFlow(like.config, torch.Generator())
    use_kernels(model, True)
    z, a = torch.ones(5, model.latent_dim, device=GPU), torch.ones(5, MAX_ACTION_DIM, device=GPU)
    e = model.embed(torch.tensor(0, device=GPU)).expand(5, -1)
    model.next(z, e, a).sum().backward()
    assert model.field.weight.grad is not None


class OwnSteps(MLPWorldModel):
    def next(self, z_BL, e_BT, a_BA):
        return super().next(z_BL, e_BT, a_BA) + 0.0 * z_BL


class OwnStarts(MLPWorldModel):
    def next_and_given(self, z_BL, given_BL, e_BT, a_BA):
        return self.next(z_BL, e_BT, a_BA), given_BL


@pytest.mark.parametrize(("kind", "num_calls"), [(MLPWorldModel, 0), (OwnSteps, 3), (OwnStarts, 3)])
def test_steps_of_a_subclass_are_called(kind, num_calls, monkeypatch):
    with GPU:
        model = kind(on_gpu("baseline").world_model.config, torch.Generator())
    use_kernels(model, True)
    calls, step = [], model.next
    monkeypatch.setattr(model, "next", lambda *given: calls.append(1) or step(*given))
    e = model.embed(torch.tensor(0, device=GPU)).expand(5, -1)
    z, a = torch.ones(5, model.latent_dim, device=GPU), torch.ones(3, 5, MAX_ACTION_DIM, device=GPU)
    starts, ends = model.unroll(z, e, a)
    (starts + ends).sum().backward()
    assert len(calls) == num_calls
    assert all(p.grad is not None for p in model.dynamics.parameters())


# As many as there are: fewer are welcome. Another torch may take others of its own.
counted = pytest.mark.skipif(
    not torch.__version__.startswith("2.13."), reason="not the lock's torch"
)


@counted
@pytest.mark.parametrize(
    ("variant", "methodology", "most", "most_in_turn"),
    [
        ("baseline", "frozen", 958, 660),
        ("fullflow", "frozen", 2845, 2443),
        ("baseline", "finetuned", 1299, 975),
        ("fullflow", "finetuned", 4803, 4359),
    ],
)
def test_epoch_at_paper_scale_launches_no_more(variant, methodology, most, most_in_turn):
    learner = at_paper_scale(variant, methodology, 512)
    assert compile_networks(learner, learner.optimizers.values()) == "on"
    begin(list(learner.optimizers.values()))
    draws, store = torch.Generator(), random_store(TASK, NUM_EPISODES)
    sampler = WindowSampler(store, learner.window_horizon, GPU, draws, place="memory")
    with Launches() as launches:
        learner.run_epoch(sampler.sample, draws)
    assert launches.num_operations + Kernel.num_calls <= most
    assert Branch.streams.in_turn["epoch"] <= most_in_turn


@counted
@pytest.mark.parametrize(
    ("variant", "most", "most_in_turn"), [("baseline", 333, 307), ("fullflow", 1950, 1908)]
)
def test_iteration_of_a_pretraining_at_paper_scale_launches_no_more(
    variant, most, most_in_turn, monkeypatch
):
    pretrainer = make_pretrainer(monkeypatch, at_paper_scale(variant, "pretrain", 1024), 1024)
    with Launches() as launches:
        pretrainer._step()
    assert launches.num_operations + Kernel.num_calls <= most
    assert Branch.streams.in_turn["epoch"] <= most_in_turn


@counted
def test_gradients_of_weights_are_awaited_when_all_others_are_there(monkeypatch):
    pretrainer = make_pretrainer(monkeypatch, at_paper_scale("baseline", "pretrain", 1024), 1024)
    with Launches():
        pretrainer._step()
    assert Branch.streams.in_turn["epoch"] - Branch.streams.joined["weights"] < 10


def at_paper_scale(variant, methodology, batch_size):
    case = Case("48", variant, methodology, batch_size, 1, BFLOAT16, NUM_EPISODES)
    with GPU:
        return build_learner(case.config)
