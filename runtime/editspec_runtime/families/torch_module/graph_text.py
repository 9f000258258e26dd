"""The text of a graph of ``torch.export``, written anew from harmless parts alone.

torch resolves names of operators anywhere in torch, evaluates sizes and guards as Python, writes
names of nodes into Python that it compiles, and imports what the contexts of its trees name. So
a text is taken apart here, each part is held against what it may be, and a new text is written.
"""

from __future__ import annotations

import ast
import json
import keyword
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from editspec_runtime.families.torch_module.operators import is_harmless

Rule = Callable[[Any], Any]
"""From a part of the text to what is written anew. Raises `Refused`."""

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,255}")
PATH = re.compile(r"([A-Za-z0-9_@]+(\.[A-Za-z0-9_@]+)*)?")
STACK = re.compile(r"[\w.@,; ()<>\[\]'-]*", re.ASCII)
TEXT = re.compile(r"[ -~]{0,1000}")
QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
SYMBOL = re.compile(r"[su]\d{1,4}")
SIZE = re.compile(r"[\w\s'(),=+*/%<>!-]{1,1000}", re.ASCII)

RESERVED = {"self", "torch", "device", "inf", "nan", "fx_pytree", "pytree", "NoneType", "math"}
"""Names that the Python which torch writes of a graph uses itself."""

FACTORY = re.compile(
    r"torch\.ops\.aten\.(arange|linspace|eye|full|zeros|ones|empty|rand|randn|randperm"
    r"|repeat_interleave|new_\w+)\.\w+"
)
"""Operators that make as many numbers as they are told."""

LARGEST_SIZE = 2**28
"""The most numbers that one list of sizes, or one operator that makes numbers, may ask for."""

LARGEST = 2**63
NESTING = 100
"""How deep the text may be nested."""

POWER = 8
"""What all exponents of an expression may come to by multiplication."""

FUNCTIONS = frozenset(
    """
    Symbol Integer Add Mul Pow PowByNatural Max Min Mod PythonMod FloorDiv CeilDiv CleanDiv Eq
    Equality Ne Unequality Ge Le Gt Lt GreaterThan LessThan StrictGreaterThan StrictLessThan
    Not
    """.split()  # noqa: SIM905 - a table of words
)
"""What may be called in an expression."""

STRUCTURE = (ast.Expression, ast.Call, ast.Name, ast.Constant, ast.keyword, ast.Load)
OPERATIONS = (ast.BinOp, ast.UnaryOp, ast.Compare, ast.USub, ast.Pow)
ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod)
ORDER = (ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE)
PARTS = STRUCTURE + OPERATIONS + ARITHMETIC + ORDER
"""What an expression may consist of."""


class Refused(Exception):
    """A part of a graph that is not known to be harmless."""


def parse_json(data: bytes) -> Any:
    """JSON of which the nesting and the numbers are bounded. Raises `Refused`."""
    try:
        text = data.decode("utf-8")
        _require_nesting(text)
        return json.loads(text, parse_int=_parse_int)
    except (ValueError, RecursionError) as error:
        raise Refused("text that is not JSON") from error


def clean_graph(data: bytes) -> bytes:
    """The text of an exported program, written anew. Raises `Refused`."""
    return json.dumps(_program(parse_json(data))).encode()


def _require_nesting(text: str) -> None:
    depth = 0
    for bracket in re.findall(r"[\[\]{}]", QUOTED.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        if depth > NESTING:
            raise Refused(f"text nested more than {NESTING} deep")


def _parse_int(digits: str) -> int:
    if len(digits) > 20:
        raise Refused("a number of many digits")
    return int(digits)


# Rules of plain values


def _is_a(kind: type) -> Rule:
    def rule(value: Any) -> Any:
        if type(value) is not kind:
            raise Refused(f"{value!r:.60}")
        return value

    return rule


def _integer(value: Any) -> int:
    if type(value) is not int or not -LARGEST <= value < LARGEST:
        raise Refused(f"{value!r:.60}")
    return value


def _small(value: Any) -> int:
    """A number that stands for a dtype, a layout or a kind."""
    if type(value) is not int or not 0 <= value < 100:
        raise Refused(f"{value!r:.60}")
    return value


def _real(value: Any) -> float | str:
    if type(value) in (int, float) or value in ("Infinity", "-Infinity", "NaN"):
        return value  # type: ignore[no-any-return]
    raise Refused(f"{value!r:.60}")


def _matching(pattern: re.Pattern[str]) -> Rule:
    def rule(value: Any) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise Refused(f"{value!r:.60}")
        return value

    return rule


def _name(value: Any) -> str:
    fits = isinstance(value, str) and NAME.fullmatch(value) and not keyword.iskeyword(value)
    if not fits or value in RESERVED or value.startswith("__"):
        raise Refused(f"the name {value!r:.60}")
    return str(value)


def _operator(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 200 or not is_harmless(value):
        raise Refused(f"{value!r:.80}")
    return value


def _device(value: Any) -> dict[str, Any]:
    found: dict[str, Any] = _record(type=_matching(re.compile("cpu|cuda")), index=_maybe(_small))(
        value
    )
    return found


def _expression(value: Any) -> str:
    """An expression of sizes, whose value and whose time to compute are bounded."""
    if not isinstance(value, str) or not SIZE.fullmatch(value):
        raise Refused(f"the size {value!r:.80}")
    try:
        tree = ast.parse(value.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise Refused(f"the size {value!r:.80}") from error
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    inside = {
        id(node.args[0])
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Symbol" and node.args
    }
    power = 1
    for node in ast.walk(tree):
        if not _is_arithmetic(node, called, inside):
            raise Refused(f"the size {value!r:.80}")
        power *= _exponent(node)
    if power > POWER:
        raise Refused(f"the size {value!r:.80}")
    return value


def _is_arithmetic(node: ast.AST, called: set[int], inside: set[int]) -> bool:
    if not isinstance(node, PARTS):
        return False
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS
    if isinstance(node, ast.Name):
        known = SYMBOL.fullmatch(node.id) or node.id == "int_oo"
        return bool(known) or id(node) in called
    if isinstance(node, ast.keyword):
        flag = isinstance(node.value, ast.Constant) and type(node.value.value) is bool
        return flag and node.arg is not None and node.arg.isidentifier()
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            return id(node) in inside and bool(SYMBOL.fullmatch(node.value))
        return type(node.value) is bool or (
            type(node.value) is int and -LARGEST <= node.value < LARGEST
        )
    return True


def _exponent(node: ast.AST) -> int:
    """Find the exponent of a part of an expression; 1 where it raises nothing."""
    given: Any = None
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        given = node.right
    elif isinstance(node, ast.Call) and getattr(node.func, "id", "").startswith("Pow"):
        given = node.args[1] if len(node.args) == 2 else ast.Name("none")
    if given is None:
        return 1
    if isinstance(given, ast.Call) and getattr(given.func, "id", "") == "Integer" and given.args:
        given = given.args[0]
    if isinstance(given, ast.UnaryOp):
        given = given.operand
    exponent = getattr(given, "value", None)
    return abs(exponent) if type(exponent) is int else POWER + 1


# Rules of structures


def _maybe(rule: Rule) -> Rule:
    return lambda value: None if value is None else rule(value)


def _each(rule: Rule) -> Rule:
    def every(value: Any) -> list[Any]:
        return [rule(part) for part in _is_a(list)(value)]

    return every


def _by(key_rule: Rule, rule: Rule) -> Rule:
    def every(value: Any) -> dict[str, Any]:
        return {key_rule(key): rule(part) for key, part in _is_a(dict)(value).items()}

    return every


def _record(**rules: Rule) -> Rule:
    """The known keys of a mapping; others are left out, as torch leaves them out."""

    def known(value: Any) -> dict[str, Any]:
        given = _is_a(dict)(value)
        return {key: rule(given[key]) for key, rule in rules.items() if key in given}

    return known


def _union(**rules: Rule) -> Rule:
    """One of several kinds, by the only key of a mapping."""

    def one(value: Any) -> dict[str, Any]:
        given = _is_a(dict)(value)
        if len(given) != 1 or not given.keys() <= rules.keys():
            raise Refused(f"{', '.join(map(str, given)) or 'nothing'} in the place of a value")
        ((key, part),) = given.items()
        return {key: rules[key](part)}

    return one


_boolean = _is_a(bool)
_hint = _union(as_int=_integer, as_bool=_boolean, as_float=_real)
_symbolic = _record(expr_str=_expression, hint=_maybe(_hint))
_size = _union(as_expr=_symbolic, as_int=_integer)
_tensor = _record(name=_name)
_size_argument = _union(as_name=_name, as_int=_integer)
_real_argument = _union(as_name=_name, as_float=_real)
_boolean_argument = _union(as_name=_name, as_bool=_boolean)
_optional_tensor = _union(as_tensor=_tensor, as_none=_boolean)

tensor_meta = _record(
    dtype=_small,
    sizes=_each(_size),
    requires_grad=_boolean,
    device=_device,
    strides=_each(_size),
    storage_offset=_size,
    layout=_small,
)
"""What a text says of a tensor, written anew. Raises `Refused`."""

_argument = _union(
    as_none=_boolean,
    as_tensor=_tensor,
    as_tensors=_each(_tensor),
    as_int=_integer,
    as_ints=_each(_integer),
    as_float=_real,
    as_floats=_each(_real),
    as_string=_matching(TEXT),
    as_sym_int=_size_argument,
    as_sym_ints=_each(_size_argument),
    as_scalar_type=_small,
    as_memory_format=_small,
    as_layout=_small,
    as_device=_device,
    as_bool=_boolean,
    as_bools=_each(_boolean),
    as_sym_bool=_boolean_argument,
    as_sym_bools=_each(_boolean_argument),
    as_optional_tensors=_each(_optional_tensor),
    as_sym_float=_real_argument,
    as_sym_floats=_each(_real_argument),
    as_optional_tensor=_optional_tensor,
)
_any_node = _record(
    target=_operator,
    inputs=_each(
        _record(name=_matching(re.compile(r"\w{0,100}")), arg=_argument, kind=_maybe(_small))
    ),
    outputs=_each(_argument),
    metadata=_record(nn_module_stack=_matching(STACK)),
    is_hop_single_tensor_return=_maybe(_boolean),
    name=_maybe(_name),
)


def _node(value: Any) -> dict[str, Any]:
    """A call of an operator, without sizes that no network of images has."""
    node: dict[str, Any] = _any_node(value)
    makes_all = bool(FACTORY.fullmatch(node.get("target", "")))
    for given in node.get("inputs", []):
        ((kind, sizes),) = given.get("arg", {"as_none": True}).items()
        if kind == "as_sym_ints":
            sizes = [size.get("as_int", 1) for size in sizes]
        elif kind == "as_int" and makes_all:
            sizes = [sizes]
        elif kind != "as_ints":
            continue
        if math.prod(max(1, abs(size)) for size in sizes) > LARGEST_SIZE:
            raise Refused(f"the size {sizes!r:.60}")
    return node


_graph = _record(
    inputs=_each(_argument),
    outputs=_each(_argument),
    nodes=_each(_node),
    tensor_values=_by(_name, tensor_meta),
    sym_int_values=_by(_name, _size),
    sym_bool_values=_by(_name, _union(as_expr=_symbolic, as_bool=_boolean)),
    sym_float_values=_by(_name, _union(as_expr=_symbolic, as_float=_real)),
    is_single_tensor_return=_boolean,
)
_constant = _union(
    as_none=_boolean, as_int=_integer, as_float=_real, as_string=_matching(TEXT), as_bool=_boolean
)
_path = _matching(PATH)
_input = _union(
    user_input=_record(arg=_argument),
    parameter=_record(arg=_tensor, parameter_name=_path),
    buffer=_record(arg=_tensor, buffer_name=_path, persistent=_boolean),
    tensor_constant=_record(arg=_tensor, tensor_constant_name=_path),
    constant_input=_record(name=_name, value=_constant),
)
_output = _union(
    user_output=_record(arg=_argument),
    buffer_mutation=_record(arg=_tensor, buffer_name=_path),
)

TREES = {"builtins.tuple": "null", "builtins.list": "null"}
"""The contexts of the trees that need none, by their types."""


def _tree(value: Any) -> str:
    """Clean the tree of a network's arguments: tuples, lists, dictionaries of leaves."""
    parsed = parse_json(_is_a(str)(value).encode())
    if not isinstance(parsed, list) or len(parsed) != 2 or parsed[0] != 1:
        raise Refused("a tree of an unknown version")
    return json.dumps([1, _branch(parsed[1])])


def _branch(value: Any) -> dict[str, Any]:
    given = _is_a(dict)(value)
    kind, context = given.get("type"), given.get("context")
    children = [_branch(child) for child in _is_a(list)(given.get("children_spec"))]
    if kind is None:
        if context is not None or children:
            raise Refused("a leaf that is none")
    elif kind == "builtins.dict":
        names = parse_json(_is_a(str)(context).encode())
        context = json.dumps(_each(_name)(names))
        if len(names) != len(children):
            raise Refused("a dictionary whose names are not its parts")
    elif kind not in TREES or context != TREES[kind]:
        raise Refused(f"a tree of {kind!r:.40} with the context {context!r:.60}")
    return {"type": kind, "context": context, "children_spec": children}


_signature = _record(
    inputs=_each(_argument),
    outputs=_each(_argument),
    in_spec=_tree,
    out_spec=_tree,
    forward_arg_names=_maybe(_each(_name)),
)


def _call(value: Any) -> dict[str, Any]:
    """Clean a module and how it is called, which is kept of the whole network alone."""
    given = _is_a(dict)(value)
    path, signature = _path(given.get("fqn")), given.get("signature")
    kept = None if path or signature is None else _signature(signature)
    return {"fqn": path, "signature": kept}


_limit = _maybe(_integer)
_program_parts = _record(
    graph_module=_record(
        graph=_graph,
        signature=_record(input_specs=_each(_input), output_specs=_each(_output)),
        module_call_graph=_each(_call),
    ),
    range_constraints=_by(_matching(SYMBOL), _record(min_val=_limit, max_val=_limit)),
    schema_version=_record(major=_small, minor=_small),
    torch_version=_matching(TEXT),
    verifiers=_each(_matching(re.compile("ATEN|TRAINING|"))),
)


def _program(value: Any) -> dict[str, Any]:
    program: dict[str, Any] = _program_parts(value)
    program["graph_module"] |= {"metadata": {}, "treespec_namedtuple_fields": {}}
    return program | {"opset_version": {}, "guards_code": []}


def clean_payloads(data: bytes, file_names: re.Pattern[str]) -> Mapping[str, Mapping[str, Any]]:
    """Clean what a text says of tensors in other files, by their names.

    Raises `Refused`.
    """
    entry = _record(
        path_name=_matching(file_names),
        is_param=_boolean,
        use_pickle=_not_pickled,
        tensor_meta=tensor_meta,
    )
    found: Mapping[str, Mapping[str, Any]] = _record(config=_by(_path, entry))(parse_json(data))
    return found.get("config", {})


def _not_pickled(value: Any) -> bool:
    if value is not False:
        raise Refused("a pickle")
    return False
