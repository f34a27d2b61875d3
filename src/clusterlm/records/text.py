"""UTF-8 files as text, in pieces that fit into memory; what is not UTF-8 is an error that says where."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from clusterlm.errors import InputError

CHUNK_BYTES = 1 << 20


def text_lines(path: Path) -> Iterator[str]:
    """Lines with their ends. Only \\n ends a line: U+2028 and friends may stand within a JSON string."""
    with open(path, "rb") as file:
        for number, line in enumerate(file):
            try:
                yield (line.removeprefix(codecs.BOM_UTF8) if number == 0 else line).decode()
            except UnicodeDecodeError:
                raise not_utf8(path) from None


def text_chunks(path: Path) -> Iterator[str]:
    """The text in pieces of about a megabyte, for files that may be one long line."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    with open(path, "rb") as file:
        try:
            while chunk := file.read(CHUNK_BYTES):
                yield decoder.decode(chunk)
            yield decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            raise not_utf8(path) from None


def not_utf8(path: Path) -> InputError:
    """Reads the file again to find the first wrong byte: no line of a good file pays for its count."""
    offset = 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                position = offset + error.start
                problem = f"the byte 0x{line[error.start]:02x} at byte offset {position} is not UTF-8"
                is_utf16 = number == 1 and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
                encoding = "utf16" if is_utf16 else "latin1"
                hint = f"if the file is {encoding}: iconv -f {encoding} -t utf8 {path.name} > utf8-{path.name}"
                return InputError(problem, where=f"{path}:{number}", hint=hint)
            offset += len(line)
    return InputError("the file changed while it was read", where=str(path), hint="run the command again")
