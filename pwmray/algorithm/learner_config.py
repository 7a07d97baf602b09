"""The settings of an epoch's three updates and their valid ranges."""

from dataclasses import dataclass

from pwmray.checks import check_least, check_positive, check_share
from pwmray.precision import FLOAT32, MATMULS
from pwmray.wording import unknown


@dataclass(frozen=True)
class LearnerConfig:
    """Settings of the update; the defaults are PWM's for the multitask suite."""

    horizon: int = 16  # environment steps that the policy imagines
    wm_horizon: int = 16  # environment steps of data that the model is unrolled along
    discount: float = 0.99
    td_lambda: float = 0.95
    policy_batch_size: int = 512
    wm_batch_size: int = 256
    wm_iterations: int = 8  # world-model steps an epoch
    # Rows of data to train on at most, as whole episodes; 0 takes all of them. PWM had room for
    # a million rows, a twelfth of a task's data in MT30.
    wm_buffer_size: int = 0
    critic_iterations: int = 8  # passes over the rollout's states an epoch
    critic_batches: int = 4  # minibatches a pass
    model_lr: float = 3e-4
    actor_lr: float = 5e-4
    critic_lr: float = 5e-4
    final_lr: float = 1e-5  # every rate falls linearly to this over the trial's epochs
    model_clip: float = 20.0  # gradient norms
    actor_clip: float = 1.0
    critic_clip: float = 100.0
    # On the squared action before tanh, where tanh would saturate and leave no gradient; falls
    # linearly to 0 over the trial's epochs. PWM has none; MR.Q (Fujimoto et al., arXiv
    # 2501.16142) has a constant one.
    action_penalty: float = 0.0
    consistency_weight: float = 20.0
    matching_weight: float = 20.0  # flow matching, on the scale of consistency
    reward_weight: float = 0.1
    matmul: str = FLOAT32  # or tf32 (on a GPU), bfloat16: how training computes products

    def check(self) -> None:
        """Raise ValueError naming the first setting outside its range."""
        check_least("learner", self, 1, *_COUNTS)
        check_least("learner", self, 0, "wm_buffer_size", "action_penalty")
        check_share("learner", self, "discount", "td_lambda")
        check_positive("learner", self, *_POSITIVE)
        check_positive("learner", self, *_CLIPS, or_infinite=True)
        if self.matmul not in MATMULS:
            raise ValueError(unknown("learner.matmul", self.matmul, MATMULS))

    def check_data(self, windows: str, source: str, num_rows: int) -> None:
        """Raise ValueError for what data in episodes of `num_rows` rows does not have.

        `windows` names the setting, horizon or wm_horizon, that says how long its windows are.
        """
        if getattr(self, windows) >= num_rows:
            raise ValueError(
                f"learner.{windows} is {getattr(self, windows)}; it must be at most "
                f"{num_rows - 1}, the steps of an episode of {source} data"
            )
        if 0 < self.wm_buffer_size < num_rows:
            raise ValueError(
                f"learner.wm_buffer_size is {self.wm_buffer_size}; valid: 0 for all the data, or "
                f"at least {num_rows}, the rows of an episode of {source} data"
            )


_COUNTS = (
    "horizon",
    "wm_horizon",
    "policy_batch_size",
    "wm_batch_size",
    "wm_iterations",
    "critic_iterations",
    "critic_batches",
)
_POSITIVE = (
    "model_lr",
    "actor_lr",
    "critic_lr",
    "final_lr",
    "consistency_weight",
    "matching_weight",
    "reward_weight",
)
_CLIPS = ("model_clip", "actor_clip", "critic_clip")  # infinite ones clip nothing
