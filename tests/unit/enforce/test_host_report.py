"""The reporter as a program that any host can run."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from vcloud.enforce.host_processes import guest_name
from vcloud.enforce.host_report import INSTALLED, device_hooks
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


def test_the_name_of_a_domain_is_that_of_qemus_command_line() -> None:
    assert guest_name(["qemu", "-name", "guest=shop.web-1,debug-threads=on", "-S"]) == "shop.web-1"
    assert guest_name(["qemu", "-S", "-name"]) == ""
