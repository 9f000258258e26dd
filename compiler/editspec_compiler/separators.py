"""Tabs as separators, which YAML 1.2 allows and pyyaml does not."""

from __future__ import annotations

from typing import Any

import yaml

BREAKS = "\r\n\x85\u2028\u2029"
"""The characters that end a line for pyyaml."""


class TabLoader(yaml.SafeLoader):
    """The reader of pyyaml with tabs between tokens, and before the end of a line.

    A tab that indents a line is still an error: how far it indents is not known.
    """

    def scan_to_next_token(self) -> None:
        """Move over spaces, tabs, comments and ends of lines, up to the next token."""
        while True:
            super().scan_to_next_token()
            if self.peek() != "\t" or self._indents():
                return
            while self.peek() in " \t":
                self.forward()

    def scan_plain_spaces(self, indent: Any, start_mark: Any) -> list[str]:
        """Scan what lies between two words of plain text; tabs belong to it as spaces do."""
        length = 0
        while self.peek(length) in " \t":
            length += 1
        found: str = self.prefix(length)
        if "\t" not in found:
            return super().scan_plain_spaces(indent, start_mark) or []
        self.forward(length)
        # At the end of a line nothing of it counts.
        if self.peek() in BREAKS:
            return super().scan_plain_spaces(indent, start_mark) or []
        return [found]

    def scan_block_scalar_indicators(self, start_mark: Any) -> tuple[bool | None, int | None]:
        """Scan what stands behind ``|`` or ``>`` of a block of text; a tab may follow it."""
        start = self.pointer
        try:
            return super().scan_block_scalar_indicators(start_mark)
        except yaml.scanner.ScannerError:
            if self.peek() != "\t":
                raise
        # pyyaml has read the indicators, and refuses only what follows them.
        chomping = increment = None
        for character in self.buffer[start : self.pointer]:
            if character.isdigit():
                increment = int(character)
            else:
                chomping = character == "+"
        return chomping, increment

    def scan_block_scalar_ignored_line(self, start_mark: Any) -> None:
        """Move over the rest of the line on which a block of text is announced."""
        while self.peek() in " \t":
            self.forward()
        super().scan_block_scalar_ignored_line(start_mark)

    def _indents(self) -> bool:
        """Whether the tab that comes next indents a token of a block."""
        before = self.buffer[self.pointer - self.column : self.pointer]
        if self.flow_level or before.strip(" \t"):
            return False
        length = 0
        while self.peek(length) in " \t":
            length += 1
        return self.peek(length) not in f"\0#{BREAKS}"
