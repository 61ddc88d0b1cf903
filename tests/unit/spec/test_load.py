"""From a file to a vApp: what is taken, and that nothing else ever happens than a vApp or a
SpecError.
"""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.vapps import vapp_of
from vcloud.data import images_dir, templates_dir
from vcloud.errors import SpecError, UsageError
from vcloud.pipeline import load_file, read_name
from vcloud.spec.model import Vapp
from vcloud.spec.notes import notes
from vcloud.spec.refuse import refusals
from vcloud.values import ALL_SERVICES, Action, Mode, Protocol, Service

WHOLE = """\
vcloud: 1
name: shop
owner: retail
labels: {env: prod}
parameters: {web_count: 2, greeting: hello, ready: true}
authorized_keys: [ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGbY0sBqUZc0cQ1PSh0gXcCE0qU2oRTzYgXQzZ9uBvY1 me]
x-anything: {of: others}

zones:
  dmz: {}
  app:
  cde: {holds: cardholder-data}

vms:
  web:
    image: nginx
    zone: [dmz, app]
    count: "${web_count}"
    memory: 512
    after: api
    ready: {tcp: 80, timeout: 2m}
    files:
      /etc/motd: "${greeting}, $${USER}: ${ready}\\n"
      /etc/shop.conf: {source: shop.conf, mode: '0600', owner: www-data}
    packages: [curl]
    run: echo $HOME
  api: {image: ./images/api, zone: app, after: [db]}
  db:
    image: {file: db.qcow2, sha256: 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef}
    zone: cde
    disks: {data: 1G, logs: {size: 2G, mount: /var/log}}

flows:
  - {id: checkout, from: internet, to: web, service: tcp/80, publish: 8080, why: customers}
  - {from: internet, to: web, service: [tcp/443, udp/443]}
  - {id: dns, from: internet, to: 'vm:web', service: [tcp/53, udp/53], publish: 5353}
  - {from: web, to: api, service: tcp/8000-8010}
  - {from: api, to: db, service: tcp/5432, carries: cardholder-data}
  - {from: api, to: internet, service: tcp/443, tls: {sni: pay.example}}
  - {from: 'zone:dmz', to: db, service: icmp}

protection:
  profiles: pci-dss
  ips: {inspect: dmz, mode: detect}
  dlp:
    - {detect: card-number, leaving: [cde, app], except: api-internet-tcp-443, at_least: 2}
    - {detect: {name: order-id, regex: 'SHOP-[0-9]{8}', at_least: 3}, leaving: app, action: alert}

tenancy: {share: labelled, with: [{owner: retail}], never: [{env: dev}], conflicts: [banks]}
placement: {require: {site: eu, smt: "off"}, prefer: {rack: b}}
dr: {site: backup, rpo: 15m, rto: 600, disks: [db.data]}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shop.yaml").write_text(WHOLE)
    (tmp_path / "shop.conf").write_bytes(b"\x00any bytes")
    (tmp_path / "db.qcow2").touch()
    (tmp_path / "images" / "api").mkdir(parents=True)
    (tmp_path / "images" / "api" / "image.yaml").write_text("base: base\n")
    return tmp_path


@pytest.fixture
def shop(folder: Path) -> Vapp:
    return load_file(folder / "shop.yaml", {})


def small(extra: str = "", vm: str = "") -> str:
    return f"vcloud: 1\nname: shop\nzones: {{dmz: {{}}}}\nvms:\n  web: {{image: nginx, zone: dmz{vm}}}\n{extra}"


def problems(text: str, folder: Path = Path(), **parameters: str) -> list[str]:
    with pytest.raises(SpecError) as raised:
        vapp_of(text, folder, **parameters)
    return [f"{problem.field}: {problem.what}" for problem in raised.value.problems]


def test_vms_are_what_is_written(shop: Vapp, folder: Path) -> None:
    web, api, db = shop.vms.values()
    assert (web.zones, web.count, web.cpus, web.memory, web.after) == (
        ("dmz", "app"),
        2,
        1,
        512 << 20,
        ("api",),
    )
    assert (web.ready.tcp, web.ready.timeout, web.packages, web.run) == (
        80,
        120,
        ("curl",),
        ("echo $HOME",),
    )
    assert web.names("web") == ("web-1", "web-2")
    assert db.names("db") == ("db",)
    assert (web.image_name, web.image_folder, web.image_source) == (
        "nginx",
        str(images_dir() / "nginx"),
        "",
    )
    assert (api.image_name, api.image_folder) == ("./images/api", str(folder / "images" / "api"))
    assert (db.image_folder, db.image_source, db.image_sha256[:4]) == (
        "",
        str(folder / "db.qcow2"),
        "0123",
    )
    assert {name: (disk.size >> 30, disk.mount) for name, disk in db.disks.items()} == {
        "data": (1, ""),
        "logs": (2, "/var/log"),
    }


def test_a_count_of_one_still_numbers() -> None:
    """So that counting up renames nobody."""
    assert vapp_of(small(vm=", count: 1")).vms["web"].names("web") == ("web-1",)


def test_files_hold_what_the_guest_gets(shop: Vapp) -> None:
    motd, conf = shop.vms["web"].files.values()
    assert (motd.content_bytes, motd.mode, motd.owner) == (
        b"hello, ${USER}: true\n",
        0o644,
        "root:root",
    )
    assert (conf.content_bytes, conf.mode, conf.owner) == (
        b"\x00any bytes",
        0o600,
        "www-data:www-data",
    )


def test_flows_are_what_is_written(shop: Vapp) -> None:
    assert [flow.id for flow in shop.flows] == [
        "checkout",
        "internet-web-tcp-443-udp-443",
        "dns",
        "web-api-tcp-8000-8010",
        "api-db-tcp-5432",
        "api-internet-tcp-443",
        "zone-dmz-db-icmp",
    ]
    tcp, udp = Protocol.TCP, Protocol.UDP
    assert [flow.published for flow in shop.flows[:4]] == [
        (Service(tcp, 8080, 8080),),
        (Service(tcp, 443, 443), Service(udp, 443, 443)),
        (Service(tcp, 5353, 5353), Service(udp, 5353, 5353)),
        (),
    ]
    assert (shop.flows[2].source, shop.flows[2].target, shop.flows[4].carries) == (
        "internet",
        "vm:web",
        ("cardholder-data",),
    )


def test_all_is_every_service_and_has_an_id_of_its_own() -> None:
    flows = """
      - {from: web, to: internet, service: all}
      - {from: web, to: 192.168.7.0/24, service: [icmp, tcp/80]}
      - {from: 192.168.7.9, to: web, service: tcp/80, publish: 8080}
      - {from: web, to: internet, service: [all, tcp/80]}
    """
    vapp = vapp_of(small(f"flows:{flows}"))
    assert vapp.flows[0].services == ALL_SERVICES
    assert vapp.flows[3].services == (*ALL_SERVICES, Service(Protocol.TCP, 80, 80))
    assert [flow.id for flow in vapp.flows[:3]] == [
        "web-internet-all",
        "web-192-168-7-0-24-icmp-tcp-80",
        "from-192-168-7-9-web-tcp-80",
    ]
    assert vapp.flows[2].published == (Service(Protocol.TCP, 8080, 8080),)


def test_protection_is_what_is_written(shop: Vapp) -> None:
    assert shop.protection.ips is not None
    assert (shop.protection.ips.inspect, shop.protection.ips.mode) == (("dmz",), Mode.DETECT)
    cards, orders = shop.protection.dlp
    assert (cards.id, cards.regex, cards.count, cards.leaving, cards.action) == (
        "card-number-leaving-cde-app",
        "",
        2,
        ("cde", "app"),
        Action.BLOCK,
    )
    assert cards.excepted == ("api-internet-tcp-443",)
    assert (orders.regex, orders.count, orders.action) == ("SHOP-[0-9]{8}", 3, Action.ALERT)


def test_everything_knows_its_line(shop: Vapp) -> None:
    lines = WHOLE.splitlines()

    def text(line: int) -> str:
        return lines[line - 1].strip()

    assert text(shop.vms["web"].line) == "web:"
    assert text(shop.flows[3].line).startswith("- {from: web")
    assert text(shop.protection.line) == "protection:"
    assert text(shop.protection.dlp[1].line).startswith("- {detect: {name: order-id")
    assert text(shop.line_of("vms.web.memory")) == "memory: 512"
    assert text(shop.line_of("vms.web.cpus")) == "web:"
    assert shop.flows[3].path == "flows[3]"


def test_the_defaults_are_the_small_ones() -> None:
    vapp = vapp_of(small())
    assert (
        vapp.owner,
        vapp.labels,
        vapp.flows,
        vapp.protection.dlp,
        vapp.protection.ips,
        vapp.tenancy,
    ) == ("", {}, (), (), None, None)
    assert (vapp.vms["web"].memory, vapp.vms["web"].count, vapp.vms["web"].ready.timeout) == (
        None,
        None,
        120,
    )


def test_nothing_can_be_changed(shop: Vapp) -> None:
    with pytest.raises(ValidationError):
        shop.vms["web"].cpus = 2  # type: ignore[misc]


def test_parameters_given_take_the_type_of_their_default(folder: Path) -> None:
    vapp = load_file(folder / "shop.yaml", {"web_count": "3", "greeting": "no", "ready": "false"})
    assert vapp.vms["web"].count == 3
    assert vapp.vms["web"].files["/etc/motd"].content == "no, ${USER}: false\n"


def test_a_parameters_value_is_never_read_as_yaml_or_as_a_reference(folder: Path) -> None:
    value = "x\n    evil: ${web_count} }"
    assert (
        load_file(folder / "shop.yaml", {"greeting": value}).vms["web"].files["/etc/motd"].content
        == f"{value}, ${{USER}}: true\n"
    )


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"web_count": "three"}, "-P web_count: 'three' is not a number"),
        ({"web_count": "999"}, "vms.web.count: 999 is too large; the maximum is 250"),
        ({"ready": "yes"}, "-P ready: 'yes' is not true or false"),
        ({"web_cuont": "3"}, "-P web_cuont: the file has no such parameter"),
        ({"greeting": "\x07"}, "-P greeting: the text contains the control character '\\x07'"),
    ],
)
def test_bad_parameters_are_named(folder: Path, parameters: dict[str, str], said: str) -> None:
    assert problems(WHOLE, folder, **parameters) == [said]


def test_parameters_cannot_blow_up_the_file() -> None:
    text = small(f"parameters: {{a: {'x' * 4096}}}\nowner: '{'${a}' * 10000}'\n")
    assert problems(text) == ["owner: parameters add more than 8388608 characters to the file"]


@pytest.mark.parametrize(
    "name", ["nothing.conf", "loop", "outside", "pipe", "huge", "folder", "locked/x"]
)
def test_a_source_is_a_readable_regular_file_beside_the_vapp_file(
    tmp_path: Path, name: str
) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "secret").write_text("secret")
    (inside / "loop").symlink_to("loop")
    (inside / "outside").symlink_to(tmp_path / "secret")
    os.mkfifo(inside / "pipe")
    (inside / "huge").write_bytes(bytes((1 << 20) + 1))
    (inside / "folder").mkdir()
    (said,) = problems(small(vm=f", files: {{/etc/a: {{source: {name}}}}}"), inside)
    assert said.startswith(f"vms.web.files[\"/etc/a\"].source: '{name}' ")


def test_a_link_within_the_folder_is_a_source(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("text")
    (tmp_path / "link").symlink_to("real")
    vapp = vapp_of(small(vm=", files: {/etc/a: {source: link}}"), tmp_path)
    assert vapp.vms["web"].files["/etc/a"].content_bytes == b"text"


def test_what_cannot_be_enforced_is_refused_by_name(shop: Vapp) -> None:
    fields = [problem.field for problem in refusals(shop)]
    assert fields == ["flows[5].tls", "dr"]
    assert all(problem.line and problem.hint for problem in refusals(shop))


def test_what_can_be_enforced_is_not_refused() -> None:
    assert (
        refusals(
            vapp_of(
                small(
                    "flows: [{from: internet, to: web, service: tcp/80}]\nprotection: {ips: {inspect: dmz}}\n"
                )
            )
        )
        == ()
    )


def test_a_zone_without_vms_is_noted_and_no_error() -> None:
    (note,) = notes(vapp_of(small().replace("{dmz: {}}", "{dmz: {}, spare: {}}")))
    assert note.field == "zones.spare"
    assert notes(vapp_of(small())) == ()


def test_the_name_can_be_read_from_a_file_that_is_wrong_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "shop.yaml"
    path.write_text("name: shop\nvms: 3\n")
    assert read_name(path) == "shop"
    path.write_text("name: ../shop\n")
    with pytest.raises(SpecError):
        read_name(path)


@pytest.mark.parametrize("path", ["missing.yaml", "."])
def test_a_file_that_cannot_be_read_is_a_usage_error(path: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        load_file(tmp_path / path, {})


@pytest.mark.parametrize(
    "template", sorted((templates_dir() / "vapps").glob("*.yaml")), ids=lambda path: path.stem
)
def test_every_template_is_valid_and_can_be_enforced(template: Path) -> None:
    vapp = load_file(template, {})
    assert refusals(vapp) == ()
    assert notes(vapp) == ()


def test_ten_thousand_flows_load_in_seconds() -> None:
    flows = "".join(
        f"  - {{from: web, to: internet, service: tcp/{port}}}\n" for port in range(1, 10_001)
    )
    assert len(vapp_of(small(f"flows:\n{flows}")).flows) == 10_000


def test_more_zones_than_a_host_has_room_for_are_refused() -> None:
    zones = ", ".join(f"z{number}: {{}}" for number in range(4097))
    assert problems(small().replace("{dmz: {}}", f"{{dmz: {{}}, {zones}}}")) == [
        "zones: this has 4098 entries; the maximum is 100"
    ]


def test_many_misspelt_ends_take_no_time_and_the_first_get_a_suggestion() -> None:
    vms = "".join(f"  vm-{number}: {{image: base, zone: dmz}}\n" for number in range(2000))
    flows = "".join(
        f"  - {{from: vm_{number}, to: wep-{number}, service: tcp/80}}\n".replace("_", "n-")
        for number in range(2000)
    )
    with pytest.raises(SpecError) as raised:
        vapp_of(small(f"{vms}flows:\n{flows}"))
    assert len(raised.value.problems) == 4000
    assert (
        sum(
            "Did you mean" in problem.hint or "Known ends" in problem.hint
            for problem in raised.value.problems
        )
        == 50
    )


def test_a_long_list_is_read_in_time() -> None:
    names = ", ".join(f"n{number}" for number in range(60_000))
    flows = (
        f"flows: [{{from: web, to: internet, service: tcp/80, carries: [{names}, last, last]}}]\n"
    )
    assert problems(small(flows)) == ["flows[0].carries: 'last' is listed twice"]


def test_a_flow_between_too_many_vms_is_refused() -> None:
    tiers = "".join(f"  t{number}: {{image: base, zone: dmz, count: 250}}\n" for number in range(4))
    assert problems(
        small(
            f"{tiers}flows: [{{from: t0, to: t0, service: tcp/80}}, {{from: dmz, to: dmz, service: tcp/80}}]\n"
        )
    ) == ["flows[1]: up to this flow, 1064501 pairs of VMs have a service; the maximum is 250000"]


def test_more_exceptions_than_the_ips_has_rules_for_are_refused() -> None:
    services = ", ".join(f"tcp/{port}" for port in range(1, 2002))
    flows = f"flows: [{{id: much, from: web, to: internet, service: [{services}]}}]\n"
    dlp = "protection: {dlp: [{detect: card-number, leaving: dmz, except: much}]}\n"
    assert problems(small(flows + dlp)) == [
        "protection.dlp: the exceptions of all detectors name 2001 services; the maximum is 2000"
    ]


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=12),
    st.sampled_from(["web", "dmz", "1G", "${n}", "tcp/80", "internet"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=6) | st.sampled_from(["image", "to", "web"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


def places_in(value: Any) -> list[tuple[Any, Any]]:
    return list(
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of everything in a tree."""
    return [
        path,
        *(place for key, item in places_in(value) for place in places(item, (*path, key))),
    ]


TREE = yaml.safe_load(WHOLE)
PLACES = [place for place in places(TREE) if place]


def outcome(text: str) -> Vapp | SpecError:
    try:
        return vapp_of(text)
    except SpecError as error:
        return error


def put(tree: Any, path: tuple[Any, ...], value: Any) -> None:
    """Replaces what stands at a path, if earlier replacements left it there."""
    *parents, last = path
    for key in parents:
        tree = dict(places_in(tree)).get(key)
    if last in dict(places_in(tree)):
        tree[last] = value


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(changes=st.lists(st.tuples(st.sampled_from(PLACES), VALUES), min_size=1, max_size=4))
def test_a_damaged_file_is_a_vapp_or_a_spec_error(
    changes: list[tuple[tuple[Any, ...], Any]],
) -> None:
    """Anything may stand anywhere: every problem has a sentence and a line that exists."""
    tree = copy.deepcopy(TREE)
    for path, value in changes:
        put(tree, path, copy.deepcopy(value))
    text = yaml.safe_dump(tree, allow_unicode=True)
    result = outcome(text)
    last = text.count("\n")
    assert isinstance(result, Vapp) or all(
        problem.what and 0 <= problem.line <= last for problem in result.problems
    )


@given(st.text(max_size=200))
def test_any_text_is_a_vapp_or_a_spec_error(text: str) -> None:
    with pytest.raises(SpecError):
        vapp_of(text)
