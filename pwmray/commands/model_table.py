"""The table of `pwmray models`: parameters, network calls and operations of each model."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pwmray.build import build_shapes, count_parameters
from pwmray.config import TrialConfig
from pwmray.flops import count_update_flops
from pwmray.models.sizes import SIZES
from pwmray.tasks import TASKS
from pwmray.variants import VARIANTS

BASELINE = "baseline"


class ModelRow(NamedTuple):
    """One variant at one size; ratios are to the baseline of that size."""

    size: str
    variant: str
    parameters: dict[str, int]  # of world_model, policy, critic and total
    ratios: dict[str, float]  # the same keys
    world_model_calls: int  # network calls of one environment step
    policy_calls: int
    update_flops: int  # of one epoch


def make_rows(size: str | None = None, variant: str | None = None) -> list[ModelRow]:
    """Return the rows of one size or all, one variant or all, at the default settings.

    Raises ValueError for an unknown size or variant, naming the valid ones.
    """
    sizes = list(SIZES) if size is None else [size]
    variants = list(VARIANTS) if variant is None else [variant]
    return [_make_row(size, variant) for size in sizes for variant in variants]


def as_table(rows: Sequence[ModelRow]) -> str:
    """Return the rows as text, after two lines that say what they count."""
    width = max(11, *(len(row.variant) for row in rows))
    return "\n".join([*_heading(width), *(_line(row, width) for row in rows)])


def _make_row(size: str, variant: str) -> ModelRow:
    config = _config(size, variant)
    parameters, baseline = _parameters(config), _parameters(_config(size, BASELINE))
    shapes = build_shapes(config)
    return ModelRow(
        size,
        variant,
        parameters,
        {part: parameters[part] / baseline[part] for part in parameters},
        shapes.world_model.num_calls,
        shapes.policy.num_calls,
        count_update_flops(config).total,
    )


def _config(size: str, variant: str) -> TrialConfig:
    # A model has the same size for every task.
    any_task = {"task": next(iter(TASKS)), "seed": 0, "epochs": 1}
    return TrialConfig.from_flat({**any_task, "size": size, "variant": variant})


def _parameters(config: TrialConfig) -> dict[str, int]:
    counts = count_parameters(config)
    return {**counts, "total": sum(counts.values())}


def _heading(width: int) -> Iterator[str]:
    config = _config("48", "fullflow")
    model, policy, learner = config.world_model, config.policy, config.learner
    yield (
        "calls: of the network, one environment step; flow world model: "
        f"{model.integrator} x {model.num_substeps}, "  # type: ignore[attr-defined]
        f"flow policy: {policy.integrator} x {policy.num_substeps}"  # type: ignore[attr-defined]
    )
    yield (
        "GFLOP: matrix products, forward and backward, of one update: "
        f"{learner.wm_iterations} model steps ({learner.wm_batch_size} x {learner.wm_horizon}), "
        f"a policy step ({learner.policy_batch_size} x {learner.horizon}), "
        f"{learner.critic_iterations} critic passes"
    )
    yield f"{'':<{width + 7}} {'parameters':>45}  {'ratio to baseline':>20}  {'calls':>11}"
    yield (
        f"{'size':<6} {'variant':<{width}} {'world model':>11} {'policy':>9} {'critic':>10} "
        f"{'total':>12}  {'model':>6} {'policy':>6} {'total':>6}  "
        f"{'model':>5} {'policy':>5} {'GFLOP':>9}"
    )


def _line(row: ModelRow, width: int) -> str:
    counts, ratios = row.parameters, row.ratios
    return (
        f"{row.size:<6} {row.variant:<{width}} {counts['world_model']:>11,} {counts['policy']:>9,} "
        f"{counts['critic']:>10,} {counts['total']:>12,}  {ratios['world_model']:>6.4f} "
        f"{ratios['policy']:>6.4f} {ratios['total']:>6.4f}  {row.world_model_calls:>5} "
        f"{row.policy_calls:>6} {row.update_flops / 1e9:>9,.1f}"
    )
