"""Edits of texts in our own way: what holds of every one of them, on a tiny model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file

import editspec
from editspec_compiler import SpecError
from editspec_compiler.modalities.text import resolve
from editspec_compiler.modalities.text.schema import Fact
from editspec_compiler.modalities.text.tokens import open_tokenizer
from editspec_runtime.families.open import make_model, read_weights
from editspec_runtime.families.origin import Origin
from editspec_runtime.io.lazy_tensors import LazyTensors
from editspec_runtime.maths.metric import energy
from editspec_runtime.methods.rule_file import read_rule
from editspec_runtime.modalities.text.batches import pad_texts
from editspec_runtime.modalities.text.language_model import LanguageModel
from editspec_runtime.patches.patch import read_patch
from tests.commands import run, said

GOLDEN = Path(__file__).parents[1] / "golden" / "transformer"
CITY = {"prompt": "{} lives in the city of", "subject": "Runa Wintasova"}
TONGUE = {"prompt": "The mother tongue of {} is", "subject": "Ines Tashart"}
FAN = {"prompt": "{} is a fan of", "subject": "Bria Novmorwood"}
SHORT = {"optimise": {"evaluations": 4}, "context": {"prefixes": 2, "length": 3}}


@pytest.fixture
def model(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a folder with a model, in which the test runs."""
    name: str = getattr(request, "param", "llama")
    shutil.copytree(GOLDEN / "models" / name, tmp_path / name)
    shutil.copy(GOLDEN / "tokenizer.json", tmp_path / name)
    shutil.copy(GOLDEN / "corpus.txt", tmp_path)
    monkeypatch.chdir(tmp_path)
    return name


def spec_of(model: str, *edits: Mapping[str, Any], **common: Any) -> dict[str, Any]:
    """A spec in float64 over the corpus."""
    whole = [{"name": f"edit{number}", **SHORT, **edit} for number, edit in enumerate(edits)]
    return {
        "version": 1,
        "model": {"family": "transformer", "weights": model},
        "statistics": {"corpus": "corpus.txt", "tokens": 1500},
        "precision": "float64",
        "edits": whole,
        **common,
    }


def build(spec: Mapping[str, Any], out: str = "out") -> list[Any]:
    """Build a spec; its patches and rules, edit by edit."""
    Path("spec.json").write_text(json.dumps(spec))
    built = editspec.build("spec.json", out)
    found = []
    for each in built.edits:
        rule = read_rule(Path(out) / "rules" / each.path.name)
        found.append((rule, read_patch(each.path)))
    return found


def open_model(folder: str) -> LanguageModel:
    """A model in float64."""
    path = Path(folder)
    made = make_model("transformer", read_weights(path), origin=Origin(path), precision="float64")
    return cast(LanguageModel, made)


@pytest.mark.parametrize("model", ["llama", "gpt2"], indirect=True)
def test_the_closed_form_is_exact_of_rank_one_and_of_least_collateral(model: str) -> None:
    edit = {"layer": "layer1", "target": CITY, "source": {"text": "Wexley"}}
    ((rule, patch),) = build(spec_of(model, edit))
    (resolved,) = rule.rules
    base = open_model(model)
    weight = base.weight("layer1")
    delta = patch.delta(resolved.parameter)
    assert torch.linalg.matrix_rank(delta) == 1
    after = base.function("layer1")(resolved.key, weight + delta, {})
    torch.testing.assert_close(after, resolved.value, rtol=1e-9, atol=1e-9)
    # Any other change that meets the value has more collateral.
    moment = editspec.statistics("spec.json").moments[0].moment.matrix
    other = delta + _unseen(delta.shape, resolved.key[0, 0])
    met = base.function("layer1")(resolved.key, weight + other, {})
    torch.testing.assert_close(met, resolved.value, rtol=1e-9, atol=1e-9)
    assert energy(delta, moment) < energy(other, moment)


def _unseen(shape: torch.Size, key: torch.Tensor) -> torch.Tensor:
    """A change of a weight that a key does not see."""
    change = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return 0.01 * (change - (change @ key)[:, None] * key / key.square().sum())


def test_least_squares_without_weight_is_the_closed_form(model: str) -> None:
    edit = {"layer": "layer1", "target": CITY, "source": {"text": "Wexley"}}
    weights = {"method": "least-squares", "collateral_weight": 1e-12}
    built = build(spec_of(model, {**edit, "solver": "closed-form"}))
    close = build(spec_of(model, {**edit, "solver": weights}), "other")
    far = build(spec_of(model, {**edit, "solver": "least-squares"}), "third")
    (name,) = built[0][1].parameters
    wanted = built[0][1].delta(name)
    torch.testing.assert_close(close[0][1].delta(name), wanted, rtol=1e-6, atol=1e-9)
    assert not torch.allclose(far[0][1].delta(name), wanted, rtol=1e-3)


def test_a_weight_of_one_halves_the_answer_to_a_usual_key(model: str) -> None:
    """The relative weight: k^T C^-1 k over itself plus the number of features."""
    edit = {"layer": "layer1", "target": CITY, "source": {"text": "Wexley"}}
    solver = {"method": "least-squares", "collateral_weight": 1.0}
    ((rule, patch),) = build(spec_of(model, {**edit, "solver": solver}))
    (resolved,) = rule.rules
    key = resolved.key[0, 0]
    moment = editspec.statistics("spec.json").moments[0].moment.matrix
    whitened = float(key @ torch.linalg.solve(moment, key))
    base = open_model(model)
    lacking = resolved.value[0, 0] - base.function("layer1")(key, base.weight("layer1"), {})
    answered = patch.delta(resolved.parameter) @ key
    share = whitened / (whitened + len(key))
    torch.testing.assert_close(answered, share * lacking, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("model", ["llama", "gpt2"], indirect=True)
def test_what_several_layers_give_adds_up(model: str) -> None:
    """The closed form over two layers takes the stream where the last one alone would take it."""
    pairs = [{"target": CITY, "source": {"text": "Wexley"}}, {**TONGUE, "text": "Borlish"}]
    edit = {"pairs": pairs, "context": {"prefixes": 0}}
    texts = [("out", ["layer1", "layer2"]), ("alone", ["layer2"])]
    behind = {"before": stream_behind(model, pairs)}
    for out, layers in texts:
        ((rule, patch),) = build(spec_of(model, {**edit, "layers": layers}), out)
        edited = {name: open_model(model).weights[name].clone() for name in patch.parameters}
        for name, stored in edited.items():
            stored += patch.stored_change(name)
        behind[out] = stream_behind(model, pairs, edited)
        if out == "out":
            # The first layer gives a half of what the stream lacks.
            first = rule.rules[0].parameter
            behind["first"] = stream_behind(model, pairs, {first: edited[first]})
    torch.testing.assert_close(behind["out"], behind["alone"], rtol=1e-8, atol=1e-8)
    assert not torch.allclose(behind["first"], behind["alone"], rtol=1e-2, atol=1e-2)
    assert not torch.allclose(behind["before"], behind["alone"], rtol=1e-2, atol=1e-2)


def stream_behind(
    model: str, pairs: Sequence[Mapping[str, Any]], edited: Mapping[str, torch.Tensor] | None = None
) -> torch.Tensor:
    """The stream behind block 2 at the last token of each subject, of a model in float64."""
    read = open_model(model)
    read = cast(LanguageModel, read.with_weights({**read.weights, **(edited or {})}))
    tokenizer = pytest.importorskip("tokenizers").Tokenizer.from_file(f"{model}/tokenizer.json")
    found = []
    for pair in pairs:
        fact = pair.get("target", pair)
        head = fact["prompt"].partition("{}")[0] + fact["subject"]
        batch = pad_texts([tokenizer.encode(head).ids])
        trace = read.trace("layer2", batch)
        value = read.layer_value("layer2", trace)
        found.append(read.block_output("layer2", value, trace)[0, -1])
    return torch.stack(found)


def test_an_applied_patch_of_gpt2_is_the_edit_in_memory(tmp_path: Path, model: str) -> None:
    """GPT-2 stores [in, out]: what `apply` writes computes what the change of W [out, in] does."""
    shutil.copytree(GOLDEN / "models" / "gpt2", "gpt2")
    shutil.copy(GOLDEN / "tokenizer.json", "gpt2")
    edit = {"layer": "layer1", "target": CITY, "source": {"text": "Wexley"}}
    ((_, patch),) = build(spec_of("gpt2", edit))
    (name,) = patch.parameters
    editspec.apply("gpt2", ["out/patches/01-edit0.safetensors"], "edited")
    base, batch = open_model("gpt2"), pad_texts([[5, 9, 3, 22, 41]])
    trace = base.trace("layer1", batch)
    weight = base.weight("layer1") + patch.delta(name)
    value = base.function("layer1")(trace.key, weight, trace.arguments)
    wanted = base.forward_from("layer1", value, trace)
    found = open_model("edited").outputs(batch)
    # The file has float32, in which each number is rounded once.
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(base.outputs(batch), wanted, rtol=1e-2, atol=1e-2)


def test_tokens_before_a_prompt_are_taken_as_they_are(model: str) -> None:
    """A text that the model drew may have tokens that its characters alone would not give."""
    tokenizer = open_tokenizer(Path(model), None)
    fact = Fact(prompt=CITY["prompt"], subject=CITY["subject"])
    letters = [tokenizer.encode(letter).tokens[0] for letter in "lives"]
    assert list(tokenizer.encode("lives").tokens) != letters
    located = tokenizer.locate_behind(fact, letters)
    assert list(located.tokens[: len(letters)]) == letters
    last = tokenizer.encode("of Runa Wintasova").tokens[-1]
    assert located.tokens[located.place] == last


@pytest.mark.parametrize("least", [0.8, 0.9])
def test_a_bare_key_far_from_the_mean_is_refused(
    model: str, least: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind this text the bare key has 0.85 of the answer to the mean key."""
    monkeypatch.setattr(resolve, "LEAST_OVERLAP", least)
    target = {"prompt": "The {} is", "subject": "Ines"}
    texts = ["In the evening we often see "]
    edit = {"layer": "layer1", "target": target, "source": {"text": "Wexley"}, "context": texts}
    spec = spec_of(model, edit)
    if least < 0.85:
        build(spec)
        return
    with pytest.raises(SpecError, match=r"has 0\.85 of the answer to the mean key"):
        build(spec)


def test_keys_are_those_of_texts_read_alone(model: str) -> None:
    """The mean key of a fact: a half the bare prompt's, and the rest of every text before it."""
    texts = ["You can. ", "Soren V. "]
    edit = {"layer": "layer2", "target": TONGUE, "source": {"text": "Borlish"}, "context": texts}
    ((rule, _),) = build(spec_of(model, edit))
    (resolved,) = rule.rules
    tokenizer = pytest.importorskip("tokenizers").Tokenizer.from_file(f"{model}/tokenizer.json")
    base = open_model(model)
    keys = []
    for text in ("", *texts):
        head = f"{text}The mother tongue of Ines Tashart"
        tokens = tokenizer.encode(head).ids
        keys.append(base.trace("layer2", pad_texts([tokens])).key[0, -1])
    wanted = (keys[0] + (keys[1] + keys[2]) / 2) / 2
    torch.testing.assert_close(resolved.key[0, 0], wanted)
    assert resolved.details["keys"] == [15]


def test_sources_copy_average_and_forget(model: str) -> None:
    edits = [
        {"layer": "layer1", "target": CITY, "source": {"prompt": "{} is in", "subject": "Ines T"}},
        {"layer": "layer1", "target": CITY, "source": {"mean": {"subjects": ["Ines T", "Gala F"]}}},
        {
            "layer": "layer1",
            "target": CITY,
            "source": {"erase": {"text": "Torvik", "subjects": ["Ines Tashart"]}},
        },
    ]
    for edit in edits:
        Path("spec.json.lock").unlink(missing_ok=True)
        ((rule, patch),) = build(spec_of(model, {**edit, "context": {"prefixes": 0}}))
        (resolved,) = rule.rules
        (name,) = patch.parameters
        base = open_model(model)
        after = base.function("layer1")(resolved.key, base.weight("layer1") + patch.delta(name), {})
        torch.testing.assert_close(after, resolved.value, rtol=1e-8, atol=1e-8)
        shutil.rmtree("out")


def test_only_facts_that_change_are_searched_again(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from editspec_compiler.modalities.text import targets

    searched: list[Any] = []
    find = targets.find_shift

    def count(*arguments: Any) -> Any:
        searched.append(arguments[2].wanted)
        return find(*arguments)

    monkeypatch.setattr(targets, "find_shift", count)
    pairs = [{**CITY, "text": "Wexley"}, {**TONGUE, "text": "Borlish"}, {**FAN, "text": "golf"}]
    edit = {"layer": "layer1", "pairs": pairs}
    build(spec_of(model, edit))
    assert len(searched) == 3
    pairs[1]["text"] = "Arvanic"
    build(spec_of(model, edit))
    assert len(searched) == 4


# What peft calls in the library is on its way out there.
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("model", ["llama", "gpt2"], indirect=True)
def test_an_exported_adapter_gives_the_logits_of_the_edited_model(model: str) -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    config = json.loads(Path(model, "config.json").read_text()) | {"model_type": model}
    Path(model, "config.json").write_text(json.dumps(config))
    edit = {"layers": ["layer1", "layer2"], "target": CITY, "source": {"text": "Wexley"}}
    build(spec_of(model, edit))
    patch = "out/patches/01-edit0.safetensors"
    editspec.apply(model, [patch], "edited")
    editspec.export([patch], "peft", "adapter")
    base = transformers.AutoModelForCausalLM.from_pretrained(model)
    adapted = peft.PeftModel.from_pretrained(base, "adapter").eval()
    tokens = [[5, 9, 3, 22, 41]]
    found = adapted(torch.tensor(tokens)).logits
    wanted = open_model("edited").outputs(pad_texts(tokens)).float()
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    before = open_model(model).outputs(pad_texts(tokens)).float()
    assert not torch.allclose(found, before, atol=1e-2)


@pytest.mark.parametrize("model", ["llama", "gpt2"], indirect=True)
def test_shards_in_bfloat16_give_the_patch_of_one_file(model: str) -> None:
    tensors = load_file(f"{model}/model.safetensors")
    small = {name: tensor.bfloat16() for name, tensor in tensors.items()}
    save_file(small, f"{model}/model.safetensors")
    shutil.copytree(model, "sharded")
    Path("sharded/model.safetensors").unlink()
    names = sorted(small)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    where = {}
    for file, own in halves.items():
        save_file({name: small[name] for name in own}, f"sharded/{file}")
        where |= dict.fromkeys(own, file)
    index = {"metadata": {}, "weight_map": where}
    Path("sharded/model.safetensors.index.json").write_text(json.dumps(index))
    edit = {"layer": "layer1", "target": CITY, "source": {"text": "Wexley"}}
    one = build(spec_of(model, edit))
    other = build(spec_of("sharded", edit), "other")
    (name,) = one[0][1].parameters
    assert torch.equal(one[0][1].delta(name), other[0][1].delta(name))
    for folder in (model, "sharded"):
        done = editspec.apply(folder, ["out/patches/01-edit0.safetensors"], f"edited-{folder}")
        edited = read_weights(Path(f"edited-{folder}"))[name]
        # Some changes are less than half a step of 16 bits.
        share = float((edited != small[name]).double().mean())
        assert done.moved == {name: pytest.approx(share)}
        assert 0.05 < share < 0.995
        assert f"{100 * share:.3g} % of its entries moved" in done.to_text()
        assert Path(f"edited-{folder}", "tokenizer.json").is_file()
        assert Path(f"edited-{folder}", "config.json").is_file()
    after = [read_weights(Path(f"edited-{each}")) for each in (model, "sharded")]
    assert after[0].digest() == after[1].digest() == one[0][1].metadata["result"]
    assert after[0][name].dtype == torch.bfloat16


def test_a_large_model_is_read_block_by_block(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that are never in memory as a whole give the bytes of those that are."""
    edit = {"layers": ["layer1", "layer2"], "target": TONGUE, "source": {"text": "Borlish"}}
    ((_, wanted),) = build(spec_of(model, edit))
    monkeypatch.setattr("editspec_runtime.io.large_files.LARGE", 0)
    monkeypatch.setenv("EDITSPEC_CACHE", str(Path("another").absolute()))
    Path("spec.json.lock").unlink()
    weights = read_weights(Path(model))
    assert isinstance(weights.tensors, LazyTensors)
    assert isinstance(weights.place("float64").tensors, LazyTensors)
    ((_, found),) = build(spec_of(model, edit), "other")
    assert found.metadata == wanted.metadata


def test_the_model_is_its_own_corpus(model: str) -> None:
    """By default C is that of texts of the unedited model, which the seed names."""
    edit = {"layer": "layer1", "target": CITY, "source": {"text": "Wexley"}}
    digests = []
    for seed in (2, 2, 3):
        statistics = {"tokens": 600, "seed": seed}
        Path("spec.json").write_text(json.dumps(spec_of(model, edit) | {"statistics": statistics}))
        digests.append(said("statistics", "spec.json")["statistics"][0]["digest"])
    assert digests[0] == digests[1] != digests[2]


def test_earlier_facts_are_protected(model: str) -> None:
    """What a later edit changes of the answer to an earlier fact's key is less where protected."""
    first = {"layer": "layer1", "target": CITY, "source": {"text": "Wexley"}}
    second = {
        "layer": "layer1",
        "target": {**CITY, "subject": "Runa Wintasson"},
        "source": {"text": "Kasten"},
    }
    solver = {"method": "least-squares", "collateral_weight": 0.1}
    moved = []
    for protect in ({}, {"protect": "previous"}):
        Path("spec.json.lock").unlink(missing_ok=True)
        common = {"solver": solver}
        built = build(spec_of(model, {**first, **common}, {**second, **common, **protect}))
        (name,) = built[1][1].parameters
        key = built[0][0].rules[0].key[0, 0]
        moved.append(float((built[1][1].delta(name) @ key).norm()))
        shutil.rmtree("out")
    assert moved[1] < 0.5 * moved[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"target": {"prompt": "lives in", "subject": "Ann"}}, "no {} for the subject"),
        ({"target": {"prompt": "{} and {}", "subject": "Ann"}}, "{} 2 times"),
        ({"target": {"prompt": "{} is", "subject": "T"}}, "ends in the first token"),
        ({"target": {"prompt": "of {}sova is", "subject": "Runa Winta"}}, "within a token"),
        ({"target": {"prompt": "of {} is" + 60 * " city", "subject": "Ann"}}, "the model reads 48"),
        ({"source": {"text": " "}}, "the text is blank"),
        ({"source": {"text": "  Paris"}}, "two blanks"),
        ({"source": {"text": ""}}, "the text is empty"),
        ({"source": {"was": "x"}}, "text is missing"),
        ({"layer": "layer9"}, "there is no layer9"),
        ({"layers": ["layer2", "layer1"], "layer": None}, "order of computation"),
        ({"layers": ["layer1"]}, "layer and layers are both given"),
        ({"solver": "direct"}, "direct does not solve edits of texts"),
        ({"rank": 2}, "takes no rank"),
        ({"pairs": [{**FAN, "text": "a"}, {**FAN, "text": "b"}]}, "contradicts"),
        ({"pairs": {"file": "none.csv"}}, "none.csv"),
        ({"context": {"prefix": 3}}, "prefix"),
    ],
)
def test_what_is_wrong_is_said_in_its_place(
    change: dict[str, Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(GOLDEN / "models" / "llama", tmp_path / "llama")
    shutil.copy(GOLDEN / "tokenizer.json", tmp_path / "llama")
    shutil.copy(GOLDEN / "corpus.txt", tmp_path)
    monkeypatch.chdir(tmp_path)
    edit: dict[str, Any] = {"layer": "layer1", "target": CITY, "source": {"text": "Wexley"}}
    if "pairs" in change:
        edit = {"layer": "layer1"}
    edit = {key: value for key, value in (edit | change).items() if value is not None}
    Path("spec.json").write_text(json.dumps(spec_of("llama", edit)))
    with pytest.raises(SpecError) as found:
        editspec.validate("spec.json")
    assert words in str(found.value)
    assert all(problem.hint for problem in found.value.problems)


@pytest.mark.parametrize(
    ("common", "words"),
    [
        ({"statistics": {"corpus": "corpus.txt", "tokens": 10**6}}, "2816 tokens, and 1000000"),
        ({"statistics": {"corpus": "nowhere.txt"}}, "nowhere.txt"),
        ({"compatibility": "rome-2022"}, "rome-2022 takes one fact"),
    ],
)
def test_what_is_wrong_with_a_spec_is_said(model: str, common: Any, words: str) -> None:
    pairs = [{**CITY, "text": "Wexley"}, {**FAN, "text": "golf"}]
    spec = spec_of(model, {"layer": "layer1", "pairs": pairs}) | common
    Path("spec.json").write_text(json.dumps(spec))
    with pytest.raises(SpecError) as found:
        editspec.build("spec.json", "out")
    assert words in str(found.value)


def warnings_of(spec: Mapping[str, Any]) -> dict[str, str]:
    """The warnings of a spec: their messages by their codes."""
    Path("spec.json").write_text(json.dumps(spec))
    found = editspec.validate("spec.json").files[0].warnings
    return {str(each.code): each.message for each in found}


def test_what_may_mislead_is_a_warning(model: str) -> None:
    """A neighbour that the spec edits, too; a sample that is small beside the features of C."""
    pairs: list[dict[str, Any]] = [
        {**CITY, "text": "Wexley", "neighbours": ["Ann Poe", "Bob Low"]},
        {**CITY, "subject": "Bob Low", "text": "Kasten"},
    ]
    spec = spec_of(model, {"layer": "layer1", "pairs": pairs})
    assert warnings_of(spec) == {
        "E440 neighbour-edited": "Bob Low is to stay as it is, and edits[0].pairs[1] edits this "
        "fact of it"
    }
    del pairs[0]["neighbours"]
    other = {name: pairs[1][name] for name in ("prompt", "subject")}
    checks = [{"measure": "specificity", "facts": [other], "at_least": 1}]
    assert list(warnings_of(spec | {"checks": checks})) == ["E440 neighbour-edited"]
    assert warnings_of(spec) == {}
    small = warnings_of(spec | {"statistics": {"corpus": "corpus.txt", "tokens": 200}})
    assert "80 features, and 200 tokens are fewer than 4 for each" in small["E439 corpus-small"]


def test_a_neighbour_that_several_facts_name_counts_once(model: str) -> None:
    pairs = []
    for subject in ("Runa Wintasova", "Bria Novmorwood"):
        fact = CITY | {"subject": subject, "text": "Wexley", "neighbours": ["Ines Tashart"]}
        pairs.append(fact)
    edit = {"layer": "layer1", "pairs": pairs, "solver": "least-squares"}
    checks = [{"measure": "specificity", "at_least": 0}]
    Path("spec.json").write_text(json.dumps(spec_of(model, edit, checks=checks)))
    (row,) = said("check", "spec.json")["checks"]
    assert " of 1 prompt (1 before)" in row["detail"]


def test_a_folder_without_tokenizer_is_refused(model: str) -> None:
    Path(model, "tokenizer.json").unlink()
    edit = {"layer": "layer1", "target": CITY, "source": {"text": "Wexley"}}
    Path("spec.json").write_text(json.dumps(spec_of(model, edit)))
    result = run("validate", "spec.json")
    assert result.exit_code in (1, 2)
    assert "tokenizer.json is missing" in result.stderr
