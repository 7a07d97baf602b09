"""How a trial is evaluated, during its training and at its end."""

from dataclasses import dataclass

from pwmray.checks import MAX_EPISODE_SEED, check_least


@dataclass(frozen=True)
class EvaluationConfig:
    """Deterministic policy, action repeat 2, one fixed environment seed an episode."""

    every_epochs: int = 200  # a curve row, with an evaluation of `num_episodes`
    num_episodes: int = 10
    final_episodes: int = 50  # of the final checkpoint: the trial's result
    plan_episodes: int = 10  # the first of these, acted by the planner too; 0: no planning
    first_seed: int = 1_000_000  # final episodes use first_seed, first_seed + 1, ...

    def check(self) -> None:
        """Raise ValueError for a count or a seed outside its range."""
        check_least("evaluation", self, 1, "every_epochs", "num_episodes", "final_episodes")
        check_least("evaluation", self, 0, "first_seed", "plan_episodes")
        if self.plan_episodes > self.final_episodes:
            raise ValueError(
                f"evaluation.plan_episodes is {self.plan_episodes}; it must be at most "
                f"evaluation.final_episodes, {self.final_episodes}"
            )
        largest = MAX_EPISODE_SEED + 1 - self.final_episodes - self.num_episodes
        if self.first_seed > largest:
            raise ValueError(
                f"evaluation.first_seed is {self.first_seed}; it must be at most {largest}, for "
                f"{self.final_episodes} final episodes and {self.num_episodes} during training"
            )

    @property
    def final_seeds(self) -> range:
        """The environment seeds of the final evaluation, the same for every trial."""
        return range(self.first_seed, self.first_seed + self.final_episodes)

    @property
    def plan_seeds(self) -> range:
        """The environment seeds of the planner's episodes: the first of the final ones."""
        return self.final_seeds[: self.plan_episodes]

    @property
    def training_seeds(self) -> range:
        """The environment seeds of the evaluations during training: other ones."""
        start = self.first_seed + self.final_episodes
        return range(start, start + self.num_episodes)

    @property
    def protocol(self) -> str:
        """Everything about the final evaluation that a comparison must share."""
        return (
            f"{self.final_episodes} episodes, environment seeds {self.first_seed}+, "
            "action repeat 2, deterministic policy"
        )
