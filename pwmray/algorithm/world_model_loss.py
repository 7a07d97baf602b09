"""The world model's loss on windows of data: consistency, reward and (flow) matching.

Shapes: H horizon, B windows, O observation, A action, L latent, T task embedding; time-major.
Source: TD-MPC2 (Hansen et al., arXiv 2310.16828) for consistency and reward, flow matching (Lipman
et al., arXiv 2210.02747) for the velocity.
"""

import torch
from torch import Tensor

from pwmray.algorithm.learner_config import LearnerConfig
from pwmray.algorithm.returns import discounts
from pwmray.data.sampler import Batch
from pwmray.kernels.branches import Beside
from pwmray.models import WorldModel
from pwmray.models.layers import lay_out
from pwmray.precision import autocast

Losses = dict[str, Tensor]  # scalars by name


def world_model_loss(
    model: WorldModel,
    config: LearnerConfig,
    batch: Batch,
    e_BT: Tensor,
    generator: torch.Generator,
) -> tuple[Tensor, Losses]:
    """Return the weighted loss and its detached parts, each a mean over t weighted by gamma^t.

    `generator` draws the flow times.
    """
    with autocast(config.matmul, e_BT.device):
        losses = _parts(model, config, batch, e_BT, generator)
    weights = _weights(model, config, len(batch.a_HBA))
    total = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
    metrics = {name: loss.detach() for name, loss in losses.items()}
    return total, metrics | {"world_model_loss": total.detach()}


def _parts(
    model: WorldModel,
    config: LearnerConfig,
    batch: Batch,
    e_BT: Tensor,
    generator: torch.Generator,
) -> Losses:
    if e_BT.is_cuda:
        lay_out(model)
    z_BL = model.encode(batch.obs_HBO[0], e_BT)
    with Beside(z_BL.device) as encoding, torch.no_grad():
        # The same online encoder makes the targets, as in TD-MPC2.
        target_HBL = model.encode(batch.obs_HBO[1:], e_BT.expand(len(batch.a_HBA), *e_BT.shape))
    starts_HBL, ends_HBL = model.unroll(z_BL, e_BT, batch.a_HBA)
    encoding.join()
    # Not before the unrolling: gradients are summed in this order, on which their last bits depend.
    e_HBT = e_BT.expand(len(batch.a_HBA), *e_BT.shape)
    logits_HBK = model.reward_logits(starts_HBL, e_HBT, batch.a_HBA)
    losses = {"reward_loss": model.reward_loss(logits_HBK, batch.r_HB1)}
    tau_HB1 = _uniform(batch.r_HB1.shape, generator, batch.r_HB1)
    matching = model.matching_loss(starts_HBL, e_HBT, batch.a_HBA, target_HBL, tau_HB1)
    if matching is not None:
        losses["matching_loss"] = matching
    if matching is None or model.fidelity.integrated_consistency:
        losses["consistency_loss"] = model.consistency_loss(ends_HBL, target_HBL)
    weight_H1 = discounts(len(batch.a_HBA), config.discount, ends_HBL)
    return {name: (weight_H1 * loss_HB).mean() for name, loss_HB in losses.items()}


def _weights(model: WorldModel, config: LearnerConfig, horizon: int) -> dict[str, float]:
    if not model.fidelity.loss_weights:
        return {"consistency_loss": 1.0, "matching_loss": 1.0, "reward_loss": 1.0 / horizon}
    return {
        "consistency_loss": config.consistency_weight,
        "matching_loss": config.matching_weight,
        "reward_loss": config.reward_weight,
    }


def _uniform(shape: tuple[int, ...], generator: torch.Generator, like: Tensor) -> Tensor:
    return torch.rand(shape, generator=generator, device=like.device, dtype=like.dtype)
