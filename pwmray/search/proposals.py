"""Which trial a search runs next: one that an earlier run left, else a new proposal."""

import random
from collections.abc import Callable, Collection

import optuna
from optuna.trial import FrozenTrial, TrialState

from pwmray import registry
from pwmray.commands import say
from pwmray.config import TrialConfig
from pwmray.driver import retries
from pwmray.registry import Record, Status
from pwmray.search import study
from pwmray.search.plan import SearchPlan
from pwmray.search.study import FINGERPRINT
from pwmray.search.tables import asked
from pwmray.wording import one_line

# Proposals in a row that were tried before or cannot run.
_FEW_REPEATS = 3  # after which a finite space is drawn from instead
_MAX_REPEATS = 100  # after which the space has nothing new


class Proposals:
    """The trials that a task's study has left or proposes; each set of settings runs once.

    A trial whose outcome is known already does not run: the study is told the outcome at once. A
    twin, which has the settings of a trial that runs now, is told its outcome when that one ends.
    While the study waits for room on a full disk, it may `tell`.
    """

    def __init__(self, plan: SearchPlan, task: str, tell: Callable[[], None] = lambda: None):
        self._plan, self._task = plan, task
        self.study = plan.open_study(task, tell)
        self._space = plan.space
        self.asked = asked(plan, task, self.study)  # by fingerprint, in the order of proposal
        # Trials that ASHA stopped, with the epoch, before a kill kept the study from being told.
        self.stopped: list[tuple[optuna.Trial, TrialConfig, int]] = []
        self._twins: list[tuple[optuna.Trial, str]] = []  # and whose: fingerprints
        self._left = self._take_up()
        self._rng = random.Random(len(self.study.get_trials(deepcopy=False)))
        self._has_nothing_new = False  # until a trial ends

    @property
    def num_left(self) -> int:
        """How many trials are yet to run."""
        return len(self._left) + max(self._plan.num_trials - len(self.asked), 0)

    def number_of(self, config: TrialConfig) -> int:
        """Return a trial's place among all that were proposed, from 1."""
        return list(self.asked).index(config.fingerprint) + 1

    def next(self, running: Collection[str]) -> tuple[optuna.Trial, TrialConfig] | None:
        """Return the next trial to run, or None until another one ends.

        `running` has the fingerprints of the trials that run now.
        """
        if self._has_nothing_new:
            return None
        num_repeats = 0
        while num_repeats < _MAX_REPEATS:
            trial = self._left.pop(0) if self._left else self._propose(num_repeats)
            if trial is None:
                break
            config = self._config(trial)
            if config is not None and not self._is_known(trial, config, running):
                return trial, config
            num_repeats += 1
        self._has_nothing_new = True
        return None

    def put_back(self, trial: optuna.Trial) -> None:
        """Put a trial that ran to the front: `next` returns it again."""
        self._left.insert(0, trial)

    def leave(self, trial: optuna.Trial, config: TrialConfig) -> FrozenTrial:
        """Note that a trial no longer runs; return it as the study has it, finished or not."""
        self._has_nothing_new = False
        told = self.study.get_trials(deepcopy=False)[trial.number]
        self._tell_twins(told, config.fingerprint)
        return told

    def _take_up(self) -> list[optuna.Trial]:
        """Return the trials that earlier runs left unfinished, and those that failed there.

        A proposal that a kill cut off is dropped, for it lacks some of its settings. Failed trials
        are tried again only when a person starts the search, not when Slurm requeues its job.
        """
        outcomes = study.outcomes(self.study)
        ended = {name: t for name, t in outcomes.items() if t.state is not TrialState.FAIL}
        left: dict[str, optuna.Trial] = {}  # by fingerprint
        for trial in study.unfinished(self.study):
            if set(trial.params) != set(self._space):
                self.study.tell(trial, state=TrialState.FAIL)
                continue
            config, epoch = self._config(trial), trial.user_attrs.get(study.STOPPED_AT)
            if config is None:
                continue
            if config.fingerprint in ended:  # its twin
                self._tell_as(trial, ended[config.fingerprint])
            elif epoch is not None:
                self.stopped.append((trial, config, epoch))
            elif config.fingerprint in left:  # its twin: one of the two runs, and tells both
                self._twins.append((trial, config.fingerprint))
            else:
                left[config.fingerprint] = trial
        if retries.is_first_start():
            failed = {name: t for name, t in outcomes.items() if name not in {*ended, *left}}
            for name, trial in failed.items():
                left[name] = study.ask_again(self.study, trial.params, self._space)
        return list(left.values())[: self._plan.num_trials - len(ended)]

    def _propose(self, num_repeats: int) -> optuna.Trial | None:
        """Return a proposed trial, perhaps one that was tried before; None if no more are wanted.

        The study proposes it; where that repeats itself and the space is finite, it is drawn from
        what was not proposed yet, of which nothing may be left.
        """
        if len(self.asked) >= self._plan.num_trials:
            return None
        if num_repeats < _FEW_REPEATS or not self._plan.is_finite:
            return self.study.ask(self._space)
        for chosen in self._plan.draw_cells(self._rng):
            if self._plan.config(self._task, chosen).fingerprint not in self.asked:
                return study.ask_again(self.study, chosen, self._space)
        return None

    def _config(self, trial: optuna.Trial) -> TrialConfig | None:
        """Return a proposed trial's config; fail it and return None if its settings cannot run."""
        try:
            config = self._plan.config(self._task, trial.params)
        except ValueError as error:
            self._leave_out(trial, error)
            return None
        trial.set_user_attr(FINGERPRINT, config.fingerprint)
        self.asked.setdefault(config.fingerprint, config)
        return config

    def _leave_out(self, trial: optuna.Trial, error: Exception) -> None:
        self.study.tell(trial, state=TrialState.FAIL)
        say(f"{self._plan.search.name} {self._task}: left out, for {one_line(error)}")

    def _is_known(self, trial: optuna.Trial, config: TrialConfig, running: Collection[str]) -> bool:
        """Tell the study a trial's outcome if it is known, from any sweep; return whether it is.

        One whose record cannot be read fails: it cannot run before somebody has mended that.
        """
        record, broken = Record(), None
        try:
            record = registry.read(registry.trial_folder(self._plan.results, config.fingerprint))
        except (ValueError, OSError) as error:
            broken = error
        before = study.outcomes(self.study).get(config.fingerprint)
        if broken is not None:
            self._leave_out(trial, broken)
        elif record.status is Status.EVALUATED:
            self.study.tell(trial, record.last("return_mean"))
        elif before is not None and before.state is not TrialState.FAIL:
            self._tell_as(trial, before)
        elif config.fingerprint in running:
            self._twins.append((trial, config.fingerprint))
        else:
            return False
        self._tell_twins(self.study.get_trials(deepcopy=False)[trial.number], config.fingerprint)
        return True

    def _tell_twins(self, told: FrozenTrial, fingerprint: str) -> None:
        """Tell the study that a trial's twins came to the same end, if it has come to one."""
        if not told.state.is_finished():
            return
        for twin, name in self._twins:
            if name == fingerprint:
                self._tell_as(twin, told)
        self._twins = [(twin, name) for twin, name in self._twins if name != fingerprint]

    def _tell_as(self, trial: optuna.Trial, before: FrozenTrial) -> None:
        for epoch, value in before.intermediate_values.items():
            trial.report(value, epoch)
        value = before.value if before.state is TrialState.COMPLETE else None
        self.study.tell(trial, value, state=before.state)
