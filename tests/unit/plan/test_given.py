"""What stands is remembered: the parameters of the last `up`, its uplink, and a second name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.standing import manifest_of, standing
from tests.vapps import SMALL, design_of_text
from vcloud.apply.planning import kept_on, refuse_uplink
from vcloud.design.model import Design
from vcloud.documents.given import FromFile
from vcloud.documents.parameter import Parameter, Source
from vcloud.errors import Exit, RefusedError, UsageError
from vcloud.files import Folder
from vcloud.fleet.fleet import Fleet
from vcloud.hosts.connection import Host, open_host
from vcloud.hosts.inventory import HostRef
from vcloud.hosts.manifests import write_manifest
from vcloud.pipeline import design_of
from vcloud.plan.diff import plan_changes
from vcloud.plan.formats import decoded, encoded
from vcloud.plan.given import forgotten, kept_values, parameter_changes
from vcloud.plan.steps import Verb
from vcloud.spec.load import parse_vapp
from vcloud.views.render import UPLINK

TEXT = SMALL.replace("name: small", "name: small\nparameters: {n: 1, greeting: hello}").replace(
    "zone: dmz}", 'zone: dmz, count: "${n}", files: {/etc/motd: "${greeting}"}}'
)


def read(text: str = TEXT, **given: str | FromFile) -> Design:
    return design_of(parse_vapp(text.encode(), Folder(Path()), "small.yaml", given))


def test_a_plan_tells_which_parameters_differ_and_where_each_value_comes_from() -> None:
    before, now = read(n="2"), manifest_of(read())
    plan = plan_changes(now, standing(before), "h1")
    assert plan.subjects(Verb.REMOVE_VM) == ("small.web-2",)
    assert [str(change) for change in plan.parameters] == [
        "n: 2 (by -P) at the last `up`, now 1 (the default in the file)"
    ]
    said = "the last `up` was given -P n=2, and this one is not; to keep it, add --keep-params"
    assert plan.notes[0] == said
    again = plan_changes(manifest_of(before), standing(before), "h1")
    assert (again.steps, again.parameters, again.notes) == ((), (), ())


def test_what_a_host_has_recorded_is_no_command_in_the_text_that_a_user_copies() -> None:
    for given, shown in (("$(reboot) x", "-P 'greeting=$(reboot) x',"), ("hi", "-P greeting=hi,")):
        old = Parameter("greeting", given, Source.OPTION)
        new = Parameter("greeting", "hello", Source.DEFAULT)
        before, now = (replace(read(), parameters=(one,)) for one in (old, new))
        assert shown in forgotten(parameter_changes(now, manifest_of(before)))


def test_what_the_file_itself_changes_is_not_called_forgotten() -> None:
    before, now = read(), read(TEXT.replace("n: 1", "n: 3"))
    changes = parameter_changes(now, manifest_of(before))
    assert [(change.old, change.new, change.forgotten) for change in changes] == [("1", "3", False)]
    assert forgotten(changes) == ""
    assert parameter_changes(now, None) == ()
    new = parameter_changes(read(n="2"), manifest_of(before))
    assert forgotten(new) == ""
    by_file = read(n=FromFile(2, "/home/ann/params.yaml", 1, others_read=True))
    assert by_file.parameters[0].source is Source.FILE
    assert str(parameter_changes(before, manifest_of(by_file))[0]).startswith(
        "n: 2 (by --param-file)"
    )


def test_a_manifest_keeps_no_value_that_stands_in_a_content(  # it may be a secret
) -> None:
    manifest = manifest_of(read(greeting="hush", n="2"))
    assert [(one.name, one.value) for one in manifest.design.parameters] == [
        ("n", "2"),
        ("greeting", None),
    ]
    assert decoded(*encoded(manifest)) == manifest
    assert kept_values(manifest.design, {"greeting"}) == {"n": "2"}
    with pytest.raises(UsageError, match="does not know the last value of greeting") as raised:
        kept_values(manifest.design, ())
    assert "-P greeting=VALUE" in raised.value.hint
    assert kept_values(manifest_of(read(n="2")).design, ()) == {"n": "2"}, "a default is no gift"


def test_a_manifest_of_an_earlier_release_needs_no_step_for_parameters() -> None:
    now = manifest_of(read())
    earlier = replace(read(), parameters=())
    assert plan_changes(now, standing(earlier), "h1").steps == ()
    assert plan_changes(now, standing(read(n="1")), "h1").steps == (), "only its source differs"
    renamed = manifest_of(read(TEXT.replace("{n: 1,", "{n: 1, more: x,")))
    assert plan_changes(renamed, standing(read()), "h1").has(Verb.RECORD)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    node = tmp_path / "node.xml"
    node.write_text("<node/>")
    with open_host(HostRef("h1", f"test://{node}")) as opened:
        yield opened


def test_the_uplink_of_what_stands_changes_only_on_purpose() -> None:
    have = manifest_of(read())
    other = manifest_of(read(), uplink=replace(UPLINK, network="", bridge="br0"))
    refuse_uplink(have, have, "h1", agreed=False)
    refuse_uplink(other, None, "h1", agreed=False)
    refuse_uplink(other, have, "h1", agreed=True)
    with pytest.raises(RefusedError) as raised:
        refuse_uplink(other, have, "h1", agreed=False)
    assert raised.value.exit is Exit.REFUSED
    assert "is on network 'uplink', and this run would put it on bridge 'br0'" in str(raised.value)
    assert "--change-uplink" in str(raised.value)


def test_another_name_makes_a_second_copy_beside_the_first() -> None:
    one = design_of_text(TEXT)
    other = design_of(parse_vapp(TEXT.encode(), Folder(Path()), name="second"))
    assert (one.vapp, other.vapp) == ("small", "second")
    names = [{vm.domain for vm in design.vms} for design in (one, other)]
    macs = [{nic.mac for vm in design.vms for nic in vm.nics} for design in (one, other)]
    prefixes = [{zone.prefix4 for zone in design.zones} for design in (one, other)]
    for first, second in (names, macs, prefixes):
        assert first.isdisjoint(second)


def test_kept_parameters_come_from_the_host(host: Host) -> None:
    lab = Fleet([host])
    assert kept_on(lab, "small", ()) == {}
    write_manifest(host, manifest_of(read(n="2")))
    assert kept_on(lab, "small", ()) == {"n": "2"}
    assert kept_on(lab, "small", {"n"}) == {}, "it is given anew"
    assert kept_on(lab, "second", ()) == {}
