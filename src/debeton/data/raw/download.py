"""The download of one file over HTTP. A new attempt continues where the last one stopped.

NAME.part holds the bytes received so far. NAME.part.json holds the length and the version of the whole file.
"""

from __future__ import annotations

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
from debeton.system.failed_writes import FULL, naming_failed_writes
from debeton.system.files import write_text
from debeton.system.json_files import read_json
from debeton.system.json_shapes import Table, Within, or_null
from debeton.system.log import logger

if TYPE_CHECKING:
    import requests  # its import takes a seventh of a second, which --list and --help can do without

WAITS = (1.0, 4.0, 16.0)  # seconds before each new attempt; an attempt that received data starts the count again
TIMEOUT = (10.0, 60.0)  # seconds to connect, and without any data
CHUNK = 1 << 18
FACTS = Table(may={"total": or_null(Within(int, 0)), "version": str})


class _TryAgain(Exception):
    """An answer of the server after which a new attempt may succeed."""


def part_of(path: Path) -> Path:
    """Return the name of a file that is not yet complete."""
    return path.with_name(f"{path.name}.part")


def downloaded_amount(part: Path) -> str:
    """Return '12.3 of 48.0 MB', or '12.3 MB' if the length of the whole file is unknown."""
    total = _read_facts(part).get("total")
    return f"{_size(part) / 1e6:.1f}{f' of {total / 1e6:.1f}' if total else ''} MB"


def download(url: str, path: Path, *, progress: bool = False) -> Path:
    """Download a file and return NAME.part, which holds all of it. The file is neither renamed nor verified.

    DataError if the server refuses, does not answer, or the disk is full. The received bytes are kept.
    """
    import requests
    import urllib3

    part = part_of(path)
    with naming_failed_writes(part):
        path.parent.mkdir(parents=True, exist_ok=True)
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
            if error.errno in FULL:
                raise DataError(
                    f"the disk under {part.parent} is full: {part.name} holds {downloaded_amount(part)}; free "
                    "some space, and the same command goes on from there"
                ) from error
            raise DataError(
                f"{part} could not be written ({error.strerror or error}); check the disk and the rights of its "
                "folder, and the same command goes on from there"
            ) from error
        if failures > len(WAITS):
            resume = f"{part.name} keeps {downloaded_amount(part)}, and the same command goes on from there; or "
            by_hand = f"fetch it by hand and put it at {path}"
            raise DataError(f"{url} cannot be fetched: {reason}; {resume if _size(part) else ''}{by_hand}")
        logger.info("%s: %s; trying again in %g s", url, reason, WAITS[failures - 1])
        time.sleep(WAITS[failures - 1])


def _innermost(error: BaseException) -> str:
    """Return the text of the innermost error: 'Connection refused' instead of half a page."""
    import urllib3

    while isinstance(error.__context__, OSError | urllib3.exceptions.HTTPError | http.client.HTTPException):
        error = error.__context__
    return str(error) or type(error).__name__


def _transfer(url: str, part: Path, progress: bool) -> None:
    """Send one request, and append the missing bytes to NAME.part.

    If the server starts from the beginning, NAME.part is written anew.
    Raises _TryAgain or an error of requests or urllib3 if another attempt may succeed.
    """
    import requests

    received, facts = _size(part), _read_facts(part)
    if received and received == facts.get("total"):
        return
    headers = {"Accept-Encoding": "identity", "User-Agent": "debeton"}
    if received:
        headers["Range"] = f"bytes={received}-"
        if facts.get("version"):
            headers["If-Range"] = facts["version"]
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        start, total = _body_start(response, received, part)
        bar = tqdm(desc=part.stem, initial=start, total=total, unit="B", unit_scale=True, disable=not progress)
        with part.open("ab") as file, bar:
            file.truncate(start)
            write_text(_facts(part), json.dumps({"total": total, "version": _version(response.headers)}))
            # Some servers declare a .tar.gz as a compressed .tar; decoding it would change its hash.
            for chunk in response.raw.stream(CHUNK, decode_content=False):
                file.write(chunk)
                bar.update(len(chunk))
            file.flush()
            os.fsync(file.fileno())
    if total is not None and _size(part) != total:
        raise _TryAgain(f"only {_size(part)} of {total} bytes came")


def _body_start(response: requests.Response, received: int, part: Path) -> tuple[int, int | None]:
    """Return the position of the answer's body in the file, and the length of the whole file.

    The length is None if it is unknown.
    """
    status = response.status_code
    if status == 429 or status >= 500:
        raise _TryAgain(f"the server answered {status} {response.reason}")
    if status in (206, 416):
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if status == 206 and span and int(span[1]) == received:
            return received, int(span[2]) if span[2] != "*" else None
        part.unlink()
        raise _TryAgain(f"the server cannot go on from byte {received}")
    if status != 200:
        raise DataError(
            f"{response.url} answered {status} {response.reason}, expected a file; it may have moved: fetch "
            f"{part.stem} by hand, put it at {part.with_suffix('')}, and the same command verifies it"
        )
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


def _version(headers: Mapping[str, str]) -> str:
    """Return the text that If-Range needs to recognise this version of the file; '' if the server gives none."""
    tag = headers.get("ETag", "")
    return headers.get("Last-Modified", "") if tag.startswith("W/") or not tag else tag


def _facts(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _read_facts(part: Path) -> dict[str, Any]:
    """Return the length and the version of the whole file. A damaged description is none: the server says it anew."""
    try:
        facts: dict[str, Any] = read_json(_facts(part), FACTS, remedy="the server says it anew")
    except (FileNotFoundError, DataError):
        return {}
    return facts


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
