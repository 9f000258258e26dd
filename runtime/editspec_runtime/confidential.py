"""Secrets in addresses: whether a text holds one, and the text without it. Imports no torch."""

from __future__ import annotations

import re

HOST = r"(?:(?<=://)|(?<=[a-z0-9]{2}:/)(?!/))"
"""Where the host of an address begins; a path that was made of it has one stroke alone."""

PASSWORD = HOST + r"[^/\s:@]*:(?:[^/\s]*|(?!\d+/)[^\s@]{0,200})(?=@)"
"""The name of a user with a password; a port is none, though an @ may follow further on."""

TOKEN = HOST + r"(?<!ssh://)(?<!ssh:/)[^/\s@]+(?=@[^/\s]*/)"
"""What stands in the place of a user: servers take tokens there. By ssh it is only a name."""

SIGNED = (
    r"(?<=[?&])(?:[^\s=&#?]{0,80}[-_])?(?:token|secret|password|signature|sig|credential|api-?key|key)"
    r"=[^\s&#]+"
)
"""What a query proves by a name such as ``token`` or ``X-Amz-Signature``."""

SECRET = re.compile(rf"{PASSWORD}|{TOKEN}|{SIGNED}", re.IGNORECASE)


def holds_secret(text: str) -> bool:
    """Tell whether an address has a user, a password or the signature of a query in it."""
    return SECRET.search(text) is not None


def hide_secrets(text: str) -> str:
    """Return a text with stars in the place of all secrets of its addresses, as long as before."""
    # Every secret follows the one or holds the other. The pattern is slow on long texts, most of
    # which have neither.
    if ":/" not in text and "=" not in text:
        return text
    return SECRET.sub(lambda secret: "*" * len(secret.group()), text)
