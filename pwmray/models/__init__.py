"""The registries: a new world model or policy is one file and one line here."""

from pwmray.models.critic import CriticConfig, CriticEnsemble
from pwmray.models.policy import Policy, PolicyConfig
from pwmray.models.policy_flow import FlowPolicy
from pwmray.models.policy_gaussian import GaussianPolicy
from pwmray.models.world_model import WorldModel, WorldModelConfig
from pwmray.models.world_model_flow import FlowWorldModel
from pwmray.models.world_model_mlp import MLPWorldModel

WORLD_MODELS: dict[str, type[WorldModel]] = {"mlp": MLPWorldModel, "flow": FlowWorldModel}
POLICIES: dict[str, type[Policy]] = {"gaussian": GaussianPolicy, "flow": FlowPolicy}
KINDS = {"world_model": WORLD_MODELS, "policy": POLICIES}

__all__ = [
    "KINDS",
    "POLICIES",
    "WORLD_MODELS",
    "CriticConfig",
    "CriticEnsemble",
    "Policy",
    "PolicyConfig",
    "WorldModel",
    "WorldModelConfig",
]
