"""What of a Ray cluster's machines a trial may ask for."""

import tempfile

import pytest
import ray

from pwmray import connect

SMALL, WIDE, GPU = {"CPU": 4.0}, {"CPU": 16.0}, {"CPU": 8.0, "GPU": 4.0}


@pytest.mark.parametrize(
    ("machines", "num_cpus", "said"),
    [
        ([SMALL], 4, None),
        ([SMALL], 5, r"num_cpus is 5, but Ray has 4 CPUs here"),
        ([SMALL, SMALL], 5, r"Ray has 4 CPUs on the largest machine that could run it"),
        ([SMALL, WIDE], 16, None),
        ([WIDE, GPU], 8, None),
        ([WIDE, GPU], 9, r"Ray has 8 CPUs on the largest machine"),  # the other has no GPU
    ],
)
def test_one_machine_has_all_that_a_trial_asks_for(machines, num_cpus, said, monkeypatch):
    monkeypatch.setattr(connect, "machines", lambda: machines)
    if said is None:
        connect.check_resources(num_cpus)
        return
    with pytest.raises(ValueError, match=said):
        connect.check_resources(num_cpus)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (None, "Ray does not start, whose files lie in {folder} (TMPDIR; it needs room, and a "),
        ("10.0.0.1:6379", "cannot join Ray at 10.0.0.1:6379: The last lines of the log: "),
    ],
)
def test_ray_that_does_not_start_is_one_line(address, said, monkeypatch):
    def fail(**_):
        raise Exception("The last lines\nof the log: " + 90 * "no room ")

    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(ValueError) as refused:
        connect.connect(address)
    told = str(refused.value)
    assert told.startswith(said.format(folder=tempfile.gettempdir()))
    assert "\n" not in told and len(told) < 400
