"""What killed or interrupted work leaves: nothing that is listed and not there, no litter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from safetensors.torch import save_file
from torch import Tensor

from editspec.commands.build import build
from editspec.engine.session import BuildSession
from editspec.studio.draft_store import remove_abandoned_parts
from editspec_runtime.io.files import open_output
from tests.end_to_end.test_interrupted import five_edits


def test_an_interrupted_build_lists_only_what_is_there(
    make_tiny: Callable[..., dict[str, Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file(make_tiny(size=16), tmp_path / "tiny.safetensors")
    spec, out = tmp_path / "spec.yaml", tmp_path / "out"
    spec.write_text(yaml.safe_dump(five_edits(2)))
    solve = BuildSession.solve

    def interrupt(session: BuildSession, number: int) -> object:
        if number == 2:
            raise KeyboardInterrupt
        return solve(session, number)

    with monkeypatch.context() as patched:
        patched.setattr(BuildSession, "solve", interrupt)
        with pytest.raises(KeyboardInterrupt):
            build(spec, out)
    manifest = json.loads((out / "manifest.json").read_text())
    there = {str(path.relative_to(out)) for path in out.rglob("*.safetensors")}
    assert set(manifest["files"]) == there
    assert len(there) == 4
    # The folder is known as a build's: the next build goes on in it.
    build(spec, out)
    manifest = json.loads((out / "manifest.json").read_text())
    assert sorted(manifest) == ["edits", "files", "format", "version"]
    assert all((out / name).is_file() for name in manifest["files"])
    assert len(manifest["files"]) == 10


def leave_part(path: Path) -> None:
    """Begin to write a file in a process, and kill it with signal 9."""
    code = (
        "import sys; from pathlib import Path\n"
        "from editspec_runtime.io.files import open_output\n"
        "with open_output(Path(sys.argv[1])) as file:\n"
        "    file.write(b'half'); file.flush(); print('begun', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()


@pytest.mark.skipif(os.name != "posix", reason="files are held as POSIX systems hold them")
def test_half_written_files_of_a_killed_studio_are_swept(tmp_path: Path) -> None:
    spec = tmp_path / "edits.yaml"
    for place in (
        spec,
        tmp_path / ".edits.yaml.studio/draft.json",
        tmp_path / "masks/latent-1.png",
    ):
        leave_part(place)
    assert len(list(tmp_path.rglob(".*.part"))) == 3
    mine = tmp_path / ".notes.part"
    mine.write_text("mine")
    time.sleep(0.6)
    # Negative control: a file that a process still writes stays.
    with open_output(tmp_path / "masks/latent-2.png") as file:
        file.write(b"half")
        file.flush()
        time.sleep(0.6)
        remove_abandoned_parts(spec)
        assert len(list(tmp_path.rglob(".*.png.*.part"))) == 1
        file.write(b"whole")
    assert (tmp_path / "masks/latent-2.png").read_bytes() == b"halfwhole"
    assert list(tmp_path.rglob(".*.part")) == [mine]
