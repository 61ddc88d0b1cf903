"""From bytes to a model: all problems at once, each with its line, its sentence and its way out."""

from __future__ import annotations

from typing import Annotated

import pytest
from pydantic import BaseModel, ConfigDict, Field, Strict

from vcloud.documents.document import Document, Node
from vcloud.documents.field import Shape
from vcloud.documents.model import Kind, read_model, salvaged
from vcloud.errors import SpecError

NAME = Shape(
    "[a-z]{1,8}", "is not a pet's name", "Use up to 8 lower-case letters.", frozenset({"nobody"})
)


class Pet(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Annotated[str, NAME] = Field(examples=["cat"])
    legs: Annotated[int, Strict()] = Field(4, ge=0, le=8)


class Farm(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    pets: dict[Annotated[str, NAME], Pet] = Field(min_length=1, examples=[{"tom": {"kind": "cat"}}])
    names: dict[str, str] = Field(default_factory=dict)
    fed: Annotated[bool, Strict()] = True


class Zoo(BaseModel):
    name: str = "zoo"


FARM = Kind(Farm, "pets: {tom: {kind: cat}}", "The vet has some.")


def said(text: str) -> list[tuple[int, str, str, str]]:
    with pytest.raises(SpecError) as raised:
        read_model(text.encode(), "farm.yaml", FARM).sound()
    return [
        (problem.line, problem.field, problem.what, problem.hint)
        for problem in raised.value.problems
    ]


def test_a_right_document_is_a_model() -> None:
    farm = read_model(
        b"pets: {tom: {kind: cat}, jerry: {kind: mouse, legs: 3}}", "farm.yaml", FARM
    ).sound()
    assert [(name, pet.kind, pet.legs) for name, pet in farm.pets.items()] == [
        ("tom", "cat", 4),
        ("jerry", "mouse", 3),
    ]


def test_all_problems_come_at_once_with_their_lines() -> None:
    assert said(
        "pets:\n  tom: {kind: cat, legs: 9}\n  Bo: {knid: ox}\n  nobody: {kind: ox}\nfed: yes\n"
    ) == [
        (2, "pets.tom.legs", "9 is too large; the maximum is 8", ""),
        (3, "pets.Bo", "'Bo' is not a pet's name", "Use up to 8 lower-case letters."),
        (3, "pets.Bo.kind", "required key 'kind' is missing", "For example: kind: cat"),
        (3, "pets.Bo.knid", "unknown key", "Did you mean 'kind'?"),
        (
            4,
            "pets.nobody",
            "'nobody' is a reserved word",
            "Choose another name. Reserved words are: nobody.",
        ),
        (
            5,
            "fed",
            "some YAML readers take yes without quotes as true, others as text",
            "Write true, or 'yes' in quotes for the text.",
        ),
    ]


@pytest.mark.parametrize(
    ("text", "what", "hint"),
    [
        ("fed: true", "required key 'pets' is missing", "For example: pets: {tom: {kind: cat}}"),
        (
            "pets: [tom]",
            "expected a mapping, but this is a list",
            "Write `tom: {}` instead of `- tom`.",
        ),
        (
            "pets: [{tom: 1}]",
            "expected a mapping, but this is a list",
            "Remove the dash before each key.",
        ),
        ("pets: [1]", "expected a mapping, but this is a list", ""),
        (
            "pets:",
            "expected a mapping, but this is empty",
            "Write a value for the key, or remove the key.",
        ),
        (
            "{pets: {a: {kind: a}}, names: [a]}",
            "expected a mapping, but this is a list",
            "Write `a: ...` instead of `- a`.",
        ),
        (
            "{pets: {a: {kind: a}}, fed: 'true'}",
            "expected true or false, but this is 'true'",
            "Remove the quotes.",
        ),
        ("{pets: {a: {kind: a}}, fed: 'maybe'}", "expected true or false, but this is 'maybe'", ""),
        (
            "{pets: {a: {kind: a, legs: '4'}}}",
            "expected a whole number, but this is '4'",
            "Remove the quotes.",
        ),
        ("{pets: {a: {kind: 4}}}", "expected text, but this is a number", "Put it in quotes."),
        ("", "the file is empty", "The vet has some."),
        (
            "- a",
            "the file must be a mapping of keys to values",
            "For example: pets: {tom: {kind: cat}}",
        ),
    ],
)
def test_a_sentence_and_a_way_out(text: str, what: str, hint: str) -> None:
    ((_, _, found, way_out),) = said(text)
    assert (found, way_out) == (what, hint)


def test_a_kind_of_document_may_be_empty() -> None:
    assert read_model(b"", "zoo.yaml", Kind(Zoo, "", may_be_empty=True)).sound() == Zoo()


def test_prepare_may_change_the_tree_and_gives_the_context() -> None:
    def prepare(document: Document) -> str:
        document.tree["pets"]["tom"]["legs"] = 2
        return "context"

    reading = read_model(b"pets: {tom: {kind: cat}}", "farm.yaml", FARM, prepare)
    assert (reading.sound().pets["tom"].legs, reading.context) == (2, "context")


def test_what_is_right_is_salvaged_from_a_document_with_problems() -> None:
    def stand_in(tree: Node) -> None:
        for pet in tree["pets"].values():
            pet.setdefault("kind", "unknown")

    reading = read_model(
        b"pets: {tom: {kind: cat, legs: 9, more: 1}, Bo: {}, rex: {kind: 1}}", "farm.yaml", FARM
    )
    farm = salvaged(reading, stand_in)
    assert reading.model is None
    assert farm is not None
    assert {name: (pet.kind, pet.legs) for name, pet in farm.pets.items()} == {
        "tom": ("cat", 4),
        "rex": ("unknown", 4),
    }


def test_too_little_to_salvage_is_nothing() -> None:
    assert salvaged(read_model(b"fed: 1", "farm.yaml", FARM), Node.clear) is None
