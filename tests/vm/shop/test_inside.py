"""Ways into VMs: exec, ssh, console and logs. None of them opens a network path."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pty
import select
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from tests.vm.conftest import SHOP
from tests.vm.driver import NAMESPACE, ROOT, VCLOUD, Probe, Vapp, mark, wait_until

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3000)]

ESCAPE = b"\x1d"
WEB = "shop.web-1"


# exec


def test_exec_passes_on_output_errors_and_exit_code(shop: Vapp) -> None:
    done = shop.operator.run(
        "exec", "shop/web-1", "--", "sh", "-c", "echo out; echo err >&2; exit 7", code=7
    )
    assert (done.out, done.err) == ("out\n", "err\n")


def test_exec_passes_stdin_and_arguments_as_they_are(shop: Vapp) -> None:
    assert shop.operator.run("exec", "shop/api", "--", "cat", stdin="a\nb\n").out == "a\nb\n"
    assert (
        shop.operator.run("exec", "shop/db", "--", "printf", "%s|", "a b", "$HOME", "--name").out
        == "a b|$HOME|--name|"
    )


def test_exec_carries_more_than_a_message_of_the_agent_both_ways(shop: Vapp) -> None:
    text = "0123456789abcdef" * 200_000
    done = shop.operator.run("exec", "shop/web-1", "--", "tee", "/dev/stderr", stdin=text)
    assert hashlib.sha256(done.out.encode()).digest() == hashlib.sha256(text.encode()).digest()
    assert done.err == text


def test_exec_of_what_is_not_there_is_one_sentence(shop: Vapp) -> None:
    assert (
        "no-such-program"
        in shop.operator.run("exec", "shop/web-1", "--", "no-such-program", code=None).err
    )
    missing = shop.operator.run("exec", "shop/nobody", "--", "true", code=2).err
    assert "there is no VM 'shop/nobody'" in missing
    assert "web-1" in missing


def test_exec_reaches_the_appliances_too(shop: Vapp) -> None:
    assert (
        shop.operator.run("exec", "shop/firewall", "--", "nft", "list", "tables").out
        == "table inet vcloud\n"
    )
    assert json.loads(
        shop.operator.run("exec", "shop/ips", "--", "/usr/lib/vcloud/ips-report").out
    )["running"]


# ssh


def test_ssh_runs_a_command_and_passes_on_how_it_ended(shop: Vapp) -> None:
    done = shop.operator.run("ssh", "shop/db", "--", "hostname; echo err >&2; exit 3", code=3)
    assert (done.out, done.err) == ("db\n", "err\n")


def test_ssh_opens_no_network_path_and_leaves_no_key(shop: Vapp) -> None:
    """The firewall counts no packet to port 22, and afterwards the session's key lets nobody in."""
    before = shop.operator.run("logs", "shop/firewall", "-n", "5000").out.count("tcp/22,")
    assert shop.operator.run("ssh", "shop/api", "--", "ls /run/vcloud/ssh | wc -l").out == "1\n"
    assert shop.operator.run("logs", "shop/firewall", "-n", "5000").out.count("tcp/22,") == before
    assert shop.inside("api", "ls /run/vcloud/ssh; pgrep -fc '[s]shd -' || :").split()[-1:] in (
        [],
        ["0"],
        ["1"],
    )
    assert shop.inside("api", "ls -A /run/vcloud/ssh") == ""


@contextmanager
def pinned(shop: Vapp, key: str) -> Iterator[None]:
    """The metadata of web-1 pins another key for a while."""
    attributes = mark(shop.operator, WEB)

    def write(found: dict[str, str]) -> None:
        words = " ".join(f'{name}="{value}"' for name, value in found.items())
        shop.operator.virsh(
            "metadata",
            WEB,
            NAMESPACE,
            "--key",
            "vcloud",
            "--set",
            f"<vm {words}/>",
            "--live",
            "--config",
        )

    write(attributes | {"host-key": key})
    try:
        yield
    finally:
        write(attributes)


def test_ssh_refuses_a_vm_that_does_not_have_the_pinned_key(shop: Vapp) -> None:
    other = mark(shop.operator, "shop.db")["host-key"]
    with pinned(shop, other):
        refused = shop.operator.run("ssh", "shop/web-1", "--", "hostname", code=255)
    assert refused.out == ""
    assert (
        "REMOTE HOST IDENTIFICATION HAS CHANGED" in refused.err
        or "Host key verification failed" in refused.err
    )
    assert shop.operator.run("ssh", "shop/web-1", "--", "hostname").out == "web-1\n"


def test_ssh_into_an_appliance_names_the_way_out(shop: Vapp) -> None:
    assert "vcloud exec shop/firewall" in shop.operator.run("ssh", "shop/firewall", code=2).err


# console


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, process: subprocess.Popen[bytes], fd: int) -> None:
        self.process = process
        self.fd = fd
        self.said = b""

    def type(self, text: bytes) -> None:
        os.write(self.fd, text)

    def waits_for(self, text: bytes, seconds: float = 600, typing: bytes = b"") -> None:
        """`typing` is typed whenever the program has been silent for a moment: a shell that begins
        discards what was typed before.
        """
        deadline = time.monotonic() + seconds
        while text not in self.said:
            assert time.monotonic() < deadline, f"{text!r} is not in {self.said[-2000:]!r}"
            if select.select([self.fd], [], [], 0.5)[0]:
                with contextlib.suppress(OSError):
                    self.said += os.read(self.fd, 4096)
            elif typing:
                self.type(typing)


@contextmanager
def terminal(shop: Vapp, *argv: str) -> Iterator[Terminal]:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*VCLOUD, *argv],
        env=dict(shop.operator.env),
        cwd=ROOT,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    try:
        yield Terminal(process, ours)
    finally:
        process.kill()
        process.wait()
        os.close(theirs)
        os.close(ours)


def test_the_console_is_a_shell_and_is_left_by_its_key(shop: Vapp) -> None:
    with terminal(shop, "console", "shop/web-1") as at:
        before = termios.tcgetattr(at.fd)
        at.waits_for(b"Ctrl-] leaves")
        at.waits_for(b"# ", typing=b"\r")
        at.type(b"echo answer=$((6*7))\r")
        at.waits_for(b"answer=42")
        at.type(b"sleep 3000\r")
        wait_until(
            "it runs", lambda: shop.inside("web-1", "pgrep -fx 'sleep 3000'", code=None) != ""
        )
        at.type(b"\x03")
        at.type(b"echo still=$((1+1)) here\r")
        at.waits_for(b"still=2 here")
        busy = shop.operator.start("console", "shop/web-1")
        assert "a console needs a terminal" in busy.communicate(timeout=600)[1]
        at.type(b"exit\r")
        at.type(ESCAPE)
        assert at.process.wait(600) == 0
        assert termios.tcgetattr(at.fd)[:4] == before[:4]


def test_a_second_console_is_refused_while_the_first_is_open(shop: Vapp) -> None:
    with terminal(shop, "console", "shop/api") as first:
        first.waits_for(b"Ctrl-] leaves")
        with terminal(shop, "console", "shop/api") as second:
            second.waits_for(b"somebody else is attached")
            assert second.process.wait(600) == 1
        first.type(ESCAPE)
        assert first.process.wait(600) == 0


def test_ssh_on_a_terminal_is_a_login_shell(shop: Vapp) -> None:
    with terminal(shop, "ssh", "shop/web-1") as at:
        at.waits_for(b"# ")
        at.type(b"tty; echo sum=$((20+3))\r")
        at.waits_for(b"sum=23")
        assert b"/dev/pts/" in at.said
        at.type(b"exit 5\r")
        assert at.process.wait(600) == 5


# logs and data


def test_logs_show_the_console_what_was_denied_and_what_was_stopped(shop: Vapp) -> None:
    shop.inside("web-1", "for word in one two three; do echo $word > /dev/console; done")
    assert "two\nthree\n" in shop.operator.run("logs", "shop/web-1").out
    shop.probe("web-1", Probe("tcp", shop.addresses4["db"], 6543))
    assert (
        f"denied: {shop.addresses4['web-1']} -> {shop.addresses4['db']} tcp/6543"
        in shop.operator.run("logs", "shop/firewall").out
    )
    before = stopped(shop)
    placed = shop.curl(
        "/orders", "--fail", "-d", json.dumps({"item": "cup", "card": "4111111111111111"})
    )
    shop.curl(f"/orders/{json.loads(placed.out)['order']}/card", patience=6)
    wait_until("the IPS tells of it", lambda: stopped(shop) != before)
    blocked = stopped(shop)
    assert blocked
    assert len(blocked) == len({*blocked})
    assert len(shop.operator.run("logs", "shop/web-1", "-n", "2").out.splitlines()) == 2


def stopped(shop: Vapp) -> list[str]:
    lines = shop.operator.run("logs", "shop/ips").out.splitlines()
    return [line for line in lines if "blocked: " in line]


@pytest.mark.parametrize(
    "argv",
    [
        ("status", "shop"),
        ("list",),
        ("plan", str(SHOP)),
        ("validate", str(SHOP)),
        ("doctor",),
        ("up", "--yes", str(SHOP)),
        ("image", "list"),
        ("lab", "status"),
    ],
    ids=lambda argv: " ".join(argv[:2]) if argv[0] in ("image", "lab") else argv[0],
)
def test_data_is_json_or_yaml_on_stdout(shop: Vapp, argv: tuple[str, ...]) -> None:
    as_json = shop.operator.run(*argv, "-o", "json")
    as_yaml = shop.operator.run(*argv, "-o", "yaml")
    assert type(as_json.data) is type(yaml.safe_load(as_yaml.out))
    assert as_json.data
    assert shop.operator.run(*argv).out


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("vcloud status sh", ["shop"]),
        ("vcloud ssh shop/w", ["shop/web-1"]),
        ("vcloud exec shop/", ["shop/firewall", "shop/ips", "shop/web-1", "shop/api", "shop/db"]),
        ("vcloud exec nothing/", []),
    ],
)
def test_the_tab_key_offers_names(shop: Vapp, typed: str, offered: list[str]) -> None:
    operator = shop.operator.elsewhere(
        Path(shop.operator.env["HOME"]),
        _VCLOUD_COMPLETE="complete_bash",
        COMP_WORDS=typed,
        COMP_CWORD=str(len(typed.split()) - 1),
    )
    script = (
        "import sys; from vcloud.cli.app import app; sys.argv = ['vcloud']; app(prog_name='vcloud')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=dict(operator.env),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert sorted(done.stdout.split()) == sorted(offered), done.stderr
