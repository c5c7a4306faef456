"""Names and paths that come from foreign text: class names, names of data sets, entries of manifests.

`file_name` makes the name of one file or folder of any text. `path_below` and `Root` take a path of a file or a setting
and hold it against the folder that it may not leave.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from debeton.system.errors import DataError

LONGEST = 150  # bytes of a name in UTF-8; file systems take 255, and temporary names add a host and a suffix
SHORTENED = "%7E"  # stands before the hash of a long name; no other name holds it, as '~' is never replaced
# '/' and '\' part folders. These look like one of them and are not taken apart by NFKC.
SLASHES = "/\\\N{FRACTION SLASH}\N{DIVISION SLASH}\N{BIG SOLIDUS}\N{SET MINUS}\N{BIG REVERSE SOLIDUS}"
INVISIBLE = ("Cc", "Cf", "Cs", "Zl", "Zp")  # control, format and surrogate characters, ends of lines and paragraphs
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def file_name(text: str, reserved: Iterable[str] = ()) -> str:
    """Return a name for a file or a folder that stands for any text; different texts have different names.

    An ordinary name stays as it is. A character that is not safe becomes '%' and two hex digits for each byte in UTF-8:

    - slashes, and characters that look like a slash or like dots;
    - invisible characters, and blanks other than ' ';
    - a dot, a dash or a blank at the beginning, and a dot or a blank at the end;
    - a '%' before two hex digits, and letters outside of ASCII where the text is not composed (NFC).

    So no name is hidden, an option, '.', '..' or a path. A longer name than LONGEST ends in a hash of the text.

    reserved: patterns of names with another meaning in the folder. The first letter of such a name is replaced too.
    """
    composed = unicodedata.is_normalized("NFC", text)
    letters = [
        _escaped(letter) if _is_odd(text, place, composed=composed) else letter for place, letter in enumerate(text)
    ]
    if text in ("", "%"):
        return "%25" if text else "%"
    if letters[0] == text[0] and any(fnmatchcase(text, pattern) for pattern in reserved):
        letters[0] = _escaped(text[0])
    name = "".join(letters)
    if len(name.encode()) <= LONGEST:
        return name
    end = SHORTENED + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:24]
    return name.encode()[: LONGEST - len(end)].decode(errors="ignore") + end


def _escaped(letter: str) -> str:
    return "".join(f"%{byte:02X}" for byte in letter.encode("utf-8", "surrogatepass"))


def _is_odd(text: str, place: int, *, composed: bool) -> bool:
    """Return whether the letter at a place does not stay as it is in the name of a file."""
    letter = text[place]
    if letter.isascii() and letter.isalnum():
        return False
    if (place == 0 and letter in ".- ") or (place == len(text) - 1 and letter in ". "):
        return True
    if letter == "%":
        return re.match(r"[0-9A-Fa-f]{2}", text[place + 1 : place + 3]) is not None
    if letter in SLASHES or not (composed or letter.isascii()):
        return True
    kind = unicodedata.category(letter)
    if kind in INVISIBLE or (kind == "Zs" and letter != " "):
        return True
    return letter != "." and bool(set(unicodedata.normalize("NFKC", letter)) & set("./\\"))


def leads_out(path: str) -> bool:
    """Return whether a path with '/' is absolute, leads out of its folder by '..', or holds a NUL."""
    if path.startswith("/") or "\0" in path:
        return True
    return ".." in path and os.path.normpath(path).split("/")[0] == ".."


def path_below(text: str, where: str, error: type[ValueError] = DataError) -> str:
    """Return a path with '/' that stays below a folder, in its shortest form. Links are not looked at.

    text: a path as a file or a setting has it.
    where: the place of the path, for the message, such as 'manifest.jsonl, line 3'.

    `error` for an absolute path, for one that leads to the folder itself or out of it, and for control characters.
    """
    path = os.path.normpath(text) if text else "."
    if leads_out(path) or path == "." or CONTROL.search(path):
        raise error(
            f"{where}: the path {text!r} does not lie below its folder; expected a relative path of names, without "
            "'..' that leads out and without control characters"
        )
    return path


class Root:
    """A folder that no path of a file may leave, neither by '..' nor through a link.

    folder: the folder. It may itself be a link.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._real = os.path.realpath(folder)
        self._known: dict[str, str] = {}  # folder below the root -> where it really is

    def path(self, text: str, where: str) -> Path:
        """Return the path of a file below the folder. The file need not exist.

        text, where: as of `path_below`.

        DataError as `path_below`, and where a link leads out of the folder.
        """
        relative = path_below(text, where)
        folder, _, _ = relative.rpartition("/")
        if folder not in self._known:
            self._known[folder] = os.path.realpath(self.folder / folder)
        path = self.folder / relative
        real = os.path.realpath(path) if path.is_symlink() else f"{self._known[folder]}/"
        if not f"{real.rstrip('/')}/".startswith(f"{self._real.rstrip('/')}/"):
            raise DataError(
                f"{where}: a link on the path {text!r} leads out of {self.folder}, to {real.rstrip('/')}; put the "
                "files themselves there"
            )
        return path
