"""Which cores a vApp gets: whole ones, nobody else's, and the same ones again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vapps import design_of_text
from vcloud.errors import Exit, RefusedError
from vcloud.placement.cores import Topology, chosen_cores, refuse_without_cores, wanting_cores
from vcloud.values import processors_in, processors_shown

PLAIN = Topology(((0,), (1,), (2,), (3,)))
THREADED = Topology(((0, 4), (1, 5), (2, 6), (3, 7)))
TEXT = """\
vcloud: 1
name: vault
zones: {dmz: {}}
vms:
  web: {image: base, zone: dmz, cpus: 2}
  db: {image: base, zone: dmz%s}
%s
"""


def test_each_virtual_cpu_gets_a_core_and_the_host_keeps_the_first() -> None:
    found = chosen_cores(PLAIN, (("web", 2), ("db", 1)), frozenset(), {})
    assert found.pins == {"web": (1, 2), "db": (3,)}
    assert (found.owned, found.missing) == ({1, 2, 3}, 0)


def test_two_threads_of_a_core_never_belong_to_two_vapps() -> None:
    one = chosen_cores(THREADED, (("web", 1),), frozenset(), {})
    assert (one.pins, one.owned) == ({"web": (1,)}, {1, 5})
    other = chosen_cores(THREADED, (("web", 3),), one.owned, {})
    assert (other.pins, other.owned) == ({"web": (2, 6, 3)}, {2, 6, 3, 7})
    # A core is not given as long as somebody has any part of it.
    assert chosen_cores(THREADED, (("web", 6),), frozenset({6}), {}).missing == 2


def test_a_vapp_keeps_its_cores_and_gets_more_beside_them() -> None:
    have = {"db": (3,)}
    found = chosen_cores(PLAIN, (("web", 1), ("db", 2)), frozenset(), have)
    assert found.pins == {"web": (1,), "db": (3, 2)}
    assert chosen_cores(PLAIN, (("db", 1),), frozenset(), {"db": (3, 2)}).pins == {"db": (3,)}


def test_a_core_that_somebody_else_has_or_that_is_gone_is_given_up() -> None:
    have = {"db": (3,), "web": (9,)}
    found = chosen_cores(PLAIN, (("web", 1), ("db", 1)), frozenset({3}), have)
    assert found.pins == {"web": (1,), "db": (2,)}


VMS = st.lists(st.integers(1, 4), max_size=4).map(
    lambda sizes: [(f"vm{place}", size) for place, size in enumerate(sizes)]
)


@given(
    st.integers(1, 8),
    st.integers(1, 2),
    VMS,
    st.frozensets(st.integers(0, 20), max_size=6),
    st.dictionaries(
        st.sampled_from(["vm0", "vm1", "vm2"]), st.lists(st.integers(0, 20), max_size=4).map(tuple)
    ),
)
def test_whatever_stands_no_processor_is_given_twice(
    count: int,
    threads: int,
    wanted: list[tuple[str, int]],
    taken: frozenset[int],
    standing: dict[str, tuple[int, ...]],
) -> None:
    topology = Topology(
        tuple(tuple(core + count * thread for thread in range(threads)) for core in range(count))
    )
    found = chosen_cores(topology, wanted, taken, standing)
    given_ = [number for numbers in found.pins.values() for number in numbers]
    assert len(given_) == len({*given_})
    assert {*given_} <= found.owned
    assert not found.owned & (taken | {*topology.cores[0]})
    assert found.owned == topology.whole(found.owned)
    assert found.missing == sum(size for _, size in wanted) - len(given_)
    # Nobody goes without while there is a processor, and the same vApp gets the same cores again.
    free = [core for core in topology.cores[1:] if not taken & {*core}]
    assert found.missing == max(0, sum(size for _, size in wanted) - threads * len(free))
    assert chosen_cores(topology, wanted, taken, found.pins).pins == found.pins


def test_a_refusal_names_the_host_the_line_and_whose_the_cores_are() -> None:
    design = design_of_text(TEXT % ("", "isolation:\n  cpus: own"))
    assert wanting_cores(design) == (("firewall", 1), ("web", 2), ("db", 1))
    taken = frozenset({3})
    found = chosen_cores(PLAIN, wanting_cores(design), taken, {})
    with pytest.raises(RefusedError) as refused:
        refuse_without_cores(design, "h1", PLAIN, taken, found)
    assert refused.value.exit is Exit.REFUSED
    said = str(refused.value)
    assert "vapp.yaml:7: isolation.cpus: 4 virtual CPUs of the vApp demand cores" in said
    assert (
        "2 get none on h1: of its processors 0-3, 0 stays with the host, and 3 are others'" in said
    )
    refuse_without_cores(
        design, "h1", PLAIN, taken, chosen_cores(PLAIN, (("web", 1),), frozenset(), {})
    )


def test_a_single_vm_may_demand_cores() -> None:
    design = design_of_text(TEXT % (", isolation: {cpus: own}", ""))
    assert wanting_cores(design) == (("db", 1),)
    assert wanting_cores(design_of_text(TEXT % ("", ""))) == ()


@pytest.mark.parametrize("text", ["0", "0-3", "0,2-3,8", "", "5,7"])
def test_a_list_of_processors_is_read_as_linux_writes_it(text: str) -> None:
    assert processors_shown(processors_in(text)) == text


@pytest.mark.parametrize(
    "text", ["3-1", "-1", "a", "1;2", "0-999999999999", "0-99999", "1-2-3", "²"]
)
def test_what_is_no_list_of_processors_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no list of processors"):
        processors_in(text)
