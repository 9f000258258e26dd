"""The description of the API, from which the types of the page are made.

``python -m editspec.studio.api_document > editspec/studio/web/openapi.json`` writes it anew.
"""

from __future__ import annotations

import json
import sys

from editspec.studio.app import make_api


def api_document() -> str:
    """Describe the API as an OpenAPI document."""
    return json.dumps(make_api().openapi(), indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    sys.stdout.write(api_document())
