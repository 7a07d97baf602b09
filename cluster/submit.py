"""Submit a sweep to Slurm: check everything here, show the scripts, queue a job for each profile.

    python cluster/submit.py sweeps/phase6_epochs.py --profile h100 --profile h200 --nodes 2

Options of the sweep's own command, such as --scale or --tasks, are passed on to it.
"""

import argparse
import dataclasses
import getpass
import importlib.util
import os
import shlex
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cluster import preflight, profiles, script, slurm, submissions
from cluster.profiles import Profile
from cluster.script import Task
from cluster.slurm import SlurmError
from cluster.submissions import JOBS_FOLDER, Submission
from pwmray import plan as planning
from pwmray import prerequisites, tables
from pwmray.commands import CommandParser, nearest, run_command
from pwmray.data.layouts import COLLECTED
from pwmray.data.sources import imported_path
from pwmray.plan import Plan
from pwmray.plan_text import as_summary, as_table
from pwmray.sweep import Sweep
from pwmray.sweep_options import choose_scale, count, sweep_parser

# What the driver in a job is told by us.
_OURS = {
    "--address": "the job starts a Ray of its own",
    "--trials-per-gpu": "the profile says trials_per_gpu",
    "--plan": "use --dry-run",
    "--format": "use --dry-run",
    "--devices": "use --dry-run",
}
_PATIENCE_SECONDS = 200  # a driver keeps its GPUs so long for trials of others that may be dead
_NUM_NAMED = 4  # of nodes that are away


class Prepared(NamedTuple):
    """A job that could be submitted."""

    profile: Profile
    task: Task
    trials: list[planning.PlannedTrial]
    script: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 submitted, 2 bad input."""
    return run_command(lambda: _run(arguments, shlex.join(["python", *sys.argv])))


def _run(arguments: Sequence[str] | None, command: str) -> int:
    chosen, options = _parser().parse_known_args(arguments)
    _check_options(options)
    sweep = load_sweep(chosen.sweep)
    asked = _choose_profiles(chosen)
    of_sweep = sweep_parser(sweep.name, sweep.scales).parse_args(options)
    if of_sweep.scale is None:  # a login node has no GPU, the job has
        preferred = "paper" if any(profile.gpus for profile in asked) else "laptop"
        scale = preferred if preferred in sweep.scales else choose_scale(None, sweep.scales)
        of_sweep.scale, options = scale, [*options, "--scale", scale]
    plan = sweep.plan(of_sweep)
    if not plan.to_run:
        print(as_summary(plan))
        print("nothing to run: all trials are done, or running")
        return 0
    _check_plan(plan, of_sweep, len(asked) * chosen.jobs)
    _check_fit(plan, asked, chosen)
    types = of_sweep.gpu_types
    prepared = [_prepare(plan, profile, chosen, options, types, command) for profile in asked]
    _check_with_slurm(prepared)
    print(as_table(plan) if chosen.dry_run else as_summary(plan))
    for each in prepared:
        print(f"\nprofile {each.profile.name}, {len(each.trials)} trials:\n\n{each.script}")
    if chosen.dry_run:
        print("nothing was submitted or written: leave --dry-run away")
        return 0
    cluster = slurm.cluster_name()  # before there is a job that could not be recorded
    for each in prepared:
        _submit(plan, each, command, cluster)
    print(f"watch it: pwmray watch {sweep.name}")
    return 0


def load_sweep(path: Path) -> Sweep:
    """Return the sweep of a file in sweeps/; raise ValueError for a file that has none."""
    if not path.is_file():
        files = sorted(map(str, path.parent.glob("[!_.]*.py")))
        known = f"; valid: {', '.join(files)}" if files else ""
        raise ValueError(f"no sweep's file {path}{nearest(str(path), files)}{known}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = [value for value in vars(module).values() if isinstance(value, Sweep)]
    if not found:
        raise ValueError(
            f"{path} defines no Sweep: this submits sweeps, no searches and no pretrainings"
        )
    return found[0]


def _check_plan(plan: Plan, chosen: Namespace, num_jobs: int) -> None:
    """Raise ValueError for what would only fail in the job: data, world models, room."""
    for trial in plan.to_run:
        if trial.config.data.source != COLLECTED:  # what is collected, the job itself collects
            imported_path(trial.config.task, trial.config.data.source, chosen.data.resolve())
    if not chosen.pretrain:
        prerequisites.check_made(plan.prerequisites)
    elif num_jobs > 1:
        raise ValueError("--pretrain is for one job: the others would wait for it")
    planning.check_disk(plan)


def _check_fit(plan: Plan, asked: Sequence[Profile], chosen: Namespace) -> None:
    """Raise ValueError unless the cluster has what the profiles ask for, and they fit the plan."""
    available = profiles.load(chosen.profiles)
    others = [p for p in available.values() if p.name not in {a.name for a in asked}]
    preflight.check_served(plan, asked, others)
    user = getpass.getuser()
    partitions, associations = slurm.partitions(), slurm.associations(user)
    for profile in asked:
        preflight.check_profile(profile, partitions, associations)
        if told := preflight.check_cpus(profile, plan):
            print(f"note: {told}")
    if not chosen.again:
        _check_not_queued(plan, asked, slurm.live_jobs(user))


def _check_not_queued(plan: Plan, asked: Sequence[Profile], live: set[str]) -> None:
    """Raise ValueError if a job of this sweep and profile waits or runs.

    Another one would be safe, for a trial has one claim, but is most often a mistake.
    """
    for before in submissions.read(plan.results / plan.sweep.name):
        if before.job_id in live and before.profile in {profile.name for profile in asked}:
            raise ValueError(
                f"job {before.job_id} of this sweep with profile {before.profile}, submitted "
                f"{before.time[:16].replace('T', ' ')}, waits or runs; add --again for one more, "
                "which shares the trials with it"
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
            print(f"note: profile {profile.name}: the job waits for nodes: {_few(away)} away now")


def _few(nodes: Sequence[str]) -> str:
    more = f" and {len(nodes) - _NUM_NAMED} more" if len(nodes) > _NUM_NAMED else ""
    return f"{', '.join(nodes[:_NUM_NAMED])}{more} {'is' if len(nodes) == 1 else 'are'}"


def _prepare(
    plan: Plan,
    profile: Profile,
    chosen: Namespace,
    options: Sequence[str],
    gpu_types: Sequence[str] | None,
    command: str,
) -> Prepared:
    # Of an option given twice the last one counts: the patience is the user's, the types ours.
    driver = [str(chosen.sweep), "--patience", str(_PATIENCE_SECONDS), *options]
    if not profile.serves_all:
        driver += ["--gpu-types", _served(profile, gpu_types)]
    if profile.gpus:
        driver += ["--trials-per-gpu", str(profile.trials_per_gpu)]
    folder = plan.results / plan.sweep.name / JOBS_FOLDER
    task = Task(plan.sweep.name, driver, command, folder, Path.cwd(), chosen.jobs)
    trials = preflight.trials_of(profile, plan)
    return Prepared(profile, task, trials, script.fill(profile, task))


def _served(profile: Profile, gpu_types: Sequence[str] | None) -> str:
    """Return which of the chosen types of GPU a profile's job serves; "": what asks for none."""
    return profile.gpu_type if gpu_types is None or profile.gpu_type in gpu_types else ""


def _submit(plan: Plan, prepared: Prepared, command: str, cluster: str) -> None:
    profile, task = prepared.profile, prepared.task
    sweep_folder = tables.open_sweep(plan, command)
    task.jobs_folder.mkdir(exist_ok=True)
    path = _write_script(task.jobs_folder, profile.name, prepared.script)
    submissions.check_writable(sweep_folder)
    job_id = slurm.submit(path)
    log = str(task.log).replace("%j", job_id).replace("%A", job_id)
    submission = Submission(
        submissions.now(), job_id, task.num_jobs, cluster, profile.name,
        str(path), log, shlex.join(["python", *task.driver]), len(prepared.trials),
    )  # fmt: skip
    try:
        submissions.append(sweep_folder, submission)
        submissions.queue(plan.results, prepared.trials, submission)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"job {job_id} was submitted, but not recorded: {error}; cancel it by scancel {job_id}"
        ) from error
    print(
        f"submitted job {job_id}: profile {profile.name}, {len(prepared.trials)} trials; log {log}"
    )


def _write_script(folder: Path, name: str, text: str) -> Path:
    """Write a script under the profile's next free number."""
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


def _choose_profiles(chosen: Namespace) -> list[Profile]:
    if not chosen.asked:
        raise ValueError("--profile is missing: which of the cluster's nodes, such as h100")
    available = profiles.load(chosen.profiles)
    found = []
    for name, nodes in chosen.asked:
        profile = profiles.choose(available, name, chosen.profiles)
        found.append(profile if nodes is None else dataclasses.replace(profile, nodes=nodes))
    names = [profile.name for profile in found]
    if len(set(names)) < len(names):
        raise ValueError("--profile gives one twice; --jobs N submits N alike")
    return found


def _check_options(options: Sequence[str]) -> None:
    for name in _names(options):
        if name in _OURS:
            raise ValueError(f"{name} is not for a job: {_OURS[name]}")


def _names(options: Sequence[str]) -> list[str]:
    return [option.partition("=")[0] for option in options if option.startswith("--")]


class _Profile(argparse.Action):
    """Collect --profile NAME, each with the --nodes N that follows it."""

    def __call__(self, parser: Any, namespace: Namespace, value: Any, option: Any = None) -> None:
        if option == "--profile":
            namespace.asked = [*namespace.asked, (value, None)]
        elif not namespace.asked:
            parser.error("--nodes stands before the --profile that it is for")
        else:
            *before, (name, _) = namespace.asked
            namespace.asked = [*before, (name, value)]


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="cluster/submit.py", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("sweep", type=Path, metavar="SWEEP", help="a file in sweeps/")
    add("--profile", action=_Profile, dest="asked", default=[], metavar="NAME",
        help="what to ask of Slurm; several: a job for each")  # fmt: skip
    add("--nodes", action=_Profile, dest="asked", type=count, metavar="N",
        help="of the --profile before it, in place of the profile's own number")  # fmt: skip
    add("--jobs", type=count, default=1, metavar="N",
        help="alike of each profile, as an array: each starts when it finds room")  # fmt: skip
    add("--profiles", type=Path, default=profiles.DEFAULT_FILE, metavar="FILE",
        help="default: cluster/profiles.toml")  # fmt: skip
    add("--dry-run", action="store_true", help="check and show everything, submit nothing")
    add("--again", action="store_true", help="also where a job of this sweep waits or runs")
    return parser


if __name__ == "__main__":
    os.environ.setdefault("MUJOCO_GL", "disable")
    sys.exit(main())
