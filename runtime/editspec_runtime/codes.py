"""The codes of all problems, declared once. A code never changes its meaning.

The number is for tables and searches, the name for people. E1xx is about the text of a spec, E2xx
about the language, E3xx about the model, E4xx about the edits, E5xx about the checks, E6xx about
locks, projects and options, E9xx about problems that are found while work goes on.
"""

from __future__ import annotations

from enum import StrEnum


class Code(StrEnum):
    """A number and a name for each kind of problem."""

    SPEC = "E100 spec-unfit"
    FILE_UNREADABLE = "E101 file-unreadable"
    TEXT_TOO_LARGE = "E102 text-too-large"
    TEXT_NOT_UTF8 = "E103 text-not-utf8"
    TEXT_SYNTAX = "E104 text-syntax"
    TEXT_NESTED = "E105 text-nested"
    TEXT_EMPTY = "E106 text-empty"
    TEXT_NOT_A_MAPPING = "E107 text-not-a-mapping"
    TEXT_ALIAS = "E108 text-alias"
    TEXT_TAG = "E109 text-tag"
    KEY_NOT_TEXT = "E110 key-not-text"
    KEY_TWICE = "E111 key-twice"
    SCALAR_UNREADABLE = "E112 scalar-unreadable"
    TEXT_CONFLICT = "E113 text-conflict"
    TEXT_LOOKALIKE = "E114 text-lookalike"
    KEY_MERGED = "E115 key-merged"
    ROWS_UNFIT = "E116 rows-unfit"

    KEY_UNKNOWN = "E200 key-unknown"
    KEY_MISSING = "E201 key-missing"
    TYPE_WRONG = "E202 type-wrong"
    VALUE_OUT_OF_RANGE = "E203 value-out-of-range"
    LENGTH_WRONG = "E204 length-wrong"
    WORD_UNKNOWN = "E205 word-unknown"
    NAME_UNFIT = "E206 name-unfit"
    NAME_TWICE = "E207 name-twice"
    METHOD_UNKNOWN = "E210 method-unknown"
    METHOD_FIELD = "E211 method-field"
    METHOD_NEEDS = "E212 method-needs"
    METHOD_SETTINGS = "E213 method-settings"
    SIDES_DOUBLE = "E214 sides-double"

    FAMILY_UNKNOWN = "E300 family-unknown"
    FAMILY_FIELD = "E301 family-field"
    WEIGHTS_UNREADABLE = "E302 weights-unreadable"
    WEIGHTS_PIN = "E303 weights-pin"
    TRUNCATION_UNFIT = "E304 truncation-unfit"
    CLASS_UNFIT = "E305 class-unfit"
    MODULE_UNFIT = "E306 module-unfit"

    LAYER_UNKNOWN = "E400 layer-unknown"
    LAYER_NOT_LINEAR = "E401 layer-not-linear"
    LAYER_NOT_CHANNELWISE = "E402 layer-not-channelwise"
    OBSERVE_UNFIT = "E403 observe-unfit"
    INTERVENTION_UNFIT = "E404 intervention-unfit"
    UNITS_UNFIT = "E405 units-unfit"
    RANK_UNFIT = "E406 rank-unfit"
    PAIRS_UNFIT = "E407 pairs-unfit"
    MASK_UNFIT = "E410 mask-unfit"
    MASK_VANISHES = "E411 mask-vanishes"
    MASK_SPECKS = "E413 mask-specks"
    MASK_NEARLY_WHOLE = "E414 mask-nearly-whole"
    LATENT_UNFIT = "E412 latent-unfit"
    RECORD_UNFIT = "E420 record-unfit"

    CHECK_EDIT_UNKNOWN = "E500 check-edit-unknown"
    CHECK_UNFIT = "E501 check-unfit"
    CHECK_TWICE = "E502 check-twice"
    MEASURE_UNKNOWN = "E503 measure-unknown"

    LOCK_UNFIT = "E600 lock-unfit"
    OUTSIDE_OF_PROJECT = "E601 outside-of-project"
    OPTION_UNFIT = "E602 option-unfit"
    REWRITE_UNFIT = "E603 rewrite-unfit"
    LOCK_NEWER = "E604 lock-newer"

    ERROR = "E900 error"
    FILE = "E901 file"
    CODE_NOT_ALLOWED = "E902 code-not-allowed"
    WEIGHTS = "E903 weights"
    NUMBERS = "E904 numbers"
    PATCH = "E905 patch"
    LOCK = "E906 lock"
    SIGNATURE = "E907 signature"
    USAGE = "E908 usage"
    DEVICE = "E909 device"
    WORKERS = "E910 workers"
    MEMORY = "E911 memory"
    NOT_CONVERGED = "E912 not-converged"
