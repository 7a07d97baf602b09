"""Windows of episodes: which there are, how they are drawn, and where their rows lie."""

import logging

import numpy as np
import pytest
import torch
from scipy import stats

from pwmray.data.multitask import MultitaskSampler
from pwmray.data.rows import MappedRows, PackedRows, place_rows
from pwmray.data.sampler import WindowSampler
from pwmray.data.store import open_store, write_store
from tests.model_inputs import stream
from tests.stores import first_rows, write_rows

CPU = torch.device("cpu")
PLACES = ["memory", "map"]
ROWS_BYTES = 4 * 12 * (1 + 6 + 6)  # of write_rows' default, packed


def write_noise(path, task, obs_dim, action_dim, lengths):
    """Write a store of random rows, the observations some turns wide."""
    rng = np.random.default_rng(0)
    num_rows = sum(lengths)
    obs = rng.standard_normal((num_rows, obs_dim), np.float32) * 10
    action = rng.standard_normal((num_rows, action_dim), np.float32)
    reward = rng.standard_normal(num_rows, np.float32)
    write_store(path, task, obs, action, reward, lengths, ["x"] * len(lengths), {})
    return open_store(path)


def make_sampler(store, seed=0, horizon=3, **settings):
    return WindowSampler(store, horizon, CPU, stream(seed), **settings)


# A batch.


@pytest.mark.parametrize("place", PLACES)
def test_batch_is_time_major_and_padded_with_zeros(tmp_path, place):
    batch = make_sampler(write_rows(tmp_path / "rows.arrow"), place=place).sample(64)
    assert [tuple(part.shape) for part in batch] == [(4, 64, 24), (3, 64, 6), (3, 64, 1)]
    assert all(part.dtype == torch.float32 for part in batch)
    assert batch.r_HB1.is_contiguous()
    assert not batch.obs_HBO[..., 6:].any()
    assert not batch.a_HBA[..., 2:].any()


def test_window_holds_consecutive_rows_and_what_led_to_them(tmp_path):
    obs, action, reward = make_sampler(write_rows(tmp_path / "rows.arrow")).sample(64)
    rows = obs[..., 1]
    torch.testing.assert_close(rows, rows[0] + torch.arange(4.0)[:, None].expand(4, 64))
    torch.testing.assert_close(action[..., 0], rows[1:] + 0.5)
    torch.testing.assert_close(reward[..., 0], rows[1:])


def test_windows_never_cross_an_episode_and_never_show_a_first_rows_filler(tmp_path):
    store = write_rows(tmp_path / "rows.arrow", lengths=(5, 3, 7, 4))
    obs, action, reward = make_sampler(store).sample(4096)
    assert (obs[..., 0] == obs[0, :, 0]).all()
    assert torch.isfinite(action).all()
    assert torch.isfinite(reward).all()


def test_equal_generators_draw_equal_batches_and_others_do_not(tmp_path):
    store = write_rows(tmp_path / "rows.arrow")
    first, same, other = (make_sampler(store, seed).sample(64).obs_HBO for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("place", PLACES)
def test_batches_share_no_memory_with_each_other(tmp_path, place):
    sampler = make_sampler(write_rows(tmp_path / "rows.arrow"), place=place)
    first = sampler.sample(64)
    before = [part.clone() for part in first]
    sampler.sample(64)
    assert all(map(torch.equal, first, before))


@pytest.mark.parametrize("place", PLACES)
def test_restored_generator_draws_the_same_batches_again(tmp_path, place):
    sampler = make_sampler(write_rows(tmp_path / "rows.arrow"), place=place)
    sampler.sample(64)
    state = sampler.generator.get_state()
    expected = [sampler.sample(64).obs_HBO for _ in range(3)]

    resumed = make_sampler(open_store(tmp_path / "rows.arrow"), seed=1, place=place)
    resumed.generator.set_state(state)

    assert all(torch.equal(resumed.sample(64).obs_HBO, obs) for obs in expected)


# Which windows there are.


def test_first_rows_are_counted_by_hand():
    assert first_rows((3, 1, 4), 2, [0, 1, 2]) == [0, 4, 5]
    assert first_rows((3, 1, 4), 2, [2, 0]) == [4, 5, 0]
    assert first_rows((4, 4, 4), 2, [2, 0, 2]) == [8, 9, 0, 1, 8, 9]
    assert first_rows((3, 1, 4), 1, [0, 1, 2]) == [0, 1, 4, 5, 6]
    assert first_rows((3, 1, 4), 3, [0, 1, 2]) == [4]  # all of the longest episode


@pytest.mark.parametrize("lengths", [(5, 3, 7, 4), (6, 6, 6)], ids=["unlike", "alike"])
@pytest.mark.parametrize("place", PLACES)
def test_every_window_is_drawn_equally_often(tmp_path, lengths, place):
    store = write_rows(tmp_path / "rows.arrow", lengths)
    drawn = make_sampler(store, place=place).sample(20_000).obs_HBO[0, :, 1].numpy()
    windows, counts = np.unique(drawn, return_counts=True)
    np.testing.assert_array_equal(windows, first_rows(lengths, 3, range(len(lengths))))
    assert stats.chisquare(counts).pvalue > 0.01


@pytest.mark.parametrize("place", PLACES)
def test_every_window_of_every_task_is_drawn_equally_often(tmp_path, place):
    stores = [
        write_rows(tmp_path / "a.arrow", (5, 3, 7, 4)),
        write_rows(tmp_path / "b.arrow", (6, 9), task="reacher-hard"),
    ]
    chosen = [np.array([2, 0, 1]), np.array([1])]
    sampler = MultitaskSampler(stores, chosen, 3, CPU, stream(), place=place)
    batch, task_B = sampler.sample(20_000)
    drawn = task_B * 100 + batch.obs_HBO[0, :, 1]
    windows, counts = np.unique(drawn.numpy(), return_counts=True)
    easy, hard = 400 + np.array([0, 1, 8, 9, 10, 11]), 500 + np.array([6, 7, 8, 9, 10, 11])
    np.testing.assert_array_equal(windows, [*easy, *hard])
    assert stats.chisquare(counts).pvalue > 0.01


def test_sampler_among_other_episodes_draws_these_and_by_a_stream_of_its_own(tmp_path):
    stores = [write_rows(tmp_path / "rows.arrow", lengths=(6, 6, 6))]
    sampler = MultitaskSampler(stores, [np.array([0, 1])], 3, CPU, stream())
    other, before = sampler.among([np.array([2])], stream(1)), sampler.generator.get_state()
    assert other.sample(100)[0].obs_HBO[..., 0].unique().tolist() == [2]
    assert torch.equal(sampler.generator.get_state(), before)
    assert sampler.sample(100)[0].obs_HBO[..., 0].unique().tolist() == [0, 1]


@pytest.mark.parametrize("horizon", [0, 7])
def test_horizon_longer_than_every_episode_is_refused(tmp_path, horizon):
    store = write_rows(tmp_path / "rows.arrow", lengths=(5, 7))
    expected = rf"horizon must be in \[1, 6\].*longest of the 2.*rows.arrow, got {horizon}"
    with pytest.raises(ValueError, match=expected):
        make_sampler(store, horizon=horizon)


def test_chosen_episodes_shorter_than_the_horizon_are_refused(tmp_path):
    store = write_rows(tmp_path / "rows.arrow", lengths=(5, 7))
    with pytest.raises(ValueError, match=r"\[1, 4\].*longest of the 1 chosen.*rows.arrow, got 5"):
        make_sampler(store, horizon=5, episodes=np.array([0]))


def test_task_without_an_episode_long_enough_is_not_left_out_in_silence(tmp_path):
    stores = [
        write_rows(tmp_path / "long.arrow", (5, 7)),
        write_rows(tmp_path / "short.arrow", (3, 9), task="reacher-hard"),
    ]
    with pytest.raises(ValueError, match=r"\[1, 2\].*chosen episodes of .*short.arrow, got 4"):
        MultitaskSampler(stores, [np.array([0, 1]), np.array([0])], 4, CPU, stream())


# Where the rows lie.


@pytest.mark.parametrize("wrap_angles", [False, True])
def test_all_places_give_the_same_batches_of_one_task(tmp_path, wrap_angles):
    store = write_noise(tmp_path / "rows.arrow", "reacher-easy", 6, 2, (9, 12, 5))
    packed, mapped = (
        make_sampler(store, place=place, wrap_angles=wrap_angles).sample(64) for place in PLACES
    )
    assert all(map(torch.equal, packed, mapped))
    assert (packed.obs_HBO[..., 0].abs().max() < 3.2) == wrap_angles


@pytest.mark.parametrize("wrap_angles", [False, True])
def test_all_places_give_the_same_batches_of_several_tasks(tmp_path, wrap_angles):
    stores = [
        write_noise(tmp_path / "a.arrow", "walker-walk", 24, 6, (9, 12, 5)),
        write_noise(tmp_path / "b.arrow", "reacher-easy", 6, 2, (8,)),
    ]
    chosen = [np.array([2, 0]), np.array([0])]
    (packed, tasks), (mapped, same) = (
        MultitaskSampler(stores, chosen, 4, CPU, stream(), wrap_angles, place).sample(100)
        for place in PLACES
    )
    assert all(map(torch.equal, packed, mapped))
    assert torch.equal(tasks, same)
    assert set(tasks.tolist()) == {1, 4}


def test_packing_in_pieces_gives_the_same_rows(tmp_path, monkeypatch):
    store = write_rows(tmp_path / "rows.arrow")
    whole = make_sampler(store, place="memory").sample(64)
    monkeypatch.setattr("pwmray.data.store._CHUNK_ROWS", 5)
    assert all(map(torch.equal, whole, make_sampler(store, place="memory").sample(64)))


def test_small_stores_are_packed_in_memory_and_large_ones_mapped(tmp_path, monkeypatch):
    stores = [write_rows(tmp_path / "rows.arrow")]
    assert isinstance(place_rows(stores, 3, CPU, False), PackedRows)
    monkeypatch.setattr("pwmray.data.rows.HOST_BYTES", ROWS_BYTES - 1)
    assert isinstance(place_rows(stores, 3, CPU, False), MappedRows)


def test_rows_lie_on_the_gpu_where_they_fit_into_half_of_it(tmp_path, monkeypatch, caplog):
    stores, gpu = [write_rows(tmp_path / "rows.arrow")], torch.device("cuda")
    free = 2 * ROWS_BYTES
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (free, free))
    monkeypatch.setattr("pwmray.data.rows.PackedRows", lambda *arguments: "packed")
    monkeypatch.setattr("pwmray.data.rows.MappedRows", lambda *arguments: "mapped")
    with caplog.at_level(logging.INFO):
        assert place_rows(stores, 3, gpu, False) == "packed"
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "rows=memory" in caplog.text


def test_rows_that_do_not_fit_on_the_gpu_are_said_to_be_mapped(tmp_path, monkeypatch, caplog):
    stores, gpu = [write_rows(tmp_path / "rows.arrow")], torch.device("cuda")
    free = 2 * ROWS_BYTES - 1
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (free, free))
    monkeypatch.setattr("pwmray.data.rows.MappedRows", lambda *arguments: "mapped")
    assert place_rows(stores, 3, gpu, False) == "mapped"
    assert "do not fit" in caplog.text
