"""``python -m editspec``."""

from editspec.cli.main import main

main()
