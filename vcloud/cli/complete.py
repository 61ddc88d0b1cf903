"""What the Tab key of the shell offers: names of hosts, and of vApps and VMs on the one host there is. If anything
goes wrong, or there are several hosts of which one may be dead, it offers nothing.
"""

from contextlib import suppress

from vcloud.errors import VcloudError


def vapps(incomplete: str) -> list[str]:
    """The vApps that begin with what is typed."""
    from vcloud.fleet.fleet import open_fleet
    from vcloud.hosts.manifests import vapp_names

    with suppress(VcloudError), open_fleet(None) as lab:
        names = {name for host in lab.hosts for name in vapp_names(host)}
        return sorted(name for name in names if name.startswith(incomplete))
    return []


def vms(incomplete: str) -> list[str]:
    """The VMs that begin with what is typed, as `shop/web-1`."""
    from vcloud.fleet.fleet import open_fleet
    from vcloud.hosts.manifests import read_manifest, vapp_names
    from vcloud.plan.manifest import Manifest

    vapp = incomplete.partition("/")[0]
    with suppress(VcloudError), open_fleet(None) as lab:
        found = [
            read_manifest(host, name)
            for host in lab.hosts
            for name in vapp_names(host)
            if name.startswith(vapp)
        ]
        names = [
            f"{manifest.design.vapp}/{vm.name}"
            for manifest in found
            if isinstance(manifest, Manifest)
            for vm in manifest.design.vms
        ]
        return [name for name in names if name.startswith(incomplete)]
    return []


def hosts(incomplete: str) -> list[str]:
    """The hosts of the inventory that begin with what is typed. None of them is asked."""
    from vcloud.hosts.inventory import choose_hosts

    with suppress(VcloudError):
        names = sorted(host.name for host in choose_hosts(None))
        return [name for name in names if name.startswith(incomplete)]
    return []
