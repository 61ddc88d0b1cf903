"""The reporter as a program that any host can run."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from vcloud.enforce.host_processes import guest_name
from vcloud.enforce.host_report import INSTALLED, actions_of, device_hooks, forwards_of
from vcloud.enforce.install import PROGRAM, PYTHON, RULE, installed_text
from vcloud.hosts.host_side import program


def test_it_runs_on_python_3_9_and_imports_only_the_standard_library() -> None:
    tree = ast.parse(program(), feature_version=(3, 9))
    modules = [
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    ]
    modules += [str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert modules
    assert {name.partition(".")[0] for name in modules} <= sys.stdlib_module_names


def test_the_installed_program_is_the_one_that_is_sent() -> None:
    first, rest = installed_text().split(b"\n", 1)
    assert first == f"#!{PYTHON} -I".encode()
    assert rest == program()


def test_the_rule_allows_one_program_without_arguments() -> None:
    assert PROGRAM.is_absolute()
    assert RULE.splitlines()[-1] == f'%libvirt ALL=(root) NOPASSWD: {INSTALLED} ""'


def test_it_reads_no_input_and_no_environment() -> None:
    """By its text: neither is named in it, but for the standard streams of what it starts."""
    names = {
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(ast.parse(program()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    assert not names & {"sys.stdin", "os.environ", "os.getenv", "os.environb"}
    assert "sys.argv" in names  # only whether it came through stdin
    done = subprocess.run(
        [sys.executable, "-c", "import vcloud.enforce.host_report"], capture_output=True
    )
    assert (done.returncode, done.stdout) == (0, b"")


@pytest.mark.parametrize(
    ("line", "devices"),
    [
        ('type filter hook ingress device "t0" priority filter; policy accept;', ["t0"]),
        ("type filter hook egress devices = { t0, t1 } priority 0;", ["t0", "t1"]),
        ('type filter hook ingress devices = { "t*" } priority 0;', ["t*"]),
        ("type filter hook prerouting priority dstnat; policy accept;", []),
    ],
)
def test_devices_of_a_chain_are_read_from_what_nft_prints(line: str, devices: list[str]) -> None:
    text = f"table netdev x {{\n\tchain in {{\n\t\t{line}\n\t}}\n}}\n"
    assert device_hooks(text) == [{"chain": "netdev x in", "device": name} for name in devices]


DEVICES: dict[str, dict[str, object]] = {"t0": {}, "t1": {}}


@pytest.mark.parametrize(
    ("action", "device"),
    [
        ({"to_dev": "t0", "bind": 1, "index": 7}, "t0"),
        ({"to_dev": "t1", "bind": 2, "index": 8, "direction": "ingress"}, "t1"),
        ({"to_dev": "t0", "bind": 0, "index": 7}, ""),
        ({"to_dev": "eth0", "bind": 1, "index": 7}, ""),
        ({"to_dev": "*", "bind": 1, "index": 7}, ""),
    ],
)
def test_an_action_of_tc_counts_where_a_filter_uses_it(
    action: dict[str, object], device: str
) -> None:
    """As tc 6.1 prints them."""
    listed = [{"total acts": 1}, {"actions": [action]}]
    expected = [{"device": device, "by": f"action mirred {action['index']} of tc"}]
    assert actions_of(DEVICES, listed) == (expected if device else [])


@pytest.mark.parametrize(
    ("statement", "devices"),
    [
        ({"fwd": {"dev": "t0"}}, ["t0"]),
        ({"fwd": {"dev": "t0", "family": "ip", "addr": "10.0.0.9"}}, ["t0"]),
        ({"dup": {"addr": "t1"}}, ["t1"]),
        ({"fwd": {"dev": {"map": {"key": {}, "data": {"set": [["a", "t0"], ["b", "t1"]]}}}}}, ["t0", "t1"]),
        ({"fwd": {"dev": {"map": {"key": {}, "data": "@m"}}}}, ["t1"]),
        ({"fwd": {"dev": {"map": {"key": {}, "data": "@other"}}}}, []),
        ({"fwd": {"dev": "eth0"}}, []),
        ({"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "t0"}}, []),
    ],
)  # fmt: skip
def test_a_rule_of_nft_counts_where_it_sends_frames_to_a_device(
    statement: dict[str, object], devices: list[str]
) -> None:
    """As nft 1.0.6 prints them."""
    listed = {
        "nftables": [
            {"metainfo": {}},
            {"map": {"table": "x", "name": "m", "elem": [["10.0.0.1", "t1"]]}},
            {"map": {"table": "y", "name": "other", "elem": [["10.0.0.1", "t1"]]}},
            {"set": {"table": "x", "name": "empty"}},
            {"rule": {"table": "x", "chain": "in", "expr": [{"counter": None}, statement]}},
        ]
    }
    place = "nft's chain 'netdev x in'"
    assert forwards_of(DEVICES, listed) == [{"device": name, "by": place} for name in devices]


def test_the_name_of_a_domain_is_that_of_qemus_command_line() -> None:
    assert guest_name(["qemu", "-name", "guest=shop.web-1,debug-threads=on", "-S"]) == "shop.web-1"
    assert guest_name(["qemu", "-S", "-name"]) == ""
