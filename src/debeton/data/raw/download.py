"""One file over HTTP, continued where the last attempt stopped.

NAME.part holds what has come; NAME.part.json says how long the whole file is and which version of it this is.
"""

from __future__ import annotations

import errno
import http.client
import json
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from debeton.system.errors import DataError
from debeton.system.files import write_text
from debeton.system.log import logger

if TYPE_CHECKING:
    import requests  # with urllib3 a seventh of a second to import, which --list and --help need not

WAITS = (1.0, 4.0, 16.0)  # seconds before each new attempt; one that brought any data starts the count again
TIMEOUT = (10.0, 60.0)  # seconds to connect, and without any data
CHUNK = 1 << 18


class _TryAgain(Exception):
    """An answer that may be another one in a moment."""


def part_of(path: Path) -> Path:
    """Where a file that is not yet complete is kept."""
    return path.with_name(f"{path.name}.part")


def amount(part: Path) -> str:
    """'12.3 of 48.0 MB', or '12.3 MB' where the length of the whole is not known."""
    total = _read_facts(part).get("total")
    return f"{_size(part) / 1e6:.1f}{f' of {total / 1e6:.1f}' if total else ''} MB"


def download(url: str, path: Path, *, progress: bool = False) -> Path:
    """The whole file, not yet under its name but as NAME.part, and not verified.

    Raises: DataError when the server will not give it, does not answer, or the disk is full. What came is kept.
    """
    import requests
    import urllib3

    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(path)
    logger.info("fetching %s", url)
    failures = 0
    while True:
        before = _size(part)
        try:
            _transfer(url, part, progress)
            _facts(part).unlink(missing_ok=True)
            return part
        except (requests.RequestException, urllib3.exceptions.HTTPError, _TryAgain) as error:
            failures = 1 if _size(part) > before else failures + 1
            reason = _innermost(error)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise DataError(
                f"the disk under {part.parent} is full: {part.name} holds {amount(part)}; free some space, and the "
                "same command goes on from there"
            ) from error
        if failures > len(WAITS):
            kept = f"{part.name} keeps {amount(part)}, and the same command goes on from there" if _size(part) else ""
            by_hand = f"fetch it by hand and put it at {path}"
            raise DataError(f"{url} cannot be fetched: {reason}; {f'{kept}; or ' if kept else ''}{by_hand}")
        logger.info("%s: %s; trying again in %g s", url, reason, WAITS[failures - 1])
        time.sleep(WAITS[failures - 1])


def _innermost(error: BaseException) -> str:
    """The text of the error that the others were wrapped around: 'Connection refused', not half a page."""
    import urllib3

    while isinstance(error.__context__, OSError | urllib3.exceptions.HTTPError | http.client.HTTPException):
        error = error.__context__
    return str(error) or type(error).__name__


def _transfer(url: str, part: Path, progress: bool) -> None:
    """One request: append what NAME.part lacks, or write it anew where the server starts from the beginning.

    Raises: _TryAgain and errors of requests and urllib3 when another attempt may do better.
    """
    import requests

    have, facts = _size(part), _read_facts(part)
    if have and have == facts.get("total"):
        return
    headers = {"Accept-Encoding": "identity", "User-Agent": "debeton"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if facts.get("version"):
            headers["If-Range"] = facts["version"]
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        start, total = _place(response, have, part)
        bar = tqdm(desc=part.stem, initial=start, total=total, unit="B", unit_scale=True, disable=not progress)
        with part.open("ab") as file, bar:
            file.truncate(start)
            write_text(_facts(part), json.dumps({"total": total, "version": _version(response.headers)}))
            # Some servers call a .tar.gz a .tar that is compressed for the way; decoding it would change its hash.
            for chunk in response.raw.stream(CHUNK, decode_content=False):
                file.write(chunk)
                bar.update(len(chunk))
            file.flush()
            os.fsync(file.fileno())
    if total is not None and _size(part) != total:
        raise _TryAgain(f"{_size(part)} of {total} bytes came")


def _place(response: requests.Response, have: int, part: Path) -> tuple[int, int | None]:
    """Where the body of an answer begins in the file, and the length of the whole file, if the server says."""
    status = response.status_code
    if status == 429 or status >= 500:
        raise _TryAgain(f"the server answered {status} {response.reason}")
    if status in (206, 416):
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if status == 206 and found and int(found[1]) == have:
            return have, int(found[2]) if found[2] != "*" else None
        part.unlink()
        raise _TryAgain(f"the server cannot go on from byte {have}")
    if status != 200:
        raise DataError(
            f"{response.url} answered {status} {response.reason}, expected a file; it may have moved: fetch "
            f"{part.stem} by hand, put it at {part.with_suffix('')}, and the same command verifies it"
        )
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


def _version(headers: Mapping[str, str]) -> str:
    """What If-Range takes to tell this version of a file from another; '' where the server says nothing of use."""
    tag = headers.get("ETag", "")
    return headers.get("Last-Modified", "") if tag.startswith("W/") or not tag else tag


def _facts(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _read_facts(part: Path) -> dict[str, Any]:
    try:
        facts = json.loads(_facts(part).read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
