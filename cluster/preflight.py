"""Checks before anything is queued: whether a profile fits the cluster, and the trials."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from cluster import slurm
from cluster.profiles import UNTYPED, Profile
from cluster.slurm import ALL, Association, NodeKind, Partition
from pwmray.config import TrialConfig
from pwmray.wording import number_of, unknown


def check_profile(
    profile: Profile,
    partitions: Mapping[str, Partition],
    associations: Sequence[Association] | None,
) -> Profile:
    """Return the profile as this cluster takes it; raise ValueError for what the cluster lacks.

    `associations` are the accounts that the user may charge, None without an accounting database.
    The profile returned names no GPU type to Slurm if the partition's GPUs have no type.
    """
    try:
        partition = _find_partition(profile, partitions)
        if partition.gpu_types == [""]:
            profile = dataclasses.replace(profile, slurm_gpu=UNTYPED)
        _check_account(profile, partition, associations)
        _check_qos(profile, partition, associations)
        _check_nodes(profile, partition)
        _check_time(profile, partition)
    except ValueError as error:
        raise ValueError(f"profile {profile.name}: {error}") from None
    return profile


def trials_of(profile: Profile, trials: Iterable[TrialConfig]) -> list[TrialConfig]:
    """Return the trials that a profile's GPUs serve."""
    return [trial for trial in trials if profile.serves(trial.runtime.gpu_type)]


def check_served(
    trials: Sequence[TrialConfig], chosen: Sequence[Profile], others: Iterable[Profile]
) -> None:
    """Raise ValueError unless every trial has a profile that serves it, and each profile a trial.

    `others` are the profiles of the file that were not chosen: the message names one that fits.
    """
    asked = Counter(trial.runtime.gpu_type for trial in trials)
    left = [(n, name) for name, n in asked.items() if not any(p.serves(name) for p in chosen)]
    if left:
        number, gpu_type = max(left, key=lambda pair: pair[0])
        fitting = [p.name for p in others if p.gpu_type == gpu_type]
        add = f"add --profile {fitting[0]}" if fitting else "no profile of the file has one"
        have = ",".join(dict.fromkeys(profile.gpu_type for profile in chosen))
        raise ValueError(
            f"{number_of(number, 'trial')} {'asks' if number == 1 else 'ask'} for an {gpu_type}, "
            f"which none of the profiles {', '.join(p.name for p in chosen)} has; {add}, or "
            f"--gpu-types {have} to go without them"
        )
    for profile in chosen:
        if not trials_of(profile, trials):
            raise ValueError(f"profile {profile.name}: no trial to run asks for its GPUs")


def check_cpus(profile: Profile, trials: Sequence[TrialConfig]) -> str:
    """Return a line if GPUs would be idle for want of CPUs, else an empty one.

    Raises ValueError if a node has too few CPUs for a single trial.
    """
    needed = max(trial.runtime.num_cpus for trial in trials_of(profile, trials))
    if needed > profile.cpus:
        raise ValueError(
            f"profile {profile.name}: cpus is {profile.cpus}, but a trial takes {needed}"
        )
    side_by_side = profile.gpus * profile.trials_per_gpu
    if needed * side_by_side <= profile.cpus:
        return ""
    return (
        f"profile {profile.name}: {profile.cpus} CPUs are enough for {profile.cpus // needed} of "
        f"the {side_by_side} trials that its GPUs take side by side"
    )


def _find_partition(profile: Profile, partitions: Mapping[str, Partition]) -> Partition:
    default = next((name for name, found in partitions.items() if found.is_default), "")
    name = profile.partition or default
    if not name:
        raise ValueError(
            f"partition is not set, and the cluster has no default: {', '.join(partitions)}"
        )
    if name not in partitions:
        raise ValueError(unknown("partition", name, partitions))
    partition = partitions[name]
    if partition.state != "UP":
        raise ValueError(f"partition {name} is {partition.state}")
    return partition


def _check_account(
    profile: Profile, partition: Partition, associations: Sequence[Association] | None
) -> None:
    account = profile.account.lower()  # as Slurm takes it, and keeps it
    if not account:
        return
    if associations is not None:
        mine = {a.account for a in associations if a.partition in ("", partition.name)}
        if account not in mine:
            raise ValueError(unknown("account", profile.account, sorted(mine)))
    if partition.accounts != (ALL,):
        if not _is_admitted(account, partition, associations is not None):
            raise ValueError(
                f"account {account!r} may not use partition {partition.name}; "
                f"valid: {', '.join(partition.accounts)}"
            )
    elif account in map(str.lower, partition.denied_accounts):
        raise ValueError(f"account {account!r} may not use partition {partition.name}")


def _is_admitted(account: str, partition: Partition, has_database: bool) -> bool:
    """Tell whether a partition admits an account, or may: Slurm decides where nobody else can.

    From Slurm 23.02 on an account in the partition's list stands for all that are part of it.
    """
    admitted = {name.lower() for name in partition.accounts}
    if account in admitted or not has_database:
        return account in admitted
    above = [account, *slurm.accounts_above(account, slurm.cluster_name())]
    return slurm.ROOT not in above or not admitted.isdisjoint(above)


def _check_qos(
    profile: Profile, partition: Partition, associations: Sequence[Association] | None
) -> None:
    qos, of = profile.qos.lower(), profile.account.lower()
    if not qos:
        return
    if associations is not None:
        of_account = [a for a in associations if of in ("", a.account)]
        mine = {name for a in of_account for name in a.qos}
        if qos not in mine:
            raise ValueError(unknown("qos", profile.qos, sorted(mine)))
    if partition.qos != (ALL,):
        if qos not in map(str.lower, partition.qos):
            raise ValueError(
                f"qos {qos!r} may not be used in partition {partition.name}; "
                f"valid: {', '.join(partition.qos)}"
            )
    elif qos in map(str.lower, partition.denied_qos):
        raise ValueError(f"qos {qos!r} may not be used in partition {partition.name}")


def _check_nodes(profile: Profile, partition: Partition) -> None:
    kinds = [kind for kind in partition.kinds if _gpus_in(kind, profile) >= profile.gpus]
    if not kinds:
        raise ValueError(_describe_missing_gpus(profile, partition))
    for name, asked, most in (
        ("cpus", profile.cpus, max(kind.cpus for kind in kinds)),
        ("memory_gb", profile.memory_gb, max(kind.memory_mb for kind in kinds) // 1024),
        ("nodes", profile.nodes, sum(kind.number for kind in kinds)),
    ):
        if asked > most:
            what = f" with {profile.gres}" if profile.gpus else ""
            raise ValueError(
                f"{name} is {asked}, but partition {partition.name} has at most {most}{what}"
            )
    if partition.max_nodes is not None and profile.nodes > partition.max_nodes:
        raise ValueError(
            f"nodes is {profile.nodes}; partition {partition.name} allows a job "
            f"{partition.max_nodes}"
        )


def _gpus_in(kind: NodeKind, profile: Profile) -> int:
    """Return how many GPUs of the profile's type a node of this kind has."""
    wanted = slurm.gpu_type(profile.gres)
    return kind.gpus.get(wanted, 0) if wanted else sum(kind.gpus.values())


def _describe_missing_gpus(profile: Profile, partition: Partition) -> str:
    if not partition.gpu_types:
        return f"gpus is {profile.gpus}, but no node of partition {partition.name} has one"
    wanted = slurm.gpu_type(profile.gres)
    if wanted and wanted not in partition.gpu_types:
        told = unknown("type of GPU", wanted, filter(None, partition.gpu_types))
        return f"{told} (in partition {partition.name}, as Slurm calls them: slurm_gpu)"
    most = max(_gpus_in(kind, profile) for kind in partition.kinds)
    return f"gpus is {profile.gpus}, but nodes of partition {partition.name} have at most {most}"


def _check_time(profile: Profile, partition: Partition) -> None:
    asked, most = slurm.read_seconds(profile.time_limit), partition.limit_seconds
    if most is not None and (asked is None or asked > most):
        raise ValueError(
            f"time_limit is {profile.time_limit}; partition {partition.name} allows "
            f"{most // 3600}:{most // 60 % 60:02}:{most % 60:02}"
        )
