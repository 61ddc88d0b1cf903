"""Services and what they read: a service that fails is named at once, a changed file reaches who
reads it, and `status` tells when one is down.
"""

from __future__ import annotations

import copy
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.vm.driver import Operator, Vapp, remains, standing, write_vapp

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3000)]

NAME = "serve"
SITE = "/etc/nginx/conf.d/site.conf"
ROOT = "/srv/site"


def site(word: str) -> str:
    return f"server {{ listen 80 default_server; root {ROOT}; location = /word {{ return 200 {word}; }} }}\n"


DOCUMENT: dict[str, Any] = {
    "vcloud": 1,
    "name": NAME,
    "zones": {"front": {}},
    "vms": {
        "web": {
            "image": "nginx",
            "zone": "front",
            "ready": {"tcp": 80, "timeout": 3000},
            "run": [f"mkdir {ROOT}; umask > {ROOT}/umask; echo ~ > {ROOT}/home"],
            "files": {
                SITE: site("first"),
                "/etc/made": {"content": "one\n", "run": f"cp /etc/made {ROOT}/made"},
            },
        }
    },
    "flows": [
        {"id": "visits", "from": "internet", "to": "web", "service": "tcp/80", "publish": 8080}
    ],
}
Change = Callable[[dict[str, Any]], object]
AHEAD = 5 * 3600
WRONG_CLOCK = """\
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now)
{
    long broken = syscall(SYS_clock_gettime, clock, now);

    if (!broken && clock == CLOCK_REALTIME)
        now->tv_sec += %d;
    return (int)broken;
}
"""
"""A library that makes the clock of a program's machine wrong."""


def written(folder: Path, change: Change | None = None) -> Path:
    document = copy.deepcopy(DOCUMENT)
    if change:
        change(document["vms"]["web"])
    return write_vapp(folder / "serve.yaml", document)


def files(**content: object) -> Change:
    """Other content of the site or of the file that is made from."""
    paths = {"site": SITE, "made": "/etc/made"}
    return lambda vm: [vm["files"].update({paths[name]: value}) for name, value in content.items()]


def steps(operator: Operator, file: Path) -> list[tuple[str, str, str]]:
    found = operator.run("plan", str(file), "-o", "json").data["steps"]
    return [(step["verb"], step["subject"], step["why"]) for step in found]


@pytest.fixture(scope="module")
def serve(operator: Operator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vapp]:
    """The vApp, whose first `up` had a mistake in the site, and the second one had not."""
    folder = tmp_path_factory.mktemp(NAME)
    began = time.monotonic()
    failed = operator.up(written(folder, files(site="server { lisen 80; }\n")), code=1)
    assert time.monotonic() - began < 1500, "it did not wait for all of `ready.timeout`"
    assert "'web' is not ready" in failed.err
    assert "nginx.service has failed" in failed.err
    assert 'unknown directive "lisen"' in failed.err
    try:
        boot = operator.boot_id(f"{NAME}/web")
        right = written(folder)
        # A step "mend VM" notes what the failed run could not note any more.
        ((verb, subject, why),) = [
            step for step in steps(operator, right) if step[1] == "web" and step[0] != "mend VM"
        ]
        assert (verb, subject) == ("start VM", "web")
        assert "not ready" in why
        operator.up(right)
        assert operator.boot_id(f"{NAME}/web") == boot, "it was kept"
        yield standing(operator, NAME, right)
    finally:
        operator.run("down", "--yes", NAME)
        assert remains(operator, NAME) == []


def test_a_vm_that_was_only_not_ready_is_kept_and_serves_what_its_file_says_now(
    serve: Vapp,
) -> None:
    assert serve.curl("/word").out == "first"
    assert serve.operator.status(NAME)["healthy"]
    assert "nothing to do" in serve.operator.up(serve.file).out


def test_lines_of_run_exec_and_ssh_have_the_umask_and_the_home_of_a_root_shell(
    serve: Vapp,
) -> None:
    assert serve.curl("/umask").out == "0022\n"
    assert serve.curl("/home").out == "/root\n"
    assert serve.inside("web", "umask; echo ~") == "0022\n/root\n"
    assert serve.operator.run("ssh", serve.vm("web"), "--", "umask").out == "0022\n"


def test_a_changed_file_reaches_its_service_and_its_command_runs_again(
    serve: Vapp, tmp_path: Path
) -> None:
    assert serve.curl("/made").out == "one\n"
    boot = serve.boot_id("web")
    changed = written(tmp_path, files(site=site("second")))
    ((*_, why),) = steps(serve.operator, changed)
    assert f"{SITE} (reload nginx)" in why
    serve.operator.up(changed)
    assert serve.curl("/word").out == "second"
    made = {"content": "two\n", "run": f"cp /etc/made {ROOT}/made"}
    serve.operator.up(written(tmp_path, files(made=made)))
    assert (serve.curl("/made").out, serve.curl("/word").out) == ("two\n", "first")
    serve.operator.up(serve.file)
    assert serve.curl("/made").out == "one\n"
    assert serve.boot_id("web") == boot


def test_a_change_that_its_service_refuses_is_told_and_can_be_taken_back(
    serve: Vapp, tmp_path: Path
) -> None:
    failed = serve.operator.up(written(tmp_path, files(site="server { lisen 80; }\n")), code=1)
    assert "cannot reload nginx.service" in failed.err
    assert "up and protected" not in failed.out
    assert serve.curl("/word").out == "first", "it goes on with what it had"
    assert ("configure VM", "web") in [step[:2] for step in steps(serve.operator, serve.file)]
    serve.operator.up(serve.file)
    assert serve.inside("web", f"grep -c lisen {SITE} || :") == "0\n"
    assert serve.operator.status(NAME)["healthy"]


def test_status_tells_a_service_that_is_down_and_up_again(serve: Vapp) -> None:
    failed = "until systemctl --quiet is-failed nginx; do sleep 0.2; done"
    serve.inside("web", f"systemctl kill --signal=KILL nginx; {failed}")
    told = serve.operator.run("status", NAME, "--exit-code", code=3)
    assert "nginx.service has failed" in told.err
    assert "nothing listens on tcp/80" in told.err
    serve.inside("web", "systemctl start nginx")
    assert serve.operator.run("status", NAME, "--exit-code").code == 0


def test_a_guest_gets_the_clock_of_its_host_and_not_the_operators(
    serve: Vapp, tmp_path: Path
) -> None:
    library = tmp_path / "clock.so"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-o", str(library), "-x", "c", "-"],
        input=WRONG_CLOCK % AHEAD,
        text=True,
        check=True,
    )
    operator = replace(
        serve.operator, fresh=True, env={**serve.operator.env, "LD_PRELOAD": str(library)}
    )
    asked = time.time()
    lying = subprocess.run(
        ["date", "+%s"], env=dict(operator.env), capture_output=True, text=True, check=True
    )
    assert int(lying.stdout) - asked > AHEAD - 60, "the operator's clock is wrong"
    serve.inside("web", "date --set=2020-01-01")
    done = operator.up(written(tmp_path, files(site=site("clock"))))
    assert f"differs from this machine's by -{AHEAD // 1000}" in done.err
    assert serve.clock_error("web") < 60
    serve.operator.up(serve.file)


def test_commands_and_questions_of_the_agent_are_not_in_the_journal(serve: Vapp) -> None:
    mark = "asked-and-asked"
    serve.inside("web", f"sleep 2; logger {mark}")
    journal = serve.inside("web", "journalctl --sync; journalctl --no-pager -o cat")
    assert mark in journal
    assert "guest-exec" not in journal
    assert "guest-file" not in journal
