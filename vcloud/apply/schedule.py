"""Runs the steps of a plan, and no others. Each step begins as soon as the steps that it needs have
ended; several may run at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from vcloud.plan.steps import Step

TURN = 0.5
"""Seconds after which Ctrl-C is noticed, at most."""
MOST_THREADS = 64
"""A step mostly waits for its host, so there may be more threads than processors."""


def run_steps(
    steps: Sequence[Step],
    act: Callable[[Step], None],
    *,
    slots: int = 1,
    takes_slot: Callable[[Step], bool] = lambda _: False,
    left: Callable[[Step], None] = lambda _: None,
    failed: Callable[[BaseException, Collection[Step]], None] = lambda _error, _running: None,
) -> None:
    """Runs all steps to their end.

    Of several steps that may begin, the one with the lowest rank begins first; then the order of
    `steps` counts. After the first failure no other step begins. Steps that still run are awaited,
    because they may still change the host, and no other run may begin before they end.

    Args:
        steps: steps of one plan; what they need is among them.
        act: does a step, in a thread of its own. It raises where the step fails.
        slots: how many of the steps that take a slot may run at a time: the host's processors.
        takes_slot: whether a step keeps a processor busy.
        left: is told of each step that does not begin because another one has failed.
        failed: is told of an error at once, with the steps that still run, which may take minutes.
            It is not told of the error that is raised, if nothing else runs.

    Raises the error of the step that failed first.
    """
    queue = _Queue(steps, slots, takes_slot)
    pool = ThreadPoolExecutor(min(MOST_THREADS, max(1, len(steps))))
    running: dict[Future[None], Step] = {}
    failure: BaseException | None = None
    try:
        while True:
            if failure is None:
                running |= {pool.submit(act, step): step for step in queue.begin()}
            if not running:
                break
            # A wait without a time limit would hold back Ctrl-C.
            done = wait(running, TURN, FIRST_COMPLETED).done
            for ended in done:
                queue.end(running.pop(ended), succeeded=ended.exception() is None)
            for error in filter(None, (ended.exception() for ended in done)):
                failure = failure or error
                # The caller reports the error that is raised.
                if running or error is not failure:
                    failed(error, tuple(running.values()))
    finally:
        # Steps still run here only after Ctrl-C. They are not awaited; the next run repairs what
        # they leave incomplete.
        pool.shutdown(wait=False, cancel_futures=True)
    if failure is not None:
        for step in queue.waiting:
            left(step)
        raise failure
    if queue.waiting:
        raise AssertionError(f"steps need each other: {[step.id for step in queue.waiting]}")


class _Queue:
    """The steps that wait, and the steps that may begin."""

    def __init__(
        self, steps: Sequence[Step], slots: int, takes_slot: Callable[[Step], bool]
    ) -> None:
        self.waiting = sorted(steps, key=lambda step: step.rank)
        self._ended: set[str] = set()
        self._free = slots
        self._takes_slot = takes_slot

    def begin(self) -> Collection[Step]:
        """Takes out the steps that may begin now."""
        ready = tuple(self._ready())
        self.waiting = [step for step in self.waiting if step not in ready]
        return ready

    def _ready(self) -> Iterator[Step]:
        for step in self.waiting:
            if not step.needs <= self._ended:
                continue
            if self._takes_slot(step):
                # Later steps may still begin if they take no slot.
                if self._free == 0:
                    continue
                self._free -= 1
            yield step

    def end(self, step: Step, *, succeeded: bool) -> None:
        self._free += self._takes_slot(step)
        if succeeded:
            self._ended.add(step.id)
