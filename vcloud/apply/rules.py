"""Loads the rules of an appliance. The appliance checks them first; if it refuses them, the old
rules stay loaded.
"""

from __future__ import annotations

from vcloud.apply.run import Run
from vcloud.design.model import Role, Vm
from vcloud.guests.setup import load_firewall, load_ips
from vcloud.plan.steps import STARTED


def load(run: Run, vm: Vm) -> None:
    artifacts = run.target.artifacts
    with run.explained(vm):
        if vm.role is Role.FIREWALL:
            run.learnt.rules = load_firewall(
                run.agent(vm), artifacts.firewall, run.claim.generation
            )
            # The mark holds the digest of the loaded ruleset, which only the firewall can compute.
            # The digest of the IPS's files is in the manifest.
            run.mark_rules(vm)
        else:
            load_ips(run.agent(vm), artifacts.ips, run.claim.generation)
        if run.plan.verb_of(vm.name) in STARTED:
            run.note_connected(vm)
        run.reporter.report(vm.name, "rules loaded and checked")
