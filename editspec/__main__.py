"""``python -m editspec``."""

from editspec.cli import main

main()
