"""Eighty breakages of a running vApp by hand, on every layer: libvirt, the host's kernel, the
firewall, the IPS. `status` names each, plain `up` mends it, and then there is nothing to do. What
belongs to others on the host is named and left, and the vApp is not called protected.

The modules `test_drift` and `test_host_side` look at some of them more closely, in each run.
"""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from tests.vm.conftest import Raise
from tests.vm.driver import Vapp, parse, write_vapp, xml_of
from vcloud.design.names import bridge_name, filter_name, network_name

pytestmark = [pytest.mark.vm, pytest.mark.long, pytest.mark.timeout(3000)]

NAME = "broken"
DOCUMENT: dict[str, Any] = {
    "vcloud": 1,
    "name": NAME,
    "zones": {"one": {}, "two": {}},
    "vms": {
        "near": {
            "image": "base",
            "zone": "one",
            "memory": "256M",
            "disks": {"data": {"size": "64M", "mount": "/srv/d"}},
        },
        "far": {"image": "base", "zone": "two", "memory": "256M"},
    },
    "flows": [
        {"id": "login", "from": "near", "to": "far", "service": "tcp/22"},
        {"id": "visit", "from": "internet", "to": "near", "service": "tcp/22", "publish": 2222},
    ],
    "protection": {"ips": {"inspect": ["one"], "mode": "prevent"}},
}
NETWORK = network_name(NAME, "one")

ON_HOST = {
    "a cut link": "$V domif-setlink $D $T down",
    "a link that is up in the definition": "$V domif-setlink $D $T up --config",
    "no binding of the filter": "$V nwfilter-binding-delete $T",
    "an empty filter": "$V nwfilter-dumpxml $F | grep -v -e '<rule' -e '</rule' -e '<ip' -e '<mac' -e '<arp' >/run/f.xml; $V nwfilter-define /run/f.xml",
    "a NIC without its filter": "$V dumpxml $D | sed -n '/<interface/,/<.interface/p' | grep -v filterref >/run/n.xml; $V update-device $D /run/n.xml --live",
    "a NIC whose port is not isolated": "$V dumpxml $D | sed -n '/<interface/,/<.interface/p' | grep -v '<port isolated' >/run/n.xml; $V update-device $D /run/n.xml --live",
    "a NIC on another network": "$V dumpxml $D | sed -n '/<interface/,/<.interface/p' | sed \"s/source network='[^']*'.*/source network='uplink'\\/>/\" >/run/n.xml; $V update-device $D /run/n.xml --live",
    "a second NIC in the zone": "$V attach-interface $D network $N --model virtio --live",
    "a second NIC at the uplink": "$V attach-interface $D network uplink --model virtio --live",
    "a second NIC in the definition": "$V attach-interface $D network uplink --model virtio --config",
    "a second NIC of the firewall": "$V attach-interface broken.firewall network $N --model virtio --live",
    "a second NIC of the IPS": "$V attach-interface broken.ips network uplink --model virtio --live",
    "a foreign disk": "qemu-img create -q -f qcow2 /var/lib/libvirt/images/foreign.qcow2 1M; $V attach-disk $D /var/lib/libvirt/images/foreign.qcow2 vdx --subdriver qcow2 --live",
    "a foreign disk in the definition": "$V attach-disk $D /var/lib/libvirt/images/foreign.qcow2 vdy --subdriver qcow2 --config",
    "a disk less": "$V detach-disk $D vdb --live",
    "a disk less in the definition": "$V detach-disk $D vdb --config",
    "a VM that starts with its host": "$V autostart $D",
    "a network that does not start with its host": "$V net-autostart --disable $N",
    "other memory in the definition": "$V setmaxmem $D 512M --config",
    "more processors in the definition": "$V setvcpus $D 2 --config --maximum",
    "no definition": "$V undefine $D",
    "a VM that was killed": "$V destroy $D",
    "a firewall that was killed": "$V destroy broken.firewall",
    "an IPS that was killed": "$V destroy broken.ips",
    "a VM that was killed and started": "$V destroy $D; $V start $D",
    "a firewall that was killed and started": "$V destroy broken.firewall; $V start broken.firewall",
    "a VM that is paused": "$V suspend $D",
    "an IPS that is paused": "$V suspend broken.ips",
    "a saved VM": "$V managedsave $D",
    "a network that was stopped": "$V net-destroy $N",
    "a network that was restarted": "$V net-destroy $N; $V net-start $N",
    "a network with an address of the host in its definition": "$V net-dumpxml --inactive $N | sed \"s/<.network>/<ip address='10.250.1.1' prefix='24'\\/><\\/network>/\" >/run/net.xml; $V net-define /run/net.xml",
    "no mark on a VM": "$V metadata $D https://vcloud.dev/ns/1 --remove --live --config",
    "another feature in the definition": "$V dumpxml --inactive $D | sed 's/<features>/<features><vmport state=\"on\"\\/>/' >/run/d.xml; $V define /run/d.xml",
    "a port that is not isolated": "bridge link set dev $T isolated off",
    "a port that sends back": "bridge link set dev $T hairpin on",
    "a foreign port": "ip link add alien0 type veth peer name alien1; ip link set alien0 master $B; ip link set alien0 up",
    "an address of the host": "ip address add 10.250.0.1/24 dev $B",
    "an IPv6 address of the host": "echo 0 >/proc/sys/net/ipv6/conf/$B/disable_ipv6; ip address add fd00:250::1/64 dev $B",
    "a port on another bridge": "ip link set $T master uplink0",
    "a port on no bridge": "ip link set $T nomaster",
    "a port that is down": "ip link set $T down",
    "a bridge that is down": "ip link set $B down",
    "tc at a port": "tc qdisc add dev $T clsact",
    "no ebtables rules": "ebtables -t nat -F",
}
OF_OTHERS = {
    "a foreign ebtables rule": (
        "ebtables -t nat -I PREROUTING -i $T -j ACCEPT",
        "ebtables -t nat -D PREROUTING -i $T -j ACCEPT",
    ),
    "a foreign nft table on the bridge": (
        "nft add table bridge alien; nft add chain bridge alien way '{ type filter hook forward priority -500; policy accept; }'; nft add rule bridge alien way iifname $T accept",
        "nft delete table bridge alien",
    ),
}
"""What breaks, and what its owner does to end it."""
IN_FIREWALL = {
    "no ruleset": "nft flush ruleset",
    "an empty chain": "nft flush chain inet vcloud hook_forward",
    "a rule that accepts all": "nft insert rule inet vcloud hook_forward accept",
    "a foreign table": "nft add table inet other",
    "a forged neighbour in a set": "nft add element inet vcloud nic_macs '{ z-one . 02:00:00:00:00:99 }'",
    "no NICs in a set": "nft flush set inet vcloud nic_macs",
    "another ruleset at the next boot": "echo 'flush ruleset' >>/etc/vcloud/firewall.nft",
    "no ruleset at the next boot": "rm /etc/vcloud/firewall.nft",
    "redirects by tc": "tc qdisc add dev z-one clsact; tc filter add dev z-one ingress matchall action mirred egress redirect dev z-two",
    "redirects accepted": "echo 1 >/proc/sys/net/ipv4/conf/all/accept_redirects",
    "source routes accepted": "echo 1 >/proc/sys/net/ipv4/conf/z-one/accept_source_route; echo 1 >/proc/sys/net/ipv4/conf/all/accept_source_route",
    "proxy ARP": "echo 1 >/proc/sys/net/ipv4/conf/z-one/proxy_arp",
    "router advertisements accepted": "echo 2 >/proc/sys/net/ipv6/conf/z-one/accept_ra",
    "a loose table of connections": "echo 1 >/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal",
    "a foreign route": "ip route add 203.0.113.0/24 dev z-one",
    "a foreign routing rule": "ip rule add from 10.0.0.0/8 lookup main pref 10",
    "a foreign neighbour": "ip neigh add 10.99.99.99 lladdr 02:00:00:00:00:99 dev z-one nud permanent",
    "a foreign address": "ip address add 10.99.99.1/32 dev z-one",
    "an address less": "ip -4 address flush dev z-one",
    "a route less": "ip -4 route flush dev z-one",
    "a NIC that is down": "ip link set z-one down",
    "a link that is not the vApp's": "ip link add alien type dummy; ip link set alien up",
}
IN_IPS = {
    "Suricata that was stopped": "kill -TERM $(pidof suricata)",
    "Suricata that hangs": "kill -STOP $(pidof suricata)",
    "fewer rules in memory": "cd /etc/vcloud/ips/rules; cp -p attacks.rules /run/keep; sed -i '2,$s/^drop/#drop/' attacks.rules; /usr/lib/vcloud/guest suricata ruleset-reload-rules; cp -p /run/keep attacks.rules",
    "fewer rules in the file": "sed -i '2,$s/^drop/#drop/' /etc/vcloud/ips/rules/attacks.rules",
    "no rules in the file": "rm /etc/vcloud/ips/rules/attacks.rules",
    "a wire past Suricata": "ip link add by type bridge; ip link set v-one master by; ip link set f-one master by; ip link set by up",
    "redirects by tc past Suricata": "tc qdisc add dev v-one clsact; tc filter add dev v-one ingress matchall action mirred egress redirect dev f-one",
    "another setting": "echo '# changed' >>/etc/vcloud/ips/suricata.yaml",
    "a NIC of the IPS that is down": "ip link set v-one down",
    "an address of the IPS": "ip address add 10.99.99.1/32 dev v-one",
}
BREAKAGES = [
    *(("host", name, script) for name, script in ON_HOST.items()),
    *(("firewall", name, script) for name, script in IN_FIREWALL.items()),
    *(("ips", name, script) for name, script in IN_IPS.items()),
]


@pytest.fixture(scope="module")
def broken(raised: Raise, tmp_path_factory: pytest.TempPathFactory) -> Vapp:
    return raised(NAME, write_vapp(tmp_path_factory.mktemp(NAME) / "broken.yaml", DOCUMENT))


def on_host(vapp: Vapp, script: str) -> None:
    domain = vapp.domain("near")
    target = parse(xml_of(vapp.operator, domain)).find("devices/interface/target")
    assert target is not None
    names = {
        "V": "virsh --quiet",
        "D": domain,
        "T": target.attrib["dev"],
        "N": NETWORK,
        "B": bridge_name(NETWORK),
        "F": filter_name(NAME),
    }
    settings = "; ".join(f"{name}={shlex.quote(value)}" for name, value in names.items())
    done = vapp.operator.at("h1", "sh", "-c", f"{settings}; {script}")
    assert done.code == 0, f"{script}: {done.out}{done.err}"


@pytest.mark.parametrize(("where", "name", "script"), BREAKAGES, ids=[row[1] for row in BREAKAGES])
def test_it_is_named_and_mended(broken: Vapp, where: str, name: str, script: str) -> None:
    operator = broken.operator
    try:
        if where == "host":
            on_host(broken, script)
        else:
            broken.inside(where, script)
        status = operator.status(NAME)
        planned = operator.run("plan", str(broken.file), "-o", "json").data["steps"]
        up = operator.run("up", "--yes", str(broken.file), code=None)
        after = operator.status(NAME)
        print(name, "|", status["problems"], "|", [step["verb"] for step in planned], "|", up.code)
        assert not status["healthy"]
        assert planned
        assert up.code == 0, up.err
        assert after["problems"] == []
        assert "nothing to do" in operator.up(broken.file).out
    except AssertionError:
        operator.run("down", "--yes", NAME, code=None)
        operator.at("h1", "sh", "-c", "ip link delete alien0; true")
        operator.up(broken.file)
        raise


@pytest.mark.parametrize(("script", "end"), OF_OTHERS.values(), ids=OF_OTHERS)
def test_what_belongs_to_others_is_named_and_left(broken: Vapp, script: str, end: str) -> None:
    on_host(broken, script)
    try:
        assert not broken.operator.status(NAME)["healthy"]
        failed = broken.operator.up(broken.file, code=1)
        assert "is up, and is not protected" in failed.err
    finally:
        on_host(broken, end)
    assert broken.operator.status(NAME)["healthy"]
    assert "nothing to do" in broken.operator.up(broken.file).out
