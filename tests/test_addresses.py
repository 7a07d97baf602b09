"""By which address a node of a job is known to the others."""

import argparse
import socket

import pytest

from cluster import addresses, dashboards, job_nodes, slurm

OWN_NAME, OTHERS_NAME = "127.0.1.1", "10.0.0.2"
# As systemd's resolver answers for the machine itself: Docker's bridge, no network, a second one.
OWN_ALL = ["172.17.0.1", "169.254.3.1", "10.9.0.1", "10.0.0.1"]
NAMES = {
    "n1": [OWN_NAME], "n2": [OTHERS_NAME], "all": OWN_ALL, OWN_NAME: [OWN_NAME], "one": OWN_ALL[:2],
    "both": ["fd00::1", "10.0.0.1"], "six": ["fe80::1%eth0", "fd00::1"], "twice": ["10.0.0.5"] * 3,
    "169.254.3.9": ["169.254.3.9"], "fd00::7": ["fd00::7"],
}  # fmt: skip


def look_up(name, port, type):
    """Answer as socket.getaddrinfo does."""
    if name not in NAMES:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    families = [socket.AF_INET6 if ":" in number else socket.AF_INET for number in NAMES[name]]
    return [
        (family, type, 6, "", (number, 0))
        for family, number in zip(families, NAMES[name], strict=True)
    ]


@pytest.fixture
def resolver(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setenv("SLURMD_NODENAME", "n1")


@pytest.mark.parametrize(
    ("address", "reached", "ip"),
    [
        ("n1", {"n2": "10.0.0.1"}, "10.0.0.1"),
        ("n1", {"n2": "", "login": "10.0.0.3"}, "10.0.0.3"),
        ("n1", {"n2": "", "login": ""}, OWN_NAME),  # a machine by itself
        ("n2", {"n1": "10.9.0.1"}, OTHERS_NAME),
        (OWN_NAME, {"n2": "10.0.0.1"}, OWN_NAME),  # Slurm itself says so
        ("169.254.3.9", {"n2": "10.0.0.1"}, "169.254.3.9"),
        ("all", {"n2": "10.0.0.1"}, "10.0.0.1"),
        ("all", {"n2": "", "login": "10.9.0.1"}, "10.9.0.1"),
        ("all", {"n2": "10.0.0.77"}, "172.17.0.1"),  # another node's name
        ("one", {"n2": "10.0.0.1"}, "172.17.0.1"),
        ("twice", {"n2": "10.0.0.1"}, "10.0.0.5"),
        ("both", {"n2": "fd00::1"}, "10.0.0.1"),
        ("six", {"n2": ""}, "fd00::1"),
        ("fd00::7", {"n2": "10.0.0.1"}, "fd00::7"),
    ],
)
def test_node_whose_own_name_does_not_tell_is_known_by_what_others_reach(
    address, reached, ip, resolver, monkeypatch
):
    monkeypatch.setattr(addresses, "ip_towards", lambda host, _: reached[host])
    assert addresses.ip_of(address, list(reached)) == ip


def test_name_that_leads_nowhere_is_named(resolver):
    told = (
        "'n9', a node's address in Slurm .NodeAddr., cannot be resolved on n1: Name or service not"
    )
    with pytest.raises(ValueError, match=told):
        addresses.ip_of("n9", [])


def test_server_of_names_is_asked_again_where_it_has_a_weak_moment(resolver, monkeypatch):
    weak = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    failures = [weak] * 2

    def look_up_late(name, *arguments, **others):
        if name == "n2" and failures:
            raise failures.pop()
        return look_up(name, *arguments, **others)

    monkeypatch.setattr(socket, "getaddrinfo", look_up_late)
    monkeypatch.setattr(addresses, "AGAIN_SECONDS", 0.0)
    assert addresses.ip_of("n2", []) == OTHERS_NAME
    assert not failures
    failures += [weak] * 2
    addresses.ip_of("n1", ["n2"])  # by which n1, of a loopback name, finds its own
    assert not failures


def test_no_more_hosts_are_looked_up_than_it_takes(resolver, monkeypatch):
    asked = []
    monkeypatch.setattr(
        addresses, "ip_towards", lambda host, _: asked.append(host) or "10.0.0.1" * (host != "n2")
    )
    assert addresses.ip_of("n1", ["n2", "n3", "n4"]) == "10.0.0.1"
    assert asked == ["n2", "n3"]


def test_job_asks_by_what_it_reaches_others_for_its_own_node_alone(resolver, monkeypatch):
    asked = []
    monkeypatch.setattr(addresses, "ip_of", lambda address, hosts: asked.append((address, *hosts)))
    monkeypatch.setattr(slurm, "hostnames", lambda _: ["n1", "n2", "n3"])
    monkeypatch.setattr(slurm, "node_address", lambda name: name)
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1-3]")
    monkeypatch.setenv("SLURM_SUBMIT_HOST", "login")
    options = {"cpus": 1, "gres": "", "gpu_type": "", "interface": "", "scratch": "/tmp"}
    chosen = argparse.Namespace(simulated_gpus=False, dashboard=False, **options)
    assert list(job_nodes.offered_by_nodes("", chosen)) == ["n1", "n2", "n3"]
    assert asked == [("n1", "n2", "n3", "login"), ("n2",), ("n3",)]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "no.such.host.invalid", ""])
def test_host_that_is_not_reached_through_a_network_gives_no_address(host):
    assert addresses.ip_towards(host, 0.0) == ""


def test_address_and_port_are_told_apart():
    assert addresses.with_port("10.0.0.1", 6379) == "10.0.0.1:6379"
    assert addresses.with_port("fd00::1", "6379") == "[fd00::1]:6379"


IF_INET6 = """\
00000000000000000000000000000001 01 80 10 80       lo
fe8000000000000000fcfffe00000001 02 40 20 80 pwm-none0
fd000000000000000000000000000002 02 40 00 80 pwm-none0
"""


def test_address_at_an_interface_is_of_ipv6_where_it_has_no_other(resolver, tmp_path, monkeypatch):
    (tmp_path / "if_inet6").write_text(IF_INET6)
    monkeypatch.setattr(addresses, "_IPV6", tmp_path / "if_inet6")
    assert addresses.ip_at("pwm-none0") == "fd00::2"
    assert addresses.ip_at("lo") == "127.0.0.1"
    monkeypatch.setattr(addresses, "_IPV6", tmp_path / "none")  # a system without IPv6
    with pytest.raises(
        ValueError, match=r"interface 'pwm-none0' has no address on n1; its interfaces: .*\blo\b"
    ):
        addresses.ip_at("pwm-none0")


@pytest.mark.parametrize(
    ("long", "name"), [("localhost.localdomain", "login1"), ("login1.example.org", None)]
)
def test_way_in_leads_through_a_machine_that_others_know(long, name, monkeypatch):
    monkeypatch.setattr(socket, "getfqdn", lambda: long)
    monkeypatch.setattr(socket, "gethostname", lambda: "login1")
    dashboards._host.cache_clear()
    assert dashboards._host() == (name or long)
    dashboards._host.cache_clear()
