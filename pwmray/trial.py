"""One trial, from wherever it stands to its last evaluation, whoever runs it.

The trial owns its folder while it runs: its claim, events, curve and checkpoint. It resumes from
its own last checkpoint and then reports the curve that it would have reported uninterrupted.
"""

import contextlib
import functools
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from pwmray import learner_code, provenance, registry, results
from pwmray.algorithm import checkpoint
from pwmray.algorithm.epoch import Epoch, make_epoch
from pwmray.algorithm.evaluate import (
    TRAINING_GROUP,
    Actor,
    Episodes,
    LockstepEnvironments,
    evaluate,
    policy_actor,
)
from pwmray.build import build_learner, build_planner, num_parameters
from pwmray.config import TrialConfig
from pwmray.data.sampler import WindowSampler, draw_episodes
from pwmray.data.store import Store, observation_statistics, open_store
from pwmray.devices import set_up_torch
from pwmray.divergence import check_finite, check_state
from pwmray.files import see_afresh
from pwmray.formats import OtherCodeError
from pwmray.hold import Hold, RunningElsewhereError
from pwmray.pretraining.pretrained import (
    check_unchanged,
    known_tasks,
    load_pretrained,
    world_model_id,
    world_model_training,
)
from pwmray.registry import BEST_FILE, CHECKPOINT_FILE, CURVE_FILE, EVALUATIONS_FILE, Status
from pwmray.room import link_or_copy
from pwmray.seeding import generator
from pwmray.tasks import find_task
from pwmray.tensorboard_file import write_events

log = logging.getLogger(__name__)

MakeEnvironments = Callable[[str, int], LockstepEnvironments]  # task, number of episodes


class Trial:
    """A claimed trial: call `advance` until `is_finished`, then `close`.

    Raises RunningElsewhereError when another process has it or has ended it, and ValueError where
    its world model's file has changed since the plan, in which the trial's was `fingerprint`.
    """

    def __init__(
        self,
        config: TrialConfig,
        folder: Path,
        data_path: Path,
        make_environments: MakeEnvironments,
        device: torch.device,
        fingerprint: str | None = None,
    ):
        self.config, self.folder, self._device = config, folder, device
        self._planned = fingerprint
        self._make_environments = make_environments
        self._hold = Hold(folder, config.runtime)
        try:
            with self._hold.watchdog:
                self._open(data_path)
        except BaseException:
            self._hold.close()
            raise

    @property
    def is_finished(self) -> bool:
        """Whether its last checkpoint was evaluated."""
        return self.status is Status.EVALUATED

    def advance(self) -> dict[str, Any]:
        """Do the next piece, the epochs up to a curve row or the final evaluation; return its row.

        Where the disk is full it waits for room. A piece that fails records FAILED with its reason,
        its class and its traceback, and raises. A trial that stalled for so long that another
        process took it over writes nothing more and raises RunningElsewhereError.
        """
        self._hold.check()
        try:
            with self._hold.watchdog:
                if self.epoch < self.config.epochs:
                    return self._train_to_next_row()
                return self._evaluate_finally()
        except Exception as error:
            self._record_failure(error)
            raise

    def close(self) -> None:
        """Save what the last checkpoint lacks, and release the trial for others to go on with."""
        is_new = self.status is Status.RUNNING and self.epoch > self._saved_epoch
        try:
            # Only at a row: between two there are epochs that the curve lacks.
            if is_new and self._rows and self._rows[-1]["epoch"] == self.epoch:
                with contextlib.suppress(RunningElsewhereError), self._hold.watchdog:
                    self._save()
        finally:
            self._hold.close()

    def _open(self, data_path: Path) -> None:
        try:
            set_up_torch(self._device, self.config.runtime.num_cpus, self.config.learner.matmul)
            store = open_store(data_path, task=self.config.task)
            self._start_afresh(store)
            began_again = self._drop_other_data(store)
            self._resume(store)
            self._sampler = self._build_sampler(store)
            self._run_epoch = self._make_epoch()
        except Exception as error:
            self._record_failure(error)
            raise
        self._saved_at, self._saved_epoch = time.monotonic(), self.epoch
        self._record(
            Status.RUNNING,
            epoch=self.epoch,
            data_fingerprint=store.fingerprint,
            world_model_id=world_model_id(self.config),
            world_model_training=world_model_training(self.config),
            device=self._device_name(),
            kernels=self._run_epoch.kernels,
            cuda_graph=self._run_epoch.cuda_graph,
            **began_again,
            **self._sizes(),
            **learner_code.describe(**learner_code.kinds_of(self.config)),
            **provenance.process(),
        )
        begun = registry.read(self.folder).first_time_of(Status.RUNNING)
        assert begun is not None
        self._begun = begun.timestamp()

    def _start_afresh(self, store: Store) -> None:
        seed, device = self.config.seed, self._device
        self.learner = build_learner(self.config)
        if self.config.is_pretrained:
            if self._planned is not None:
                check_unchanged(self.config, self._planned)
            load_pretrained(self.learner.world_model, self.config)
        elif self.config.world_model.standardize:
            wrap = self.config.world_model.wrap_angles
            mean, std = map(torch.from_numpy, observation_statistics(store, wrap))
            self.learner.world_model.set_observation_scale(mean, std)
        self.learner.to(device)
        self._generators = {name: generator(seed, name, device) for name in ("windows", "noise")}
        self.epoch, self.train_seconds, self._evaluation_seconds = 0, 0.0, 0.0
        self._rows: list[dict[str, Any]] = []

    def _drop_other_data(self, store: Store) -> dict[str, str]:
        """Delete what was trained on other data than the store's; return what to record of that.

        Half of a curve on one and half on other data would be a trial of neither.
        """
        before = registry.read(self.folder).last("data_fingerprint")
        if before in (None, store.fingerprint) or not (self.folder / CHECKPOINT_FILE).exists():
            return {}
        said = f"its data changed from {before} to {store.fingerprint}"
        log.warning("trial=%s starts again at epoch 0: %s", self.folder.name, said)
        # The checkpoint first: without it a trial starts afresh whatever else is there.
        for name in (CHECKPOINT_FILE, BEST_FILE, CURVE_FILE):
            self._hold.write(functools.partial((self.folder / name).unlink, missing_ok=True))
        return {"began_again": said}

    def _resume(self, store: Store) -> None:
        """Resume from the last checkpoint and the curve up to it, where there is one.

        A damaged file counts as none. One of other code raises ValueError, and one that the
        system does not let this process read OSError: a trial that starts again would replace it.
        """
        path = self.folder / CHECKPOINT_FILE
        for name in (CHECKPOINT_FILE, CURVE_FILE):  # both as the last process left them
            see_afresh(self.folder / name)
        if not path.exists():
            return
        try:
            progress = checkpoint.load(path, self.learner, self._generators, self._device)
            rows = results.read_table(self.folder / CURVE_FILE).to_pylist()
            last, reached = max((r["epoch"] for r in rows), default=0), progress["epochs_reached"]
            if last < reached:  # of two moments: copied while the trial ran
                raise ValueError(f"its curve ends at epoch {last}, its checkpoint is of {reached}")
        except OtherCodeError as error:
            raise ValueError(f"{error}; delete it to begin again") from error
        except (ValueError, FileNotFoundError) as error:
            log.warning("trial=%s starts again at epoch 0: %s", self.folder.name, error)
            self._start_afresh(store)
            return
        self.epoch = progress["epochs_reached"]
        self.train_seconds = progress["train_seconds"]
        self._evaluation_seconds = progress["evaluation_seconds"]
        self._rows = [row for row in rows if row["epoch"] <= self.epoch]
        if self._is_best():  # killed between writing it and keeping it as the best
            self._keep_best()

    def _build_sampler(self, store: Store) -> WindowSampler:
        config = self.config
        episodes = draw_episodes(
            store,
            config.learner.wm_buffer_size,
            with_replacement=not config.fidelity.every_episode_once,
            generator=generator(config.seed, "episodes"),
        )
        return WindowSampler(
            store,
            self.learner.window_horizon,
            self._device,
            self._generators["windows"],
            episodes,
            wrap_angles=config.world_model.wrap_angles,
        )

    def _make_epoch(self) -> Epoch:
        runtime, noise = self.config.runtime, self._generators["noise"]
        return make_epoch(self.learner, self._sampler, noise, runtime.compile, runtime.cuda_graph)

    def _train_to_next_row(self) -> dict[str, Any]:
        every = self.config.evaluation.every_epochs
        stop = min((self.epoch // every + 1) * every, self.config.epochs)
        started = time.perf_counter()
        metrics = self._train(stop)
        check_state(self.learner, self.epoch)
        self.train_seconds += time.perf_counter() - started
        policy = policy_actor(self.learner.act, TRAINING_GROUP)
        episodes = self._evaluate(self.config.evaluation.training_seeds, policy)
        returns = episodes.returns
        row = {
            "trial": self.folder.name,
            "epoch": self.epoch,
            "seconds": self.train_seconds,
            "return_mean": float(returns.mean()),
            "return_min": float(returns.min()),
            "return_max": float(returns.max()),
            **self._expectations(episodes),
        }
        check_finite(row, self.epoch)
        row |= metrics
        self._rows.append(row)
        path = self.folder / CURVE_FILE
        self._hold.write(lambda: results.write_rows(path, self._rows, results.CURVE))
        self._hold.write(lambda: write_events(self.folder, self._rows, "epoch", self._begun))
        is_last, is_best = self.epoch == self.config.epochs, self._is_best()
        is_time = time.monotonic() - self._saved_at >= self.config.runtime.checkpoint_seconds
        if is_last or is_best or is_time:
            self._save()
        if is_best:
            self._keep_best()
        if is_last:
            self._record(Status.COMPLETED, **self._progress())
        return row

    def _train(self, stop: int) -> dict[str, float]:
        """Train to the epoch `stop`; return the last epoch's metrics, all of them finite."""
        history: list[dict[str, torch.Tensor]] = []
        while self.epoch < stop:
            self._hold.watchdog.beat()
            history.append(self._run_epoch(self.epoch / self.config.epochs))
            self.epoch += 1
        names = list(history[-1])
        # The device is waited for once, here.
        values = torch.stack([torch.stack([m[name] for name in names]) for m in history]).tolist()
        for epoch, row in enumerate(values, start=stop - len(values) + 1):
            check_finite(dict(zip(names, row, strict=True)), epoch)
        return dict(zip(names, values[-1], strict=True))

    def _evaluate_finally(self) -> dict[str, Any]:
        if self.status is not Status.COMPLETED:  # a killed evaluation, resumed
            self._record(Status.COMPLETED, **self._progress())
        evaluation = self.config.evaluation
        episodes = self._evaluate(evaluation.final_seeds, policy_actor(self.learner.act))
        rows = self._episode_rows(results.POLICY, evaluation.final_seeds, episodes)
        final = {"return_mean": float(episodes.returns.mean()), **self._expectations(episodes)}
        if evaluation.plan_episodes:
            planner = build_planner(self.config, self.learner)
            planned = self._evaluate(evaluation.plan_seeds, planner)
            rows += self._episode_rows(results.PLANNER, evaluation.plan_seeds, planned)
            final["plan_return_mean"] = float(planned.returns.mean())
        check_finite(final, self.epoch)
        path = self.folder / EVALUATIONS_FILE
        self._hold.write(lambda: results.write_rows(path, rows, results.EVALUATIONS))
        self._record(Status.EVALUATED, **final, **self._progress())
        return {"epoch": self.epoch, **final}

    def _episode_rows(self, actor: str, seeds: Sequence[int], episodes: Episodes) -> list[dict]:
        trial = {"trial": self.folder.name, "actor": actor}
        return [
            {**trial, "episode": i, "seed": seed, "return": r, "length": n}
            for i, (seed, r, n) in enumerate(
                zip(seeds, episodes.returns, episodes.lengths, strict=True)
            )
        ]

    def _evaluate(self, seeds: Sequence[int], actor: Actor) -> Episodes:
        """Run `actor` for one episode per seed."""
        started = time.perf_counter()
        task = self.config.task
        environments = self._make_environments(task, len(seeds))
        action_dim = find_task(task).action_dim
        discount = self.config.learner.discount
        episodes = evaluate(
            actor,
            environments,
            seeds,
            action_dim,
            self._device,
            discount,
            on_step=lambda _: self._hold.watchdog.beat(),
        )
        self._evaluation_seconds += time.perf_counter() - started
        return episodes

    def _expectations(self, episodes: Episodes) -> dict[str, float]:
        """Compare what the learner imagines at the episodes' starts with what it then got."""
        imagined = self.learner.predict_return(episodes.first_obs)
        return {
            "imagined_start_value": float(imagined.mean()),
            "real_start_value": float(episodes.discounted.mean()),
        }

    def _progress(self) -> dict[str, Any]:
        progress: dict[str, Any] = {
            "epochs_reached": self.epoch,
            "train_seconds": self.train_seconds,
            "evaluation_seconds": self._evaluation_seconds,
        }
        if self._device.type == "cuda":
            progress["peak_gpu_mib"] = torch.cuda.max_memory_reserved(self._device) / 2**20
        return progress

    def _is_best(self) -> bool:
        """Tell whether the newest row's return is above all before it."""
        returns = [row["return_mean"] for row in self._rows]
        return (
            bool(returns)
            and self._rows[-1]["epoch"] == self.epoch
            and (len(returns) == 1 or returns[-1] > max(returns[:-1]))
        )

    def _keep_best(self) -> None:
        """Keep the checkpoint just written as the best: a second name for the file, if possible."""
        source, target = self.folder / CHECKPOINT_FILE, self.folder / BEST_FILE
        self._hold.write(lambda: link_or_copy(source, target))

    def _save(self) -> None:
        path = self.folder / CHECKPOINT_FILE
        about = {"config": self.config.to_dict(), "tasks": list(known_tasks(self.config))}
        state = (about, self.learner, self._generators, self._progress())
        self._hold.write(lambda: checkpoint.save(path, *state))
        self._saved_at, self._saved_epoch = time.monotonic(), self.epoch

    def _record(self, status: Status, **fields: Any) -> None:
        self._hold.write(lambda: registry.record(self.folder, status, **fields))
        self.status = status

    def _record_failure(self, error: Exception) -> None:
        if self._hold.record_failure(error, getattr(self, "epoch", 0)):
            self.status = Status.FAILED

    def _sizes(self) -> dict[str, int]:
        learner = self.learner
        return {
            "world_model_parameters": num_parameters(learner.world_model),
            "policy_parameters": num_parameters(learner.policy),
            "critic_parameters": num_parameters(learner.critics),
            "velocity_calls": learner.world_model.num_calls + learner.policy.num_calls,
        }

    def _device_name(self) -> str:
        is_gpu = self._device.type == "cuda"
        return torch.cuda.get_device_name(self._device) if is_gpu else "cpu"
