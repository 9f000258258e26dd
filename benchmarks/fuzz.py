"""Seeded mutants of all that editspec reads of others: ``python -m benchmarks.fuzz [COUNT]``.

Of each reader the table says how many mutants were read, how many were refused by an error of ours,
and how many ended otherwise (defects); the longest time, and the memory that was taken on top.
Whatever starts a process or loads a library meanwhile counts as an execution.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import pickle
import random
import resource
import shutil
import socket
import sys
import tempfile
import threading
import time
import types
import warnings
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks.mutants import mutate_any, mutate_content
from editspec.engine.lock import read_lock
from editspec_compiler import SpecError, load
from editspec_compiler.document import parse
from editspec_compiler.modalities.image.latent_tensors import open_tensors
from editspec_compiler.modalities.image.latents import read_latent
from editspec_compiler.modalities.image.mask_pixels import MaskError
from editspec_compiler.modalities.image.masks import mask_image
from editspec_compiler.modalities.image.records import read_record
from editspec_compiler.modalities.image.schema import LatentFile
from editspec_compiler.references import load_document
from editspec_runtime.core.rule import LayerRule, PreservedKeys, Refinement, ResolvedEdit
from editspec_runtime.errors import EditError
from editspec_runtime.families.open import read_weights
from editspec_runtime.families.torch_module.exported import read_exported
from editspec_runtime.io.cache import Cache
from editspec_runtime.io.downloads import fetch, parse_remote
from editspec_runtime.io.files import LEGACY_TORCH, read_header
from editspec_runtime.io.rewriting import rewrite
from editspec_runtime.io.shards import read_stored
from editspec_runtime.methods.registry import settings_of
from editspec_runtime.methods.rule_file import place_as_file, read_rule
from editspec_runtime.patches.chains import require_chain
from editspec_runtime.patches.patch import apply_stack, make_patch, read_patch
from editspec_runtime.patches.soundness import require_fitting, require_orthonormal

ROOT = Path(__file__).parents[1]
OURS = (EditError, SpecError, MaskError)
WATCHED = ("os.system", "os.exec", "subprocess.Popen", "ctypes.dlopen", "os.posix_spawn")


@dataclass(frozen=True)
class Reader:
    """A reader, the ending of its files, and whole files that mutants are made of."""

    read: Callable[[Path], object]
    suffix: str
    seeds: Sequence[bytes]
    mutate: Callable[[bytes, random.Random], bytes] = mutate_any


@dataclass
class Outcome:
    """How the mutants of a reader ended."""

    read: int = 0
    refused: int = 0
    defects: list[str] = field(default_factory=list)
    executions: int = 0
    slowest: float = 0.0
    memory: int = 0

    def to_line(self, name: str) -> str:
        """One line of the table."""
        total = self.read + self.refused + len(self.defects)
        return (
            f"{name:<14}{total:>8}{self.read:>8}{self.refused:>9}{len(self.defects):>9}"
            f"{self.executions:>12}{self.slowest:>9.2f} s{self.memory / 2**20:>8.0f} MiB"
        )


HEAD = (
    f"{'reader':<14}{'mutants':>8}{'read':>8}{'refused':>9}{'defects':>9}{'executions':>12}"
    f"{'slowest':>11}{'memory':>12}"
)


def run_reader(reader: Reader, count: int, seed: int, folder: Path) -> Outcome:
    """Read `count` mutants of a reader's files."""
    outcome, draw = Outcome(), random.Random(seed)
    path = folder / f"mutant{reader.suffix}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(count):
            path.write_bytes(reader.mutate(draw.choice(reader.seeds), draw))
            _read_one(reader, path, outcome)
    return outcome


def _read_one(reader: Reader, path: Path, outcome: Outcome) -> None:
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    executions = len(_executions)
    try:
        reader.read(path)
        outcome.read += 1
    except OURS:
        outcome.refused += 1
    except Exception as error:
        outcome.defects.append(f"{type(error).__name__}: {error}"[:200])
        kept = path.with_name(f"defect-{len(outcome.defects)}{path.suffix}")
        kept.write_bytes(path.read_bytes())
    outcome.executions += len(_executions) - executions
    outcome.slowest = max(outcome.slowest, time.monotonic() - begun)
    taken = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    outcome.memory = max(outcome.memory, taken)


_executions: list[str] = []


def watch() -> None:
    """Note from now on, in this process, whatever starts a process or loads a library."""

    def note(event: str, _: tuple[Any, ...]) -> None:
        if event in WATCHED:
            _executions.append(event)

    sys.addaudithook(note)


# The readers


def make_readers(folder: Path) -> Mapping[str, Reader]:
    """All readers, with seeds that are made in a folder."""
    weights = tiny_weights()
    save_file(weights, folder / "tiny.safetensors")
    torch.save({"g_ema": weights, "latent_avg": torch.zeros(8)}, folder / "tiny.pt")
    torch.save(weights, folder / "old.pt", _use_new_zipfile_serialization=False)
    # Specs are read with the masks that they name.
    shutil.copytree(ROOT / "specs/skyline/masks", folder / "masks", dirs_exist_ok=True)
    specs = [*_texts("specs/skyline/*.yaml"), _tiny_spec().encode()]
    json_specs = [json.dumps(json.loads(_tiny_spec())).encode()]
    rows = [*_texts("tests/invalid/files/rows/*.jsonl"), b'{"latent": 3}\n{"latents": [4, 5]}\n']
    locks = _texts("tests/invalid/*.lock")
    # As JSON, which YAML includes, so that its structure is changed, too.
    whole_lock = _texts("tests/invalid/half-precision*.lock")[0]
    locks += [json.dumps(yaml.safe_load(whole_lock)).encode()] * len(locks)
    masks = [path.read_bytes() for path in sorted((ROOT / "specs/skyline/masks").glob("*.png"))[:3]]
    headers = [(folder / "tiny.safetensors").read_bytes()]
    return {
        "specs": Reader(load, ".yaml", specs),
        "specs, JSON": Reader(load, ".json", json_specs),
        "rows, JSON lines": Reader(_read_rows, ".jsonl", rows),
        "rows, CSV": Reader(_read_rows, ".csv", _texts("tests/invalid/files/rows/*.csv")),
        "locks": Reader(read_lock, ".lock", locks),
        "masks": Reader(_read_mask, ".png", [*_odd_masks(), *masks]),
        "records": Reader(
            _read_record, ".json", [*records(masks) * 9, *_texts("tests/invalid/records/*.json")]
        ),
        "patches": Reader(read_patch, ".safetensors", [tiny_patch()]),
        "patches, made": Reader(
            _use_patch, ".safetensors", [tiny_patch(), wide_patch()], mutate_content
        ),
        "rules": Reader(read_rule, ".safetensors", [tiny_rule(), whole_rule()]),
        "rules, made": Reader(
            _use_rule, ".safetensors", [tiny_rule(), whole_rule()], mutate_content
        ),
        "headers": Reader(_read_headers, ".safetensors", headers),
        "indices": Reader(read_stored, ".safetensors.index.json", [_index(weights)]),
        "pickles": Reader(read_weights, ".pkl", [tiny_pickle(), module_pickle()]),
        "zips": Reader(read_weights, ".pt", [(folder / "tiny.pt").read_bytes()]),
        "old .pt": Reader(read_weights, ".pt", [(folder / "old.pt").read_bytes()]),
        "rewritten": Reader(_Rewritten(folder), ".pt", _rewritable(folder, weights)),
        "exported": Reader(read_exported, ".pt2", [exported(folder)]),
        "exported, text": Reader(_Repacked(exported(folder), read_exported), ".pt2", [b"{}"]),
        "zips, pickle": Reader(
            _Repacked((folder / "tiny.pt").read_bytes(), read_weights), ".pt", [b"{}"]
        ),
        "arrays": Reader(_read_array, ".npz", _arrays()),
        "HTTP answers": Reader(_Answers(folder), ".http", _answers()),
    }


def tiny_weights() -> dict[str, Tensor]:
    """Some tensors by names of a generator."""
    draw = torch.Generator().manual_seed(0)
    shapes = {"style.1.weight": (8, 8), "style.1.bias": (8,), "input.input": (1, 4, 4, 4)}
    shapes |= dict.fromkeys(("conv1.conv.weight", "convs.0.conv.weight"), (1, 4, 4, 3, 3))
    return {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}


def tiny_patch() -> bytes:
    """A whole patch."""
    metadata = {"name": "e", "family": "stylegan2", "layer": "layer2", "rank": 1, "edit": "0" * 64}
    metadata |= {"base": "0" * 64, "parent": "0" * 64, "result": "0" * 64}
    return make_patch(
        {"conv1.conv.weight": torch.ones(1, 4) / 2},
        {"conv1.conv.weight": torch.ones(4, 1, 3, 3)},
        {"conv1.conv.weight": "1 o i y x"},
        metadata | {"solver": {"method": "direct"}},
    ).to_bytes()


def wide_patch() -> bytes:
    """A patch of two layers that share their directions, with all that a patch may say."""
    metadata = {"name": "w", "family": "stylegan2", "rank": 2, "edit": "1" * 64}
    metadata |= {"base": "2" * 64, "parent": "2" * 64, "result": "3" * 64}
    layers = ["layer2", "layer3"]
    numbers = {"independent": 0.1, "correlated": 0.2, "energy": 0.3}
    metadata |= {"layers": layers, "collateral": dict.fromkeys(layers, numbers)}
    shared = torch.eye(4)[:2]
    names = ("conv1.conv.weight", "convs.0.conv.weight")
    return make_patch(
        dict.fromkeys(names, shared),
        {name: torch.ones(4, 2, 3, 3) for name in names},
        dict.fromkeys(names, "1 o i y x"),
        metadata | {"solver": {"method": "direct"}, "notes": ["It went on."]},
    ).to_bytes()


def _use_patch(path: Path) -> object:
    """Read a patch, and do what every command does with it."""
    patch = read_patch(path)
    require_chain(patch.metadata["base"], [patch])
    require_orthonormal(patch)
    weights = tiny_weights()
    require_fitting(patch, weights, None)
    return apply_stack(weights, [patch]), patch.to_bytes()


def _use_rule(path: Path) -> object:
    """Read a rule, and place it as a solver does."""
    edit = read_rule(path)
    return [place_as_file(rule, torch.device("cpu")) for rule in edit.rules], edit.layer


def tiny_rule() -> bytes:
    """A rule file of one rule."""
    return _rule_file([_rule("layer2", "conv1.conv.weight")], rank=1)


def tiny_pickle() -> bytes:
    """A pickle as NVIDIA's training writes it, as far as this reader looks."""

    class Meta:
        def __reduce__(self) -> Any:
            return OrderedDict, ([("a", torch.ones(3)), ("b", [1, 2.5, "x"])],)

    return pickle.dumps({"G_ema": Meta(), "step": 3, "names": ["a", ("b", {"c": None})]}, 4)


def whole_rule() -> bytes:
    """A rule file of two rules with everything that a rule may have."""
    ones = torch.ones(2, 3, 4, 4)
    shares = torch.full((2, 16), 1 / 64)
    preserved = PreservedKeys(torch.ones(2, 4, 4, 4), {"style": torch.ones(2, 4)}, shares, shares)
    refinement = Refinement(torch.ones(2, 8), ones, ones, ones[:, :1], 20, 0.01, 1.0)
    first = replace(
        _rule("layer2", "conv1.conv.weight"),
        preserved=preserved,
        refinement=refinement,
        details={"region": [0, 0, 4, 4]},
    )
    second = replace(_rule("layer3", "convs.0.conv.weight"), units=(0, 3), observe="layer4")
    return _rule_file([first, second], rank=2)


def _rule(layer: str, parameter: str) -> LayerRule:
    """A rule for a convolution."""
    keys, values = torch.ones(1, 4, 2, 2), torch.ones(1, 3, 2, 2)
    context = torch.eye(4)
    return LayerRule(
        layer, parameter, keys, values, {"style": torch.ones(1, 4)}, context, torch.ones(4)
    )


def _rule_file(rules: Sequence[LayerRule], rank: int) -> bytes:
    settings = settings_of({"method": "least-squares", "collateral_weight": 1.0})
    digests = dict.fromkeys(("base", "parent", "edit"), "0" * 64)
    edit = ResolvedEdit("e", "stylegan2", tuple(rules), settings, rank, "zca", digests)
    return edit.to_bytes()


def module_pickle() -> bytes:
    """A pickle of modules as data, each with source, as NVIDIA's training writes them."""

    class Module:
        def __init__(self, name: str, children: dict[str, Any]) -> None:
            self.name, self.children = name, children

        def __reduce__(self) -> Any:
            state = {
                "_parameters": OrderedDict(weight=torch.ones(4, 4)),
                "_buffers": OrderedDict(noise=torch.zeros(4)),
                "_modules": OrderedDict(self.children),
                "_init_kwargs": {"channel_base": 32768},
                "conv_clamp": 256,
                "activation": "lrelu",
            }
            meta = {"type": "class", "version": 6, "module_src": "", "class_name": self.name}
            return _reconstruct_persistent_obj, (meta | {"state": state},), None

    place = types.ModuleType("torch_utils.persistence")
    place._reconstruct_persistent_obj = _reconstruct_persistent_obj  # type: ignore[attr-defined]
    _reconstruct_persistent_obj.__module__ = place.__name__
    own = {"torch_utils": types.ModuleType("torch_utils"), place.__name__: place}
    sys.modules.update(own)
    try:
        inner = Module("SynthesisBlock", {})
        network = Module("Generator", {"mapping": Module("MappingNetwork", {"fc0": inner})})
        return pickle.dumps({"G": network, "G_ema": network, "cfg": {"a": (1, 2.5)}}, 4)
    finally:
        for name in own:
            del sys.modules[name]


def _reconstruct_persistent_obj(meta: dict[str, Any]) -> Any:
    raise AssertionError("a pickle was executed")


def records(masks: Sequence[bytes]) -> list[bytes]:
    """Edit records of the authors' notebook, and interventions of their experiment."""
    urls = [f"data:image/png;base64,{base64.b64encode(mask).decode()}" for mask in masks]
    places: list[Any] = [[number, url] for number, url in enumerate(urls, start=1)]
    whole = {"object": places[0], "paste": places[1], "key": places}
    erase = {"key": [places[2], places[0]]}
    interventions = {
        str(number): {"mask": url, "intervention": {"units": [[1, 0.5], [2, -1.0]]}}
        for number, url in enumerate(urls)
    }
    return [json.dumps(content).encode() for content in (whole, erase, interventions)]


def _arrays() -> list[bytes]:
    """Arrays of numpy, alone and several in a file."""
    found = []
    for save, given in (
        (np.save, {"arr": np.arange(8.0, dtype=np.float32)}),
        (np.savez, {"z": np.ones((2, 8))}),
        (np.savez_compressed, {"w": np.zeros((1, 4, 8))}),
    ):
        buffer = io.BytesIO()
        save(buffer, **given)  # type: ignore[operator]
        found.append(buffer.getvalue())
    return found


def _read_array(path: Path) -> object:
    return read_latent(LatentFile(file=path.name), path.parent, None, open_tensors)


def exported(folder: Path) -> bytes:
    """A file of torch.export."""
    path = folder / "seed.pt2"
    if not path.exists():
        network = nn.Sequential(nn.ConvTranspose2d(4, 3, 4), nn.Tanh()).eval()
        shapes = ({0: torch.export.Dim("n")},)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(
                network, (torch.zeros(2, 4, 1, 1),), dynamic_shapes=shapes
            )
            torch.export.save(program, path)
    return path.read_bytes()


def _rewritable(folder: Path, weights: dict[str, Tensor]) -> list[bytes]:
    """The pickle of an archive, an older file of torch, and a bare pickle, of shared tensors."""
    content = {"g": weights, "g_ema": weights, "latent_avg": torch.zeros(8)}
    torch.save(content, folder / "shared.pt")
    torch.save(content, folder / "older.pt", _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(folder / "shared.pt") as archive:
        text = archive.read("shared/data.pkl")
    return [text, (folder / "older.pt").read_bytes(), pickle.dumps(content, 4)]


class _Rewritten:
    """Writes a file again with one tensor replaced; a bare pickle of torch within an archive."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, path: Path) -> object:
        data = path.read_bytes()
        if data[:2] == b"\x80\x02" and LEGACY_TORCH not in data[:32]:
            with (
                zipfile.ZipFile(self.folder / "shared.pt") as whole,
                zipfile.ZipFile(path, "w") as archive,
            ):
                for name in whole.namelist():
                    new = data if name.endswith("data.pkl") else whole.read(name)
                    archive.writestr(name, new)
        changes = {("g_ema", "conv1.conv.weight"): torch.zeros(1, 4, 4, 3, 3)}
        target = io.BytesIO()
        rewrite(path, target, changes, "{}")
        return target


class _Repacked:
    """Reads a sound archive in which one text or pickle was changed.

    Changes of the bytes of an archive mostly end at its checksums.
    """

    def __init__(self, whole: bytes, read: Callable[[Path], object]) -> None:
        self.read = read
        with zipfile.ZipFile(io.BytesIO(whole)) as archive:
            self.entries = {name: archive.read(name) for name in archive.namelist()}
        self.texts = [name for name in self.entries if name.endswith((".json", ".pkl"))]

    def __call__(self, path: Path) -> object:

        draw = random.Random(zlib.crc32(path.read_bytes()) + next(_count))
        name = draw.choice(self.texts)
        with zipfile.ZipFile(path, "w") as archive:
            for entry, data in self.entries.items():
                archive.writestr(entry, mutate_any(data, draw) if entry == name else data)
        return self.read(path)


def _counter() -> Iterator[int]:
    number = 0
    while True:
        yield number
        number += 1


_count = _counter()


class _Answers:
    """Fetches from a server in this process that answers with the bytes of a file."""

    def __init__(self, folder: Path) -> None:

        self.folder, self.answer = folder, b""
        self.listening = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            connection, _ = self.listening.accept()
            try:
                connection.recv(65536)
                connection.sendall(self.answer)
            except OSError:
                pass
            connection.close()

    def __call__(self, path: Path) -> object:
        self.answer = path.read_bytes()
        port = self.listening.getsockname()[1]
        address = f"http://127.0.0.1:{port}/w{next(_count)}.pt#sha256={BODY_DIGEST}"
        with tempfile.TemporaryDirectory(dir=self.folder) as cache:
            return fetch(parse_remote(address, Cache(Path(cache))))


BODY = b"x" * 40
BODY_DIGEST = hashlib.sha256(BODY).hexdigest()
"""The digest that is pinned: mutants that leave the body as it is are read."""


def _answers() -> list[bytes]:
    plain = b"HTTP/1.1 200 OK\r\nContent-Length: 40\r\nContent-Type: text/plain\r\n\r\n" + BODY
    pieces = b"28\r\n" + BODY + b"\r\n0\r\n\r\n"
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + pieces
    moved = b"HTTP/1.1 302 Found\r\nLocation: /other.pt\r\n\r\n"
    part = b"HTTP/1.1 206 Partial\r\nContent-Length: 40\r\n\r\n" + BODY
    return [plain, chunked, moved, part]


def _texts(pattern: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted(ROOT.glob(pattern))]


def _tiny_spec() -> str:
    mask = {"box": [0, 0, 8, 8]}
    edit = {"name": "e", "layer": "layer6", "rank": 2, "source": {"latent": 0, "mask": mask}}
    edit |= {"target": {"latent": 1, "mask": mask}, "context": [{"latent": 2, "mask": mask}]}
    model = {"family": "stylegan2", "weights": "builtin:skyline"}
    return json.dumps(
        {"version": 1, "model": model, "statistics": {"samples": 16}, "edits": [edit]}
    )


def _read_rows(path: Path) -> object:
    spec = json.loads(_tiny_spec())
    spec["edits"][0]["preserve"] = {"file": path.name}
    return load_document(parse(json.dumps(spec), "rows.json"), path.with_name("rows.json"))


def _odd_masks() -> list[bytes]:

    found = []
    for kind in ("WEBP", "GIF", "BMP", "TIFF", "JPEG"):
        buffer = io.BytesIO()
        Image.new("L", (16, 16), 255).save(buffer, kind)
        found.append(buffer.getvalue())
    for kind, mode in (("PNG", "P"), ("PNG", "LA"), ("PNG", "I;16"), ("WEBP", "RGBA")):
        buffer = io.BytesIO()
        Image.new(mode, (16, 16)).save(buffer, kind)
        found.append(buffer.getvalue())
    frames = [Image.new("L", (16, 16), shade) for shade in (0, 99, 255)]
    for kind in ("GIF", "PNG", "WEBP"):
        buffer = io.BytesIO()
        frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
        found.append(buffer.getvalue())
    return found


def _index(weights: Mapping[str, Tensor]) -> bytes:
    return json.dumps({"weight_map": dict.fromkeys(weights, "tiny.safetensors")}).encode()


def _read_mask(path: Path) -> object:
    return mask_image(path.name, path.parent, 256, legacy=False)


def _read_record(path: Path) -> object:
    return read_record(path, legacy=True)


def _read_headers(path: Path) -> object:
    return read_header(path), read_stored(path), read_weights(path)


def main(count: int) -> int:
    """Run all readers, print the table, and return 1 where something went wrong."""
    watch()
    wrong = 0
    print(HEAD)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for number, (name, reader) in enumerate(make_readers(folder).items()):
            outcome = run_reader(reader, count, number, folder)
            print(outcome.to_line(name), flush=True)
            for defect in sorted(set(outcome.defects))[:5]:
                print(f"    {defect}")
            wrong += len(outcome.defects) + outcome.executions
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000))
