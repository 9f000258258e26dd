"""One walk over a spec that finds all that it names: files, and what a modality looks up.

Types say what a value is: `Role` in an annotation marks it. The walk follows values and types side
by side, so that it finds the same things in a checked spec and in a document that does not fit
the language everywhere. Nothing is opened.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, Discriminator, Tag
from pydantic.fields import FieldInfo

from editspec_compiler.problems import SpecPath


@dataclass(frozen=True)
class Role:
    """Marks in a type annotation what values of the type are.

    The role `FILE` is that of text that names a file, relative to the spec. Other roles are the
    modality's.
    """

    name: str


FILE = "file"


@dataclass(frozen=True)
class Item:
    """A value with a role.

    Attributes
    ----------
    path
        Where it stands in the spec.
    role
        The name of its role.
    value
        Plain data of a document, or a checked part of a spec.
    """

    path: SpecPath
    role: str
    value: Any


def visit(part: Any, given: Any, path: SpecPath = ()) -> Iterator[Item]:
    """Every value with a role in a part of the language, outer ones first.

    Parameters
    ----------
    part
        The type: a model, or an annotation.
    given
        A checked part of that type, or plain data that may not fit it.
    path
        Where `given` stands in the spec.
    """
    yield from _visit(part, (), given, path)


def named_files(part: Any, given: Any, path: SpecPath = ()) -> Iterator[tuple[SpecPath, str]]:
    """Every name of a file in a part of the language, with its path; takes what `visit` takes."""
    for item in visit(part, given, path):
        inline = isinstance(item.value, str) and item.value.startswith("data:")
        if item.role == FILE and isinstance(item.value, str) and not inline:
            yield item.path, item.value


def _visit(part: Any, marks: tuple[Any, ...], given: Any, path: SpecPath) -> Iterator[Item]:
    while typing.get_origin(part) is Annotated:
        part, *more = typing.get_args(part)
        marks = (*marks, *more)
    for mark in marks:
        if isinstance(mark, Role):
            yield Item(path, mark.name, given)
    origin = typing.get_origin(part)
    if is_union(part):
        yield from _visit_member(typing.get_args(part), marks, given, path)
    elif origin is list and isinstance(given, list):
        (entry,) = typing.get_args(part)
        for index, each in enumerate(given):
            yield from _visit(entry, (), each, (*path, index))
    elif origin is dict and isinstance(given, dict):
        _, entry = typing.get_args(part)
        for name, each in given.items():
            yield from _visit(entry, (), each, (*path, name))
    elif isinstance(part, type) and issubclass(part, BaseModel):
        yield from _visit_fields(part, given, path)


def _visit_fields(model: type[BaseModel], given: Any, path: SpecPath) -> Iterator[Item]:
    if isinstance(given, BaseModel):
        model = type(given)
    elif not isinstance(given, dict):
        return
    for name, field in model.model_fields.items():
        value = given.get(name) if isinstance(given, Mapping) else getattr(given, name)
        if value is not None:
            yield from _visit(field.annotation, marks_of(field), value, (*path, name))


def _visit_member(
    members: tuple[Any, ...], marks: tuple[Any, ...], given: Any, path: SpecPath
) -> Iterator[Item]:
    """Visit a value as the member of a union that is meant."""
    if given is None:
        return
    member = choose_member(members, marks, given)
    if member is not None:
        yield from _visit(member, (), given, path)


def is_union(part: Any) -> bool:
    """Whether a type is a union, ``X | None`` among them."""
    return typing.get_origin(part) in (typing.Union, types.UnionType)


def marks_of(field: FieldInfo) -> tuple[Any, ...]:
    """The metadata of a field's annotation, its discriminator among it."""
    if field.discriminator is None:
        return tuple(field.metadata)
    return (*field.metadata, field)


def choose_member(members: tuple[Any, ...], marks: tuple[Any, ...], given: Any) -> Any:
    """The member of a union that a value is meant to be; None where none is.

    Parameters
    ----------
    members
        The types.
    marks
        The metadata of the union, which may hold a discriminator.
    given
        A checked part, or plain data.
    """
    members = tuple(member for member in members if member is not type(None))
    if len(members) == 1:
        return members[0]
    discriminator = _discriminator(marks)
    if isinstance(discriminator, str):
        return _member_by_key(members, discriminator, given)
    if discriminator is not None:
        return member_by_tag(members, discriminator(given))
    # A union of one that is discriminated and None: `Mask | None`.
    nested = [member for member in members if isinstance(given, _plain_type(member))]
    return nested[0] if nested else None


def member_by_tag(members: tuple[Any, ...], tag: Any) -> Any:
    """The member of a union that has a tag; None where none has."""
    for member in members:
        marks = typing.get_args(member)[1:] if typing.get_origin(member) is Annotated else ()
        if any(isinstance(mark, Tag) and mark.tag == tag for mark in marks):
            return member
    return None


def member_by_word(members: tuple[Any, ...], marks: tuple[Any, ...], word: Any) -> Any:
    """The model that a discriminating key tells by a word; None where there is none."""
    key = _discriminator(marks)
    if not isinstance(key, str):
        return None
    for member in members:
        if member is not type(None) and word in typing.get_args(
            member.model_fields[key].annotation
        ):
            return member
    return None


def _member_by_key(members: tuple[Any, ...], key: str, given: Any) -> Any:
    if isinstance(given, BaseModel):
        return type(given)
    word = given.get(key) if isinstance(given, Mapping) else None
    return member_by_word(members, (Discriminator(key),), word)


def _discriminator(marks: tuple[Any, ...]) -> Any:
    """The function or the name of the key that tells the members of a union apart; None: none."""
    for mark in marks:
        told = mark.discriminator if isinstance(mark, (FieldInfo, Discriminator)) else None
        if isinstance(told, Discriminator):
            told = told.discriminator
        if told is not None:
            return told
    return None


def _plain_type(member: Any) -> type:
    if typing.get_origin(member) is not None:
        member = typing.get_origin(member)
    return member if isinstance(member, type) else object
