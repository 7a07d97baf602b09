"""Settings that a trial does not read: trials that differ in these alone repeat each other."""

import dataclasses
import json

from pwmray.algorithm.planner import PlannerConfig
from pwmray.config import TrialConfig
from pwmray.models import WORLD_MODELS, WorldModel
from pwmray.plan import Plan, PlannedTrial
from pwmray.registry import flat_settings
from pwmray.wording import number_of

_MODEL_STEPS = ("learner.model_lr", "learner.model_clip")
_WEIGHTS = ("learner.consistency_weight", "learner.matching_weight", "learner.reward_weight")
_BATCHES = ("learner.wm_batch_size", "learner.wm_iterations")
_FLOW_SWITCHES = (
    "fidelity.tangent_velocity",
    "fidelity.constant_flow_start",
    "fidelity.integrated_consistency",
)
_PLANNER = tuple(f"planner.{field.name}" for field in dataclasses.fields(PlannerConfig))


def describe_repeated(plan: Plan) -> list[str]:
    """Return a line about the trials to run that would only repeat others of the sweep.

    They differ in a setting of the sweep's axes that another kind or methodology reads.
    """
    varied = {key for keys in plan.sweep.axes.values() for key in keys}
    alike: dict[str, list[PlannedTrial]] = {}
    for trial in plan.trials:
        if unread := find_unread(trial.config) & varied:
            settings = flat_settings(trial.config.to_dict())
            read = [s for s in settings if s[0] not in unread and not s[0].startswith("runtime.")]
            alike.setdefault(json.dumps(read), []).append(trial)
    repeated = [t for trials in alike.values() for t in trials[1:] if t.is_to_run]
    if not repeated:
        return []
    number = number_of(len(repeated), "trial")
    unread = {name for trial in repeated for name in find_unread(trial.config) & varied}
    return [
        f"note: {number} would only repeat others: what tells them apart, "
        f"{' and '.join(sorted(unread))}, they do not read: {repeated[0].name}"
        f"{' and others' if repeated[1:] else ''}"
    ]


def find_unread(config: TrialConfig) -> set[str]:
    """Return the settings, by dotted key, that change nothing of what the trial computes."""
    fidelity, kind = config.fidelity, WORLD_MODELS[config.world_model.kind]
    has_matching = kind.matching_loss is not WorldModel.matching_loss
    rules = (
        (not config.trains_world_model, (*_MODEL_STEPS, *_BATCHES, *_WEIGHTS)),
        (not fidelity.loss_weights, _WEIGHTS),
        (not has_matching, ("learner.matching_weight",)),
        (has_matching and not fidelity.integrated_consistency, ("learner.consistency_weight",)),
        (config.world_model.kind == "mlp", _FLOW_SWITCHES),
        (config.policy.kind == "gaussian", ("fidelity.exploration_floor",)),
        (not fidelity.world_model_batches, ("learner.wm_horizon", *_BATCHES)),
        (not fidelity.td_lambda, ("learner.td_lambda",)),
        (config.is_pretrained, ("world_model.standardize",)),  # its file brings the scale
        (not config.evaluation.plan_episodes, _PLANNER),
    )
    return {name for is_unread, names in rules if is_unread for name in names}
