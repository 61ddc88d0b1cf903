"""The scheduler runs exactly the plan: each step after those it needs, nothing after a failure, and
says what did not begin.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.plan.test_order import DESIGN, planned
from vcloud.apply.schedule import run_steps
from vcloud.errors import HostError
from vcloud.plan.order import with_memory_images
from vcloud.plan.steps import Step, Verb

PLAN = with_memory_images(planned(), [("k", ("web-1", "web-2"))])


class Journal:
    """Notes when each step begins and ends, and lets one of them fail."""

    def __init__(self, failing: str = "") -> None:
        self.failing = failing
        self.told: list[tuple[str, str]] = []
        self.lock = threading.Lock()

    def act(self, step: Step) -> None:
        self.note("begin", step)
        if step.id == self.failing:
            raise HostError(f"{step.id} failed")
        self.note("end", step)

    def note(self, what: str, step: Step) -> None:
        with self.lock:
            self.told.append((what, step.id))

    def ids(self, what: str) -> list[str]:
        return [id_ for kind, id_ in self.told if kind == what]


def test_every_step_runs_once_and_after_all_that_it_needs() -> None:
    journal = Journal()
    run_steps(PLAN.steps, journal.act)
    assert sorted(journal.ids("end")) == sorted(step.id for step in PLAN.steps)
    for step in PLAN.steps:
        began = journal.told.index(("begin", step.id))
        assert all(journal.told.index(("end", need)) < began for need in step.needs)


@pytest.mark.parametrize("failing", [step.id for step in PLAN.steps])
def test_after_the_failure_of_any_step_nothing_that_needs_it_begins_and_the_rest_is_named(
    failing: str,
) -> None:
    journal, left = Journal(failing), list[Step]()
    with pytest.raises(HostError, match=f"{failing} failed"):
        run_steps(PLAN.steps, journal.act, left=left.append)
    begun = set(journal.ids("begin"))
    assert not [step.id for step in PLAN.steps if failing in step.needs and step.id in begun]
    assert begun | {step.id for step in left} == {step.id for step in PLAN.steps}
    assert not begun & {step.id for step in left}


@pytest.mark.parametrize(
    "failing", [step.id for step in PLAN.steps if step.verb is not Verb.RECORD]
)
def test_a_run_that_failed_never_says_that_the_vapp_is_ready(failing: str) -> None:
    journal = Journal(failing)
    with pytest.raises(HostError):
        run_steps(PLAN.steps, journal.act)
    assert f"record {DESIGN.vapp}" not in journal.ids("begin")


def test_what_has_begun_is_awaited_after_a_failure() -> None:
    """It may still change the host, and nobody else may meet it there."""
    begun, release, ended = threading.Event(), threading.Event(), threading.Event()

    def act(step: Step) -> None:
        if step.subject == "slow":
            begun.set()
            release.wait(10)
            ended.set()
        else:
            begun.wait(10)
            threading.Timer(0.05, release.set).start()
            raise HostError("it failed")

    with pytest.raises(HostError):
        run_steps([Step(Verb.MAKE_VM, "slow", ""), Step(Verb.MAKE_VM, "failing", "")], act)
    assert ended.is_set()


def test_the_first_failure_is_the_one_that_is_told() -> None:
    order = threading.Event()

    def act(step: Step) -> None:
        if step.subject == "second":
            order.wait(10)
            raise HostError("second")
        threading.Timer(0.05, order.set).start()
        raise HostError("first")

    with pytest.raises(HostError, match="first"):
        run_steps([Step(Verb.MAKE_VM, "second", ""), Step(Verb.MAKE_VM, "first", "")], act)


def test_an_error_is_told_at_once_and_not_when_the_run_ends() -> None:
    """What still runs may run for minutes."""
    told = threading.Event()
    seen: list[tuple[str, list[str]]] = []

    def act(step: Step) -> None:
        if step.subject == "slow":
            assert told.wait(10), "nobody has told the error while this step ran"
        else:
            raise HostError("it failed")

    def failed(error: BaseException, running: Collection[Step]) -> None:
        seen.append((str(error), [step.subject for step in running]))
        told.set()

    steps = [Step(Verb.MAKE_VM, "slow", ""), Step(Verb.MAKE_VM, "failing", "")]
    with pytest.raises(HostError, match="it failed"):
        run_steps(steps, act, failed=failed)
    assert seen == [("it failed", ["slow"])]


def test_of_several_errors_none_is_lost() -> None:
    """The first one ends the run, and those after it are told."""
    seen: list[str] = []
    first = threading.Event()

    def act(step: Step) -> None:
        if step.subject == "second":
            first.wait(10)
        raise HostError(step.subject)

    def failed(error: BaseException, _: Collection[Step]) -> None:
        seen.append(str(error))
        first.set()

    with pytest.raises(HostError, match="first"):
        run_steps(
            [Step(Verb.MAKE_VM, "second", ""), Step(Verb.MAKE_VM, "first", "")], act, failed=failed
        )
    assert seen == ["first", "second"]


def test_an_error_that_ends_the_run_is_told_once() -> None:
    seen: list[BaseException] = []

    def act(_: Step) -> None:
        raise HostError("it failed")

    with pytest.raises(HostError):
        run_steps([Step(Verb.MAKE_VM, "one", "")], act, failed=lambda error, _: seen.append(error))
    assert not seen


@contextmanager
def gauge() -> Iterator[tuple[Callable[[Step], None], list[int], list[str]]]:
    """An action that notes how many run at a time, and in which order they began."""
    running, most, begun, lock, go = [0], [0], list[str](), threading.Lock(), Future[None]()

    def act(step: Step) -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
            begun.append(step.subject)
        threading.Event().wait(0.01)
        with lock:
            running[0] -= 1

    yield act, most, begun
    go.cancel()


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_no_more_steps_keep_a_processor_busy_than_there_are(slots: int) -> None:
    steps = [Step(Verb.MAKE_VM, f"vm-{number}", "", rank=9 - number) for number in range(9)]
    with gauge() as (act, most, begun):
        run_steps(steps, act, slots=slots, takes_slot=lambda _: True)
    assert most[0] <= slots
    if slots == 1:
        assert begun == [f"vm-{number}" for number in reversed(range(9))], (
            "the lowest rank begins first"
        )


def test_who_takes_no_processor_does_not_wait_for_one() -> None:
    steps = [Step(Verb.MAKE_VM, f"vm-{number}", "") for number in range(6)]
    together = threading.Barrier(6)
    run_steps(steps, lambda _: together.wait(10) and None, slots=1)


def test_steps_that_need_each_other_are_a_mistake_of_ours_and_not_a_silent_end() -> None:
    one, other = Step(Verb.MAKE_VM, "one", ""), Step(Verb.MAKE_VM, "other", "")
    with pytest.raises(AssertionError, match="need each other"):
        run_steps(
            [replace(one, needs=frozenset({other.id})), replace(other, needs=frozenset({one.id}))],
            lambda _: None,
        )


def test_nothing_to_do_ends_at_once() -> None:
    run_steps([], lambda _: None)


@given(st.lists(st.tuples(st.integers(0, 5), st.sets(st.integers(0, 11), max_size=3)), max_size=12))
def test_any_graph_without_a_circle_runs_to_its_end(shape: list[tuple[int, set[int]]]) -> None:
    steps = [
        Step(
            Verb.MAKE_VM,
            str(number),
            "",
            needs=frozenset(f"make VM {need}" for need in needs if need < number),
            rank=rank,
        )
        for number, (rank, needs) in enumerate(shape)
    ]
    journal = Journal()
    run_steps(steps, journal.act, slots=2, takes_slot=lambda step: step.rank % 2 == 0)
    assert len(journal.ids("end")) == len(steps)
