"""The recipe of a task's data: all that determines the data, and a fingerprint over it."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from pwmray.checks import check_least
from pwmray.data.behaviours import BEHAVIOURS, NOISY_POLICY, POLICY, POLICY_NOISES
from pwmray.data.collector import COLLECTOR
from pwmray.data.layouts import COLLECTED, SOURCES
from pwmray.wording import unknown

# Raise it when behaviours or random streams change: data of another version is then not reused.
COLLECTION_FORMAT = "pwmray-collection-1"
_OF_ROUNDS = ("num_rounds", "episodes_per_round", "epochs_per_round")


@dataclass(frozen=True)
class CollectionRecipe:
    """Where a task's data comes from: a published dataset, or collected as the other fields say."""

    source: str = COLLECTED  # or mt30, mt80: imported with `pwmray data import`
    num_episodes: int = 40  # of 500 steps each, those of the rounds not included
    seed: int = 0
    # Episode i has behaviour i modulo their number, so that each acts equally often.
    behaviours: tuple[str, ...] = tuple(BEHAVIOURS)
    policy: str = ""  # SHA-256 of the checkpoint whose policy acts, if a behaviour is a policy's
    num_rounds: int = 0  # of training the collector and collecting with it (pwmray.rounds)
    episodes_per_round: int = 10
    epochs_per_round: int = 50

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise ValueError(unknown("data.source", self.source, SOURCES))
        check_least("data", self, 1, "num_episodes", "episodes_per_round", "epochs_per_round")
        check_least("data", self, 0, "seed", "num_rounds")
        valid = [*BEHAVIOURS, *POLICY_NOISES]
        wrong = [name for name in self.behaviours if name not in valid]
        if wrong or not self.behaviours:
            raise ValueError(
                f"unknown data.behaviours {wrong or 'none'}; valid: {', '.join(valid)}"
            )
        self._check_policy()

    def _check_policy(self) -> None:
        led = [name for name in self.behaviours if name in POLICY_NOISES]
        if led and not self.policy:
            raise ValueError(
                f"data.behaviours has {', '.join(led)}, and no checkpoint says whose policy that "
                "is; collect with: pwmray data collect TASK --from CHECKPOINT"
            )
        if self.policy and not led:
            raise ValueError(
                f"a checkpoint is given, and its policy acts in none of data.behaviours, "
                f"{', '.join(self.behaviours)}; add {' or '.join(POLICY_NOISES)}"
            )

    @property
    def total_episodes(self) -> int:
        """Return the number of all episodes, those of the rounds included."""
        return self.num_episodes + self.num_rounds * self.episodes_per_round

    def episodes_of(self, round_number: int) -> range:
        """Return the numbers of a round's episodes; in round 0 the fixed behaviours act."""
        if round_number == 0:
            return range(self.num_episodes)
        stop = self.num_episodes + round_number * self.episodes_per_round
        return range(stop - self.episodes_per_round, stop)

    def behaviour(self, episode: int) -> str:
        """Return the name of the episode's behaviour; the first episode of a round has no noise."""
        if episode < self.num_episodes:
            return self.behaviours[episode % len(self.behaviours)]
        is_first = (episode - self.num_episodes) % self.episodes_per_round == 0
        return POLICY if is_first else NOISY_POLICY

    def label(self, episode: int) -> str:
        """Return the episode's behaviour as the data records it, in a round with its number."""
        if episode < self.num_episodes:
            return self.behaviour(episode)
        round_number = (episode - self.num_episodes) // self.episodes_per_round + 1
        return f"{self.behaviour(episode)}@{round_number}"

    @property
    def definition(self) -> dict[str, Any]:
        """Return all that determines the data, as plain data.

        Fields that are not in use are left out: a recipe without rounds has no number of epochs,
        and a published dataset has nothing but its name.
        """
        if self.source != COLLECTED:
            return {"source": self.source}
        return {"source": self.source, **self._collected_fields}

    @property
    def collection(self) -> dict[str, Any]:
        """Return all that determines collected episodes, as plain data."""
        return {"format": COLLECTION_FORMAT, **self._collected_fields}

    @property
    def _collected_fields(self) -> dict[str, Any]:
        fields = asdict(self)
        del fields["source"]
        if not self.policy:
            del fields["policy"]
        if self.num_rounds:
            return {**fields, "collector": COLLECTOR}
        return {name: value for name, value in fields.items() if name not in _OF_ROUNDS}

    def fingerprint(self, task: str) -> str:
        """Return 12 hex digits that identify the collected data of this task."""
        return collection_fingerprint(self.collection, task)

    @property
    def command_options(self) -> str:
        """Return the options with which `pwmray data collect` has this recipe."""
        options = f"--episodes {self.num_episodes} --seed {self.seed}"
        if self.behaviours != tuple(BEHAVIOURS):
            options += f" --behaviours {','.join(self.behaviours)}"
        if self.policy:
            options += " --from CHECKPOINT"
        if self.num_rounds:
            options += (
                f" --rounds {self.num_rounds} --episodes-per-round {self.episodes_per_round} "
                f"--epochs-per-round {self.epochs_per_round}"
            )
        return options


def collection_fingerprint(collection: dict[str, Any], task: str) -> str:
    """Return 12 hex digits over `CollectionRecipe.collection` and the task."""
    canonical = json.dumps({**collection, "task": task}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]
