"""The page itself."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse

STATIC = Path(__file__).parents[1] / "static"

router = APIRouter()


@router.get("/", include_in_schema=False)
def page() -> FileResponse:
    """Answer with the page."""
    # Not cached: another version of the page may be installed at any time, and it is small.
    return FileResponse(STATIC / "index.html", headers={"Cache-Control": "no-store"})
