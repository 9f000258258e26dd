"""The text of a graph of ``torch.export``, written anew from harmless parts alone.

torch resolves names of operators anywhere in torch, evaluates sizes and guards as Python, writes
names of nodes into Python that it compiles, and imports what the contexts of its trees name. So
a text is taken apart here, each part is held against what it may be, and a new text is written.
What a text says of values between the operators is left out: they follow from the operators.
"""

from __future__ import annotations

import json
import keyword
import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from editspec_runtime.io.operators import is_harmless

Rule = Callable[[Any], Any]
"""From a part of the text to what is written anew. Raises `Refused`."""

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,255}")
PATH = re.compile(r"([A-Za-z0-9_@]+(\.[A-Za-z0-9_@]+)*)?")
MODULE = re.compile(r"([\w.@'\[\]]*),([\w.@]*),[\w.@,() <>\[\]'-]*", re.ASCII)
"""How a module around an operator is said: by a key, its path, and its type."""

TAKEN = frozenset(dir(nn.Module()))
"""The attributes of any module, after which none of its parts can be named."""

TEXT = re.compile(r"[ -~]{0,1000}")
QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
SYMBOL = re.compile(r"s\d{1,4}")
SYMBOLIC = re.compile(
    r"s\d{1,4}|Symbol\('s\d{1,4}'(, (integer|positive|nonnegative|real)=(True|False))*\)"
)
"""A size of an input that is not a number: one symbol."""

RESERVED = {"self", "torch", "device", "inf", "nan", "fx_pytree", "pytree", "NoneType", "math"}
"""Names that the Python which torch writes of a graph uses itself."""

LARGEST = 2**63
NESTING = 100
"""How deep the text may be nested."""

NODES = 3_000
"""The most operators of a graph; torch takes 3 ms to read one."""

DEPTH = 64
"""How deep modules may lie in one another."""

BETWEEN: Mapping[str, Any] = {
    "dtype": 7,
    "sizes": [],
    "requires_grad": False,
    "device": {"type": "cpu", "index": None},
    "strides": [],
    "storage_offset": {"as_int": 0},
    "layout": 7,
}
"""What is said of any tensor between the operators."""


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


def _path(value: Any) -> str:
    """The path of a module or of a tensor, none of whose parts a module has already."""
    path: str = _matching(PATH)(value)
    parts = path.split(".")
    if len(parts) > DEPTH or not TAKEN.isdisjoint(parts):
        raise Refused(f"the path {path!r:.60}")
    return path


def _stack(value: Any) -> str:
    """The modules around an operator, whose paths torch follows."""
    modules = _is_a(str)(value).split(";")
    for module in modules:
        found = MODULE.fullmatch(module)
        # torch takes a comma within brackets for a part of the key.
        if found is None or found[1].count("[") != found[1].count("]"):
            raise Refused(f"the module {module!r:.60}")
        _path(found[2])
    if len(modules) > DEPTH:
        raise Refused(f"modules more than {DEPTH} deep")
    return ";".join(modules)


def _operator(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 200 or not is_harmless(value):
        raise Refused(f"{value!r:.80}")
    return value


def _device(value: Any) -> dict[str, Any]:
    found: dict[str, Any] = _record(type=_matching(re.compile("cpu|cuda")), index=_maybe(_small))(
        value
    )
    return found


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
_symbolic = _record(expr_str=_matching(SYMBOLIC), hint=_maybe(_hint))
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
    metadata=_record(nn_module_stack=_stack),
    is_hop_single_tensor_return=_maybe(_boolean),
    name=_maybe(_name),
)


_number = _union(
    as_int=_integer,
    as_float=_real,
    as_bool=_boolean,
    as_sym_int=_size_argument,
    as_sym_float=_real_argument,
    as_sym_bool=_boolean_argument,
)


def _node(value: Any) -> dict[str, Any]:
    """A call of an operator, one of Python with numbers alone."""
    node: dict[str, Any] = _any_node(value)
    if node.get("target", "").startswith("_operator."):
        # Python multiplies texts and lists, too, and puts numbers of any width into a text.
        for given in node.get("inputs", []):
            _number(given.get("arg"))
    return node


def _nodes(value: Any) -> list[Any]:
    if len(_is_a(list)(value)) > NODES:
        raise Refused(f"{len(value)} operators, more than {NODES}")
    return [_node(part) for part in value]


_any_graph = _record(
    inputs=_each(_argument),
    outputs=_each(_argument),
    nodes=_nodes,
    tensor_values=_is_a(dict),
    sym_int_values=_is_a(dict),
    sym_bool_values=_is_a(dict),
    sym_float_values=_is_a(dict),
    is_single_tensor_return=_boolean,
)


def _graph(value: Any) -> dict[str, Any]:
    """A graph, of whose values only those of its inputs are said."""
    graph: dict[str, Any] = _any_graph(value)
    tensors = [given["as_tensor"] for given in graph.get("inputs", []) if "as_tensor" in given]
    inputs = {tensor.get("name") for tensor in tensors}
    values = {}
    for name, meta in graph.get("tensor_values", {}).items():
        values[_name(name)] = tensor_meta(meta) if name in inputs else BETWEEN
    graph["tensor_values"] = values
    for kind, plain in (("int", 1), ("bool", True), ("float", 1.0)):
        names = graph.get(f"sym_{kind}_values", {})
        graph[f"sym_{kind}_values"] = {_name(name): {f"as_{kind}": plain} for name in names}
    return graph


_constant = _union(
    as_none=_boolean, as_int=_integer, as_float=_real, as_string=_matching(TEXT), as_bool=_boolean
)
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


def _ranges(value: Any) -> dict[str, Any]:
    """The ranges of the symbols that sizes of inputs may be."""
    limits = _record(min_val=_limit, max_val=_limit)
    given = _is_a(dict)(value)
    return {name: limits(given[name]) for name in given if SYMBOL.fullmatch(name)}


_program_parts = _record(
    graph_module=_record(
        graph=_graph,
        signature=_record(input_specs=_each(_input), output_specs=_each(_output)),
        module_call_graph=_each(_call),
    ),
    range_constraints=_ranges,
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
