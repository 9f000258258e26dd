"""One walk over a spec that finds all that it names.

These are files, and the values that a modality looks up.

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
    """Mark in a type annotation that says what values of the type are.

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
    """Find every value with a role in a part of the language, outer ones first.

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


def find_files(part: Any, given: Any, path: SpecPath = ()) -> Iterator[tuple[SpecPath, str]]:
    """Find every name of a file in a part of the language, with its path.

    The parameters are those of `visit`.
    """
    for item in visit(part, given, path):
        if item.role != FILE or not isinstance(item.value, str):
            continue
        if not item.value.startswith(("data:", "builtin:")):
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
        model = type(given)  # of a checked spec the subclass, which may have more fields
    elif not isinstance(given, dict):
        return
    for name, field in model.model_fields.items():
        key = field.alias or name
        value = given.get(key) if isinstance(given, Mapping) else getattr(given, name)
        if value is not None:
            yield from _visit(field.annotation, marks_of(field), value, (*path, key))


def _visit_member(
    members: tuple[Any, ...], marks: tuple[Any, ...], given: Any, path: SpecPath
) -> Iterator[Item]:
    """Visit a value as the member of a union that is meant."""
    if given is None:
        return
    member = choose_member(members, marks, given)
    if member is not None:
        yield from _visit(member, (), given, path)


def find_parts(part: Any, path: SpecPath) -> Iterator[Any]:
    """Find the types that a part of the language has at a path of keys below it.

    Indices are left out of the path: it leads into the entries of lists.
    """
    while typing.get_origin(part) is Annotated:
        part = typing.get_args(part)[0]
    if is_union(part):
        for member in typing.get_args(part):
            yield from find_parts(member, path)
    elif not path:
        yield part
    elif typing.get_origin(part) is list:
        yield from find_parts(typing.get_args(part)[0], path)
    elif isinstance(part, type) and issubclass(part, BaseModel):
        field = fields_by_key(part).get(str(path[0]))
        if field is not None:
            yield from find_parts(field.annotation, path[1:])


def fields_by_key(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the fields of a mapping by their keys in a spec.

    A key that is a word of Python, such as ``with``, is the alias of its field.
    """
    return {field.alias or name: field for name, field in model.model_fields.items()}


def is_union(part: Any) -> bool:
    """Return whether a type is a union, such as ``X | None``."""
    return typing.get_origin(part) in (typing.Union, types.UnionType)


def marks_of(field: FieldInfo) -> tuple[Any, ...]:
    """Return the metadata of a field's annotation, with its discriminator."""
    if field.discriminator is None:
        return tuple(field.metadata)
    return (*field.metadata, field)


def choose_member(members: tuple[Any, ...], marks: tuple[Any, ...], given: Any) -> Any:
    """Choose the member of a union that a value is meant to be; None where none is.

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
    # A union without a discriminator: the first member whose plain type the value has.
    return next((each for each in members if isinstance(given, _plain_type(each))), None)


def member_by_tag(members: tuple[Any, ...], tag: Any) -> Any:
    """Find the member of a union that has a tag; None where none has."""
    for member in members:
        if typing.get_origin(member) is not Annotated:
            continue
        _, *marks = typing.get_args(member)
        if any(isinstance(mark, Tag) and mark.tag == tag for mark in marks):
            return member
    return None


def member_by_word(members: tuple[Any, ...], marks: tuple[Any, ...], word: Any) -> Any:
    """Find the model that a word at the discriminating key means; or None."""
    key = _discriminator(marks)
    if not isinstance(key, str):
        return None
    for member in members:
        if member is type(None):
            continue
        words = typing.get_args(member.model_fields[key].annotation)
        if word in words:
            return member
    return None


def _member_by_key(members: tuple[Any, ...], key: str, given: Any) -> Any:
    if isinstance(given, BaseModel):
        return type(given)
    word = given.get(key) if isinstance(given, Mapping) else None
    return member_by_word(members, (Discriminator(key),), word)


def _discriminator(marks: tuple[Any, ...]) -> Any:
    """Find the function, or the name of the key, that tells members apart; or None."""
    for mark in marks:
        if not isinstance(mark, (FieldInfo, Discriminator)):
            continue
        found = mark.discriminator
        if isinstance(found, Discriminator):  # a field holds one of its own
            found = found.discriminator
        if found is not None:
            return found
    return None


def _plain_type(member: Any) -> type:
    if typing.get_origin(member) is not None:
        member = typing.get_origin(member)
    return member if isinstance(member, type) else object
