"""Submit a sweep or a search to Slurm: check everything, show the scripts, queue its jobs.

    python cluster/submit.py sweeps/phase6_epochs.py --profile h100 --profile h200 --nodes 2

Options of the file's own command, such as --scale or --tasks, follow the file and are passed on
to it.
"""

import argparse
import dataclasses
import shlex
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cluster import preflight, profiles, script, slurm, submissions, work
from cluster.experiment_file import check_run, load_experiment
from cluster.profiles import Profile
from cluster.script import Task
from cluster.slurm import SlurmError
from cluster.submissions import JOBS_FOLDER, Submission
from cluster.work import Work
from pwmray import slurm_jobs
from pwmray.commands import TRIALS_FAILED, CommandParser, give_results, run_command
from pwmray.driver import notify
from pwmray.sweep_options import choose_scale, count
from pwmray.system import quieten_dm_control
from pwmray.tracking.recording import choose_mode
from pwmray.wording import as_typed, number_of

# Options that this command gives to the driver, and what to do instead of giving them.
_OURS = {
    "--address": "the job starts a Ray of its own",
    "--trials-per-gpu": "the profile says trials_per_gpu",
    "--plan": "use --dry-run",
    "--format": "use --dry-run",
    "--devices": "use --dry-run",
}
_PATIENCE_SECONDS = 200  # that a driver waits, with its GPUs, for trials of others, maybe dead
_NUM_NAMED = 4  # of the nodes that are away


class Prepared(NamedTuple):
    """A job that could be submitted."""

    profile: Profile
    task: Task
    num_trials: int
    script: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 submitted, 2 bad input."""
    return run_command(lambda: _run(arguments, shlex.join(["python", *sys.argv])))


def _run(arguments: Sequence[str] | None, command: str) -> int:
    chosen, options = _parser().parse_known_args(arguments)
    _check_options(options)
    _check_order(chosen.experiment, options)
    experiment = load_experiment(chosen.experiment)
    check_run(chosen.experiment)
    asked, others = _choose_profiles(chosen)
    of_command = work.parser_of(experiment).parse_args(options)
    # The job inherits the environment, and would fail at once if these variables were wrong.
    choose_mode(of_command.wandb)
    notify.from_environment(experiment.name)
    options += _follow_profiles(of_command, asked, experiment.scales)
    if len(asked) == 1:  # each profile's trials run on its own nodes
        num_here = asked[0].num_devices(experiment.scales[of_command.scale])
        of_command.devices = chosen.jobs * num_here or None  # None: GPUs are counted, it has none
    wanted = work.make_work(experiment, of_command)
    if not wanted.to_run:
        print(wanted.summary)
        others = "all others" if wanted.num_unreadable else "all trials"
        print(f"nothing to run: {others} are done, or running")
        return TRIALS_FAILED if wanted.num_unreadable else 0
    wanted.check(len(asked) * chosen.jobs)
    asked = _check_fit(wanted, asked, others, chosen.again)
    prepared = [_prepare(wanted, profile, chosen, options, command) for profile in asked]
    _check_with_slurm(prepared)
    print(wanted.table if chosen.dry_run else wanted.summary)
    for each in prepared:
        number = number_of(each.num_trials, "trial")
        print(f"\nprofile {each.profile.name}, {number}:\n\n{each.script}")
    if chosen.dry_run:
        print("nothing was submitted or written; to submit, leave out --dry-run")
        return 0
    cluster = slurm.cluster_name()  # fails before there is a job that could not be recorded
    for each in prepared:
        _submit(wanted, each, cluster)
    watch = shlex.join(["pwmray", "watch", wanted.name, *give_results(wanted.results)])
    print(f"watch it: {as_typed(watch)}")
    return 0


def _follow_profiles(
    of_command: Namespace, asked: Sequence[Profile], scales: Mapping[str, Any]
) -> list[str]:
    """Choose what depends on the nodes where it is not said; return options to tell the driver."""
    shared = [profile.trials_per_gpu for profile in asked if profile.gpus]
    of_command.trials_per_gpu = max(shared, default=None)  # as trials were timed by earlier jobs
    if of_command.scale is not None:
        choose_scale(of_command.scale, scales)  # that it is one
        return []
    preferred = "paper" if shared else "laptop"  # not by the GPUs here, which a login node lacks
    of_command.scale = preferred if preferred in scales else choose_scale(None, scales)
    return ["--scale", of_command.scale]


def _check_fit(
    wanted: Work, asked: Sequence[Profile], others: Sequence[Profile], is_again: bool
) -> list[Profile]:
    """Return the profiles as the cluster takes them.

    Raises ValueError if the cluster lacks what they ask for, or they do not fit the work.
    """
    preflight.check_served(wanted.to_run, asked, others)
    user = slurm_jobs.user()
    partitions, associations = slurm.partitions(), slurm.associations(user)
    fitting = [preflight.check_profile(profile, partitions, associations) for profile in asked]
    for profile in fitting:
        if told := preflight.check_cpus(profile, wanted.to_run):
            print(f"note: {told}")
    if not is_again:
        _check_not_queued(wanted, asked, slurm.live_jobs(), user)
    return fitting


def _check_not_queued(
    wanted: Work, asked: Sequence[Profile], live: Mapping[str, str], user: str
) -> None:
    """Raise ValueError if a job of this sweep and profile already waits or runs.

    Another job would be safe, because a trial has one claim, but it is most often a mistake.
    """
    for before in submissions.read(wanted.results / wanted.name):
        if before.job_id in live and before.profile in {profile.name for profile in asked}:
            whose = live[before.job_id].strip()
            by = "" if whose == user else f" by {whose}"
            raise ValueError(
                f"job {before.job_id} of this sweep with profile {before.profile}, submitted "
                f"{before.time[:16].replace('T', ' ')}{by}, waits or runs; add --again for one "
                "more, which shares the trials with it"
            )


def _check_with_slurm(prepared: Sequence[Prepared]) -> None:
    for each in prepared:
        try:
            slurm.check_script(each.script)
        except SlurmError as error:
            profile = each.profile
            away = slurm.nodes_away(profile.partition) if slurm.NO_SUCH_NODES in str(error) else []
            if not away:
                raise ValueError(f"profile {profile.name}: Slurm refuses it: {error}") from None
            waits = f"the job waits for nodes: {_few(away)} away or reserved"
            print(f"note: profile {profile.name}: {waits}")


def _few(nodes: Sequence[str]) -> str:
    more = f" and {len(nodes) - _NUM_NAMED} more" if len(nodes) > _NUM_NAMED else ""
    return f"{', '.join(nodes[:_NUM_NAMED])}{more} {'is' if len(nodes) == 1 else 'are'}"


def _prepare(
    wanted: Work, profile: Profile, chosen: Namespace, options: Sequence[str], command: str
) -> Prepared:
    # The last one of a repeated option counts: users may give --patience, but none of what follows.
    patience = ["--patience", str(_PATIENCE_SECONDS)]
    driver = [str(chosen.experiment), *patience, *options, *wanted.options(profile)]
    folder = wanted.results / wanted.name / JOBS_FOLDER
    task = Task(wanted.name, driver, command, folder, Path.cwd(), chosen.jobs)
    num_trials = len(preflight.trials_of(profile, wanted.to_run))
    return Prepared(profile, task, num_trials, script.fill(profile, task))


def _submit(wanted: Work, prepared: Prepared, cluster: str) -> None:
    profile, task = prepared.profile, prepared.task
    folder = wanted.open(task.command)
    task.jobs_folder.mkdir(exist_ok=True)
    path = _write_script(task.jobs_folder, profile.name, prepared.script)
    submissions.check_writable(folder)
    try:
        job_id = slurm.submit(path)
    except SlurmError as error:
        raise ValueError(f"profile {profile.name}: {error}") from None
    log = str(task.log).replace("%j", job_id).replace("%A", job_id)
    submission = Submission(
        submissions.now(), job_id, task.num_jobs, cluster, profile.name,
        str(path), log, shlex.join(["python", *task.driver]), prepared.num_trials,
    )  # fmt: skip
    try:
        submissions.append(folder, submission)
        wanted.queue(profile, submission)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"job {job_id} was submitted, but not recorded: {error}; cancel it by scancel {job_id}"
        ) from error
    print(
        f"submitted job {job_id}: profile {profile.name}, "
        f"{number_of(prepared.num_trials, 'trial')}; log {log}"
    )


def _write_script(folder: Path, name: str, text: str) -> Path:
    """Write a script under the profile's next free number; return its path."""
    number = 1
    while True:
        path = folder / f"{name}-{number}.sbatch"
        try:
            with open(path, "x") as file:
                file.write(text)
        except FileExistsError:
            number += 1
        else:
            return path


def _choose_profiles(chosen: Namespace) -> tuple[list[Profile], list[Profile]]:
    """Return the profiles asked for, and the other ones of the file."""
    if not chosen.asked:
        raise ValueError("--profile is missing: the kind of node to run on, such as h100")
    available = profiles.load(chosen.profiles)
    found = []
    for name, nodes in chosen.asked:
        profile = profiles.choose(available, name, chosen.profiles)
        found.append(profile if nodes is None else dataclasses.replace(profile, nodes=nodes))
    names = [profile.name for profile in found]
    if len(set(names)) < len(names):
        raise ValueError("--profile names one twice; --jobs N submits N of it")
    return found, [profile for name, profile in available.items() if name not in names]


def _check_options(options: Sequence[str]) -> None:
    for option in options:
        name = option.partition("=")[0]
        if name in _OURS:
            raise ValueError(f"{name} is not for a job: {_OURS[name]}")


def _check_order(file: Path, options: Sequence[str]) -> None:
    """Raise ValueError if FILE is really the value of an option of the sweep's own."""
    behind = [option for option in options if Path(option).is_file()]
    if behind and not file.is_file():
        raise ValueError(
            f"no sweep file {file}; {options[0]} is an option of the sweep's own command, and "
            f"those follow its file: {behind[0]} {options[0]} {file}"
        )


class _Profile(argparse.Action):
    """Collect --profile NAME, each with the --nodes N that follows it."""

    def __call__(self, parser: Any, namespace: Namespace, value: Any, option: Any = None) -> None:
        if option == "--profile":
            namespace.asked = [*namespace.asked, (value, None)]
        elif not namespace.asked:
            parser.error("--nodes must follow the --profile that it is for")
        else:
            *before, (name, _) = namespace.asked
            namespace.asked = [*before, (name, value)]


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="cluster/submit.py", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("experiment", type=Path, metavar="FILE", help="the file of the sweep or search, in sweeps/")
    add("--profile", action=_Profile, dest="asked", default=[], metavar="NAME",
        help="the kind of node to ask Slurm for; repeated: a job on each")  # fmt: skip
    add("--nodes", action=_Profile, dest="asked", type=count, metavar="N",
        help="number of nodes of the --profile before it; default: the profile's own")  # fmt: skip
    add("--jobs", type=count, default=1, metavar="N",
        help="N of them per profile, as an array: each starts when it finds room")  # fmt: skip
    add("--profiles", type=Path, default=profiles.DEFAULT_FILE, metavar="FILE",
        help="file of profiles; default: cluster/profiles.toml")  # fmt: skip
    add("--dry-run", action="store_true", help="check and show everything; submit nothing")
    add("--again", action="store_true", help="submit even while a job of this sweep waits or runs")
    return parser


if __name__ == "__main__":
    quieten_dm_control()
    sys.exit(main())
