"""Reasons for which the studio does not do what it is asked."""

from __future__ import annotations

from editspec_runtime.codes import Code


class Conflict(Exception):
    """A change of a text that is no longer there: another tab was first."""

    code = Code.CHANGED_ELSEWHERE


class ChangedOutside(Conflict):
    """A file of the spec that another program has changed."""

    code = Code.CHANGED_OUTSIDE


class Missing(Exception):
    """A request for an edit, a place or a generator that is not there."""
