"""Files of pretrained world models that nobody trained, and what a sweep finds of them."""

from pwmray.build import build_learner
from pwmray.config import TrialConfig
from pwmray.models.checkpoints import describe_world_model, save_world_model
from pwmray.pretraining import prerequisites
from tests.tiny import SETTINGS
from tests.tiny_pretrained import TASK, sweep


def save(path, kind="mlp", iterations=200, data="d1", tasks=(TASK,), told=(), **settings):
    """Write a world model; `told` is what its file says of its run and settings beside these."""
    variant = {"mlp": "baseline", "flow": "flowwm"}[kind]
    flat = {**SETTINGS, "task": TASK, "seed": 3, "epochs": 1, "variant": variant, **settings}
    model = build_learner(TrialConfig.from_flat(flat)).world_model
    described = describe_world_model(model, "corrected", "few", tasks, iterations, data, *told)
    save_world_model(path, described)
    return path


def find(results, given=None):
    return prerequisites.find(sweep, "tiny", sweep.cells("tiny"), results, given)
