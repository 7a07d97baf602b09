"""Write stores as a folder of chunks, which TD-MPC2's own code loads: the inverse of importing."""

import errno
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from pwmray.commands import Progress
from pwmray.data.layouts import LAYOUTS, Layout
from pwmray.data.one_writer import claimed
from pwmray.data.store import Store
from pwmray.data.survey import EXPORT_LIST
from pwmray.files import draft_path, remove_drafts, replacing
from pwmray.pickles import save_tensor_dict
from pwmray.room import check_room
from pwmray.tasks import find_task
from pwmray.wording import first_line

_CHUNK_EPISODES = 8192  # 0.5 GB of MT30


def export_stores(stores: Sequence[Store], out: Path, progress: Progress) -> list[str]:
    """Write every episode of `stores`, in order, into the new folder `out`; return chunk names.

    Action and reward of each first row mean nothing and are NaN; padding is 0. The chunks' format
    has no place for who acted and for how the data was made; these are in a list beside the chunks.
    Raises ValueError for episodes of a length that no published dataset has, and if the folder
    exists or another process is making it.
    """
    layout = _layout(stores)
    _check_absent(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with claimed(out.with_name(f".{out.name}.claim"), f"exports to {out}"):
        _check_absent(out)
        remove_drafts(out)
        row_bytes = 4 * (layout.obs_dim + layout.action_dim + 1) + 8
        check_room("the export", sum(s.num_rows for s in stores) * row_bytes, out.parent)
        return _export(stores, layout, out, progress)


def _check_absent(out: Path) -> None:
    if out.exists():
        raise ValueError(f"{out} exists; name a folder that does not")


def _export(stores: Sequence[Store], layout: Layout, out: Path, progress: Progress) -> list[str]:
    draft = draft_path(out)
    draft.mkdir()
    try:
        names = _write_chunks(stores, layout, draft, progress)
        content = {"layout": layout.name, "chunks": names, **_origins(stores, names)}
        (draft / EXPORT_LIST).write_text(json.dumps(content))
        draft.rename(out)
    except RuntimeError as error:  # as torch reports a full disk
        reason = first_line(error)
        raise ValueError(f"cannot write to {out.parent}: is its disk full? ({reason})") from error
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        raise ValueError(f"{out} was made meanwhile; name a folder that does not exist") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return names


def _origins(stores: Sequence[Store], names: list[str]) -> dict[str, dict]:
    """Return who acted in each chunk's episodes, and each task's recipe."""
    behaviours = {
        name: [acted for store, start, stop in parts for acted in store.behaviours[start:stop]]
        for name, parts in zip(names, _parts(stores), strict=True)
    }
    by_task: dict[str, list[dict]] = {}
    for store in stores:
        recipes = by_task.setdefault(store.task, [])
        if store.recipe not in recipes:
            recipes.append(store.recipe)
    recipes = {task: r[0] if len(r) == 1 else {"parts": r} for task, r in by_task.items()}
    return {"behaviours": behaviours, "recipes": recipes}


def _write_chunks(
    stores: Sequence[Store], layout: Layout, folder: Path, progress: Progress
) -> list[str]:
    num_all, done, names = sum(store.num_episodes for store in stores), 0, []
    for number, parts in enumerate(_parts(stores)):
        progress("writing chunks", done * layout.num_rows, num_all * layout.num_rows)
        names.append(f"chunk_{number}.pt")
        with replacing(folder / names[-1]) as path:
            save_tensor_dict(path, _padded(parts, layout))
        done += sum(stop - start for _, start, stop in parts)
    return names


def _parts(stores: Sequence[Store]) -> Iterator[list[tuple[Store, int, int]]]:
    """Yield the episodes of each chunk, as (store, start, stop)."""
    parts, room = [], _CHUNK_EPISODES
    for store in stores:
        start = 0
        while start < store.num_episodes:
            stop = min(start + room, store.num_episodes)
            parts.append((store, start, stop))
            room, start = room - (stop - start), stop
            if not room:
                yield parts
                parts, room = [], _CHUNK_EPISODES
    if parts:
        yield parts


def _padded(parts: list[tuple[Store, int, int]], layout: Layout) -> dict[str, torch.Tensor]:
    """Return the padded episodes of one chunk, [E, T, ...], by field."""
    shape = (sum(stop - start for _, start, stop in parts), layout.num_rows)
    obs = np.zeros((*shape, layout.obs_dim), np.float32)
    action = np.zeros((*shape, layout.action_dim), np.float32)
    reward, task = np.zeros(shape, np.float32), np.zeros(shape, np.int64)
    first = 0
    for store, start, stop in parts:
        here, rows = slice(first, first + stop - start), slice(start, stop)
        for padded, values in ((obs, store.obs), (action, store.action)):
            padded[here, :, : values.shape[1]] = _episodes(values, layout)[rows]
        reward[here] = _episodes(store.reward, layout)[rows]
        task[here] = find_task(store.task).index
        first = here.stop
    arrays = {"obs": obs, "action": action, "reward": reward, "task": task}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _episodes(rows: np.ndarray, layout: Layout) -> np.ndarray:
    return rows.reshape(-1, layout.num_rows, *rows.shape[1:])


def _layout(stores: Sequence[Store]) -> Layout:
    lengths = {int(length) for store in stores for length in np.unique(store.episode_lengths)}
    for layout in LAYOUTS.values():
        if lengths == {layout.num_rows}:
            return layout
    valid = " or ".join(f"{layout.num_rows} ({layout.name})" for layout in LAYOUTS.values())
    raise ValueError(f"episodes of {sorted(lengths)} rows; chunks have one length: {valid}")
