"""What the shell's Tab key offers: names of vApps and VMs, as the host knows them. Whatever goes wrong, it offers nothing and says nothing."""

from contextlib import suppress

from vcloud.errors import VcloudError


def vapps(incomplete: str) -> list[str]:
    """Names of the host's vApps."""
    from vcloud.hosts.connection import open_host
    from vcloud.hosts.inventory import choose_host
    from vcloud.hosts.manifests import vapp_names

    with suppress(VcloudError), open_host(choose_host(None)) as host:
        return [name for name in vapp_names(host) if name.startswith(incomplete)]
    return []


def vms(incomplete: str) -> list[str]:
    """`shop/web-1`: every VM of the vApps that the typed beginning fits."""
    from vcloud.hosts.connection import open_host
    from vcloud.hosts.inventory import choose_host
    from vcloud.hosts.manifests import read_manifest, vapp_names
    from vcloud.plan.manifest import Manifest

    vapp = incomplete.partition("/")[0]
    with suppress(VcloudError), open_host(choose_host(None)) as host:
        found = [read_manifest(host, name) for name in vapp_names(host) if name.startswith(vapp)]
        names = [f"{manifest.design.vapp}/{vm.name}" for manifest in found if isinstance(manifest, Manifest) for vm in manifest.design.vms]
        return [name for name in names if name.startswith(incomplete)]
    return []
