"""Lists of names in one text, as users type them: `cat,dog`, `"salt, pepper",sugar`, `"a:b":indoors,dog:outdoors`.

The quoting rule is that of CSV files. A name in double quotes may hold separators and blanks at its ends, and a double
quote inside it is written twice. Without quotes, blanks around a name do not count.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from debeton.system.errors import UsageError

RULE = 'a name with a separator stands in double quotes, as in "salt, pepper", and a quote inside is written twice'


def quote(name: str) -> str:
    """Return a name as a list can hold it: in double quotes where it needs them."""
    plain = name and name == name.strip() and not re.search(r'[,:="]', name)
    return name if plain else '"' + name.replace('"', '""') + '"'


def join_names(names: Iterable[str], separator: str = ",") -> str:
    """Return the text of a list, of which `parse_names` makes the same names."""
    return separator.join(map(quote, names))


def parse_names(text: str) -> tuple[str, ...]:
    """Return the names in 'a,b,...'; () of an empty text. UsageError where a quote is not closed."""
    return tuple(unquote(part) for part in split_unquoted(text, ",")) if text else ()


def split_unquoted(text: str, separator: str, others: str = "") -> list[str]:
    """Return the parts of a text between the separators that stand outside of quotes. The parts keep their quotes.

    others: further characters after which a quote may open. Elsewhere a quote is a character like others.
    UsageError where a quote is not closed.
    """
    parts, start, place, may_open = [], 0, 0, True
    while place < len(text):
        letter = text[place]
        if letter == '"' and may_open:
            place = _end_of_quote(text, place)
            may_open = False
            continue
        if letter == separator:
            parts.append(text[start:place])
            start = place + 1
        may_open = letter == separator or letter in others or (may_open and letter.isspace())
        place += 1
    return [*parts, text[start:]]


def unquote(part: str) -> str:
    """Return the name in one part of a list. UsageError for text after the closing quote."""
    name = part.strip()
    if not name.startswith('"'):
        return name
    end = _end_of_quote(name, 0)
    if end != len(name):
        raise UsageError(f"'{name}': '{name[end:]}' follows the closing quote; {RULE}")
    return name[1:-1].replace('""', '"')


def _end_of_quote(text: str, start: int) -> int:
    """Return the place after the quote that closes the one at `start`."""
    match = re.compile(r'"(?:[^"]|"")*"').match(text, start)
    if match is None:
        raise UsageError(f"'{text}': the quote before '{text[start + 1 : start + 20]}' is not closed; {RULE}")
    return match.end()
