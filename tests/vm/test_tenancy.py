"""vApps that may not share a host: refused by `vcloud up`, and by the host itself where somebody uses
virsh.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.vm.conftest import Raise
from tests.vm.driver import TINY, Operator, remains, write_vapp

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3000)]

URI = "https://vcloud.dev/ns/1/tenancy"
"""XML namespace of the terms in a domain's metadata."""
REASON = "'bank' shares its host with no other vApp, and 'stall' is one"
STALL = TINY | {"name": "stall", "owner": "retail"}
BANK = TINY | {"name": "bank", "owner": "bank", "labels": {"env": "prod"}}


def bank(folder: Path, **tenancy: object) -> Path:
    return write_vapp(folder / "bank.yaml", BANK | ({"tenancy": tenancy} if tenancy else {}))


def switch_off(operator: Operator, vapp: str) -> None:
    for domain in operator.virsh("list", "--name").split():
        if domain.startswith(f"{vapp}."):
            operator.virsh("destroy", domain)


def refused(operator: Operator, *virsh: str) -> str:
    done = operator.at("h1", "virsh", *virsh)
    assert done.code != 0
    return done.err


def test_a_dedicated_vapp_keeps_others_away_whoever_starts_them(
    operator: Operator, raised: Raise, tmp_path: Path
) -> None:
    stall = raised("stall", write_vapp(tmp_path / "stall.yaml", STALL))
    # Beside a vApp that demands nothing, one that is dedicated may not start either.
    file = bank(tmp_path, share="dedicated")
    for command in ("plan", "up"):
        done = operator.run(command, str(file), code=6)
        assert f"tenancy: h1 refuses it: 'bank' may not run on this host: {REASON}" in done.err
    assert remains(operator, "bank") == []

    switch_off(operator, "stall")
    raised("bank", file)
    done = operator.up(stall.file, code=6)
    assert REASON in done.err
    for domain in ("stall.solo", "stall.firewall"):
        assert REASON in refused(operator, "start", domain)
    assert set(operator.virsh("list", "--name").split()) == {"bank.firewall", "bank.solo"}


def test_terms_that_somebody_has_removed_are_seen_and_let_nobody_in(
    operator: Operator, raised: Raise, tmp_path: Path
) -> None:
    file = bank(tmp_path, share="dedicated")
    raised("bank", file)
    operator.virsh("metadata", "bank.solo", URI, "--live", "--remove")
    other = write_vapp(tmp_path / "other.yaml", TINY | {"name": "other"})
    assert "not known who runs on this host" in operator.up(other, code=6).err
    assert "the terms of tenancy in its metadata" in operator.run("status", "bank").err
    operator.up(file)
    assert "terms of tenancy" not in operator.run("status", "bank").err
    assert "'bank' shares its host with no other vApp" in operator.up(other, code=6).err

    # Somebody has changed the hook itself.
    hook = "/etc/libvirt/hooks/qemu.d/vcloud"
    assert (
        operator.at("h1", "sh", "-c", f"cp {hook} /tmp/hook; echo '# changed' >>{hook}").code == 0
    )
    try:
        assert "is not that of this release" in operator.run("status", "bank").err
    finally:
        assert operator.at("h1", "cp", "/tmp/hook", hook).code == 0  # noqa: S108 - of the host
    assert "is not that of this release" not in operator.run("status", "bank").err


def test_demands_that_who_runs_there_does_not_meet_are_refused_before_they_count(
    operator: Operator, raised: Raise, tmp_path: Path
) -> None:
    """Of a vApp that runs beside another one already, and of one whose memory was saved."""
    raised("bank", bank(tmp_path))
    stall = raised("stall", write_vapp(tmp_path / "stall.yaml", STALL))
    file = bank(tmp_path, share="dedicated")
    for command in ("plan", "up"):
        assert REASON in operator.run(command, str(file), code=6).err
    assert "nothing to do" in operator.up(bank(tmp_path)).out

    switch_off(operator, "stall")
    operator.up(bank(tmp_path, share="dedicated"))
    operator.run("save", "bank")
    operator.up(stall.file)
    done = operator.up(file, code=6)
    assert REASON in done.err
    assert "--cold" not in done.err, "its memory is kept"
    operator.up(bank(tmp_path, never=[{"owner": "nobody"}]))
    assert operator.status("bank")["healthy"]
    assert "never" in operator.virsh("dumpxml", "bank.solo")


def test_other_terms_count_at_once_and_without_a_restart(
    operator: Operator, raised: Raise, tmp_path: Path
) -> None:
    switch_off(operator, "stall")
    bank_vapp = raised("bank", bank(tmp_path, share="dedicated"))
    boots = bank_vapp.boot_id("solo")
    operator.up(bank(tmp_path, never=[{"owner": "retail"}]))
    assert "never shares its host with a vApp that has owner=retail" in refused(
        operator, "start", "stall.firewall"
    )
    operator.up(bank(tmp_path))
    assert bank_vapp.boot_id("solo") == boots
    stall = raised("stall", write_vapp(tmp_path / "stall.yaml", STALL))

    # As an earlier release left them, before the host had the hook: each gets its terms back.
    for domain in operator.virsh("list", "--name").split():
        operator.virsh("metadata", domain, URI, "--live", "--config", "--remove")
    for file in (bank(tmp_path), stall.file):
        operator.up(file)
    for domain in operator.virsh("list", "--name").split():
        assert URI in operator.virsh("dumpxml", domain)
