"""What a job is to run: the trials that are left of a sweep or a search."""

from abc import ABC, abstractmethod
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Sequence
from pathlib import Path

from cluster import preflight, submissions
from cluster.profiles import Profile
from cluster.submissions import Submission
from pwmray import plan as planning
from pwmray import plan_text, tables
from pwmray.config import TrialConfig
from pwmray.data.layouts import COLLECTED
from pwmray.data.recipe import CollectionRecipe
from pwmray.data.sources import imported_path
from pwmray.pretraining import prerequisites
from pwmray.search import Search, search_parser
from pwmray.search import plan_text as search_text
from pwmray.search import tables as search_tables
from pwmray.sweep import Sweep
from pwmray.sweep_options import sweep_parser


class Work(ABC):
    """What is left to run of an experiment, as the options of its command choose it."""

    name: str  # the experiment's
    results: Path  # absolute
    to_run: Sequence[TrialConfig]
    summary: str  # for people, in a few lines
    table: str  # for people, in full
    num_unreadable = 0  # trials that are left out, as their records cannot be read

    @abstractmethod
    def check(self, num_jobs: int) -> None:
        """Raise ValueError for data, world models or room whose lack would fail the jobs."""

    def options(self, profile: Profile) -> list[str]:
        """Return the driver's options in a profile's job, so that it runs what its GPUs serve."""
        return ["--trials-per-gpu", str(profile.trials_per_gpu)] if profile.gpus else []

    @abstractmethod
    def open(self, command: str) -> Path:
        """Create or grow the experiment's folder, and return it."""

    def queue(self, profile: Profile, submission: Submission) -> None:  # noqa: B027
        """Record that the trials for a profile's job wait for it; a search has none yet."""


def parser_of(experiment: Sweep | Search) -> ArgumentParser:
    """Return the parser of an experiment's own command."""
    if isinstance(experiment, Search):
        return search_parser(experiment)
    return sweep_parser(experiment.name, experiment.scales)


def make_work(experiment: Sweep | Search, chosen: Namespace) -> Work:
    """Return what is left to run; raise ValueError for what `--plan` would refuse."""
    if isinstance(experiment, Search):
        return _OfSearch(experiment, chosen)
    return _OfSweep(experiment, chosen)


class _OfSweep(Work):
    def __init__(self, sweep: Sweep, chosen: Namespace):
        self._sweep, self._chosen = sweep, chosen
        self.name = sweep.name
        self._look_up()

    def _look_up(self) -> None:
        self._plan = self._sweep.plan(self._chosen)
        self.results = self._plan.results
        self.to_run = [trial.config for trial in self._plan.to_run]
        self.num_unreadable = len(self._plan.unreadable)
        on = (self._plan, self._chosen.devices)
        self.summary, self.table = plan_text.as_summary(*on), plan_text.as_table(*on)

    def check(self, num_jobs: int) -> None:
        wanted = [(trial.task, trial.data) for trial in self.to_run]
        if not self._chosen.pretrain:
            prerequisites.check_made(self._plan.prerequisites)
            if not self._plan.is_ready:  # another process made them since they were looked up
                self._look_up()
        elif num_jobs > 1:
            raise ValueError("--pretrain is for one job: the others would wait for it")
        else:  # a pretraining may use more tasks than the trials
            to_make = [p.pretraining for p in self._plan.prerequisites if p.state != "done"]
            wanted += [(task, made.data) for made in to_make for task in made.tasks]
        _check_data(wanted, self._chosen.data)
        planning.check_disk(self._plan)

    def options(self, profile: Profile) -> list[str]:
        # The last one of a repeated option counts, and that is ours; "" is for trials of any type.
        types = self._chosen.gpu_types
        served = profile.gpu_type if types is None or profile.gpu_type in types else ""
        chosen = [] if profile.serves_all else ["--gpu-types", served]
        return [*chosen, *super().options(profile)]

    def open(self, command: str) -> Path:
        return tables.open_sweep(self._plan, command)

    def queue(self, profile: Profile, submission: Submission) -> None:
        trials = preflight.trials_of(profile, self.to_run)
        submissions.queue(self.results, trials, submission)


class _OfSearch(Work):
    def __init__(self, search: Search, chosen: Namespace):
        self._plan, self._chosen = search.plan(chosen), chosen
        self.name, self.results = search.name, self._plan.results
        left = self._plan.count_left(self._plan.studies())
        # The settings of these trials are yet to be proposed; what they need of a machine is known.
        self.to_run = [
            config
            for task, number in left.items()
            for config in [self._plan.config(task, {})] * number
        ]
        self.summary = search_text.as_summary(self._plan)
        self.table = search_text.as_table(self._plan)

    def check(self, num_jobs: int) -> None:
        if num_jobs > 1:
            raise ValueError(
                "one driver runs a search: give one --profile, and --nodes N for more machines"
            )
        wanted = [(trial.task, trial.data) for trial in self.to_run]
        _check_data(wanted, self._chosen.data)
        self._plan.check_disk(len(self.to_run))

    def open(self, command: str) -> Path:
        return search_tables.open_tables(self._plan, [], command)


def _check_data(wanted: Iterable[tuple[str, CollectionRecipe]], data: Path) -> None:
    """Raise ValueError for a dataset that was not imported; collected data the job makes itself."""
    for task, source in dict.fromkeys((task, recipe.source) for task, recipe in wanted):
        if source != COLLECTED:
            imported_path(task, source, data.resolve())
