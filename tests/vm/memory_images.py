"""What the tests of memory images ask of a host, and how they make them."""

from __future__ import annotations

from pathlib import Path

from tests.vm.driver import Operator, volumes


def make_memory_images(operator: Operator, file: Path) -> None:
    operator.run("image", "memory", "make", str(file))


def memory_images(operator: Operator) -> list[str]:
    """Their names, IMAGE-KEY."""
    return [item["name"] for item in operator.run("image", "memory", "list", "-o", "json").data]


def imaged(operator: Operator) -> list[str]:
    """The images whose VMs there are memory images of; an image with several appears as often."""
    return sorted(name.rpartition("-")[0] for name in memory_images(operator))


def volumes_of(operator: Operator, memory_image: str = "") -> list[str]:
    """The volumes of one memory image, or of all."""
    return volumes(operator, f"template-{memory_image}")
