"""Downloads from a server on this machine: fetched once, resumed, verified, unpacked safely. No real site is asked."""

from __future__ import annotations

import bz2
import errno
import gzip
import hashlib
import io
import logging
import lzma
import os
import random
import re
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from debeton.data.raw import download, unpack
from debeton.data.raw.fetch import Archive, check_fetched, fetch, unfinished_files_note
from debeton.data.raw.source import Source
from debeton.data.sources import SOURCES
from debeton.system.errors import DamagedFile, DataError, UsageError

NOISE = random.Random(0).randbytes(400_000)  # does not compress: an archive of it is as long


@dataclass
class Site:
    """The state of the server: its files, its behaviour, and the requests that it received.

    ranges, lengths: whether it serves parts of files, and gives the length of a file.
    shift: bytes by which the sent ranges are off.
    window: bytes of a range that it sends at once, all of them by default.
    cut: bytes of the body after which the connection breaks, request by request.
    status: answers before the first good one.
    headers: added to every good answer.
    asked: path and range of each request.
    sent: bytes sent in all.
    """

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    lengths: bool = True
    shift: int = 0
    window: int = 1 << 30
    cut: list[int] = field(default_factory=list)
    status: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    sent: int = 0

    def archive(self, name: str, content: bytes, folder: str = "", **more: str | None) -> Archive:
        """Add a file to this site and return its archive with the right hash."""
        self.files[f"/{name}"] = content
        values = {"hash": f"sha256:{hashlib.sha256(content).hexdigest()}", "folder": folder, **more}
        return Archive(name, f"{self.url}/{name}", **values)


class Handler(BaseHTTPRequestHandler):
    site: Site

    def do_GET(self) -> None:
        site, wanted = self.site, self.headers.get("Range")
        assert self.headers["Accept-Encoding"] == "identity"  # else a server may compress what it sends
        site.asked.append((self.path, wanted))
        if site.status or self.path not in site.files:
            self.send_error(site.status.pop(0) if site.status else 404)
            return
        content = site.files[self.path]
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and site.ranges else 0
        if self.headers.get("If-Range", tag) != tag:
            start = 0
        start += site.shift if start else 0
        if start >= len(content):
            self.send_error(416)
            return
        end = min(len(content), start + site.window) if start else len(content)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
        for name, value in {"ETag": tag, **site.headers}.items():
            self.send_header(name, value)
        if site.lengths:
            self.send_header("Content-Length", str(end - start))
        self.end_headers()
        body = content[start:end][: site.cut.pop(0) if site.cut else None]
        site.sent += len(body)  # before the other side has them, and asks for the sum
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def site(monkeypatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "WAITS", (0.0, 0.0, 0.0))
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("SiteHandler", (Handler,), {}))
    server.RequestHandlerClass.site = Site(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server.RequestHandlerClass.site
    server.shutdown()
    server.server_close()
    thread.join()


PACKED = {"w": bytes, "w:gz": partial(gzip.compress, mtime=0), "w:bz2": bz2.compress, "w:xz": lzma.compress}


def tar_of(files: dict[str, bytes], mode: str = "w:gz") -> bytes:
    """Return a tar with the same bytes at every call. The header of gzip would hold the time."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return PACKED[mode](stream.getvalue())


def tar_with(*members: tarfile.TarInfo) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(b"x" * member.size))
    return stream.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, linkname: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, linkname, size
    return info


def zip_of(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)  # a plain name would store the time of day
    return stream.getvalue()


def tree(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder that is not hidden, by its path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    relative = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
    return {name: content for name, content in relative.items() if not re.search(r"(^|/)\.", name)}


PHOTOS = {"birds/images/a.jpg": b"a", "birds/images/b.jpg": b"b", "birds/list.txt": b"a b"}


# --- fetching ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["zip", "tar", "tar.gz", "tgz", "tar.bz2", "tar.xz"])
def test_an_archive_is_fetched_verified_and_unpacked(site, tmp_path, suffix):
    mode = {"tar": "w", "tar.bz2": "w:bz2", "tar.xz": "w:xz"}.get(suffix, "w:gz")
    content = zip_of(PHOTOS) if suffix == "zip" else tar_of(PHOTOS, mode)
    raw = tmp_path / "new" / "raw"
    fetch([site.archive(f"birds.{suffix}", content, "birds")], raw)
    assert tree(raw) == {f"birds.{suffix}": content, **PHOTOS}
    assert site.asked == [(f"/birds.{suffix}", None)]


def test_a_file_that_is_there_is_not_fetched_again(site, tmp_path):
    archives = [site.archive("birds.zip", zip_of(PHOTOS), "birds"), site.archive("labels.mat", b"labels")]
    fetch(archives, tmp_path)
    fetch(archives, tmp_path)
    assert len(site.asked) == 2
    (tmp_path / "birds.zip").unlink()  # to save space
    fetch(archives, tmp_path)
    assert len(site.asked) == 2


def test_a_raw_folder_that_has_everything_need_not_be_writable(site, tmp_path):
    (tmp_path / "birds").mkdir()
    fetch([site.archive("birds.zip", b"", "birds")], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["birds"]


def test_an_archive_put_there_by_hand_is_verified_and_unpacked_without_the_network(tmp_path):
    content = zip_of(PHOTOS)
    (tmp_path / "birds.zip").write_bytes(content)
    archive = Archive("birds.zip", "http://127.0.0.1:1/", f"md5:{hashlib.md5(content).hexdigest()}", "birds")
    fetch([archive], tmp_path)
    assert tree(tmp_path) == {"birds.zip": content, **PHOTOS}


def test_a_file_that_is_used_as_it_is_lies_where_into_says(site, tmp_path):
    fetch([site.archive("train.gz", NOISE, into="MNIST/raw")], tmp_path)
    assert tree(tmp_path) == {"MNIST/raw/train.gz": NOISE}


def test_a_mirror_is_asked_instead_of_the_owner_by_the_path_in_the_raw_folder(site, tmp_path):
    site.files = {"/copy/MNIST/raw/train.gz": b"1", "/copy/my%20%231%20birds.zip": zip_of(PHOTOS)}
    owner = "http://127.0.0.1:1/moved"
    archives = [Archive("train.gz", owner, into="MNIST/raw"), Archive("my #1 birds.zip", owner, folder="birds")]
    fetch(archives, tmp_path, mirror=f"{site.url}/copy/")
    assert [path for path, _ in site.asked] == list(site.files)
    assert (tmp_path / "birds/list.txt").read_bytes() == b"a b"


def test_a_mirror_that_is_no_address_and_a_raw_that_is_a_file_are_usage_errors(tmp_path):
    with pytest.raises(UsageError, match="mirror '/data' is not an http:// or https:// address"):
        fetch([], tmp_path, mirror="/data")
    (tmp_path / "birds.zip").write_bytes(b"")
    with pytest.raises(UsageError, match=r"birds\.zip is a file; to download, it must be a folder"):
        fetch([Archive("birds.zip", "")], tmp_path / "birds.zip")


def test_bytes_arrive_as_stored_even_if_the_server_declares_them_compressed(site, tmp_path):
    content = gzip.compress(b"labels")
    site.headers = {"Content-Encoding": "gzip"}
    fetch([site.archive("labels.gz", content)], tmp_path)
    assert (tmp_path / "labels.gz").read_bytes() == content


def test_a_server_that_does_not_say_the_length_is_read_to_its_end(site, tmp_path):
    site.lengths = False
    fetch([site.archive("noise.bin", NOISE)], tmp_path)
    assert (tmp_path / "noise.bin").read_bytes() == NOISE


def test_a_hash_that_nobody_publishes_is_shown_for_comparing(site, tmp_path, caplog):
    fetch([site.archive("labels.mat", b"labels", hash=None)], tmp_path)
    assert f"labels.mat; compare with a copy that you trust: sha256:{hashlib.sha256(b'labels').hexdigest()}" in (
        caplog.text
    )


def test_bars_go_to_standard_error_and_only_where_asked_for(site, tmp_path, capsys, caplog):
    caplog.set_level(logging.CRITICAL)
    fetch([site.archive("quiet.zip", zip_of(PHOTOS), "birds")], tmp_path)
    assert capsys.readouterr() == ("", "")
    fetch([site.archive("shown.zip", zip_of({"shown/a": NOISE}), "shown")], tmp_path, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert re.search(r"shown\.zip: 100%.*400k/400k .*B/s", err)
    assert "unpacking shown.zip: 100%" in err


# --- connections that break ----------------------------------------------------------------------------------


def test_a_broken_connection_is_continued_from_the_byte_where_it_broke(site, tmp_path):
    site.cut = [250_000]
    fetch([site.archive("noise.bin", NOISE)], tmp_path)
    assert tree(tmp_path) == {"noise.bin": NOISE}
    assert site.asked == [("/noise.bin", None), ("/noise.bin", "bytes=250000-")]
    assert site.sent == len(NOISE)


def test_many_breaks_are_survived_as_long_as_data_arrives(site, tmp_path):
    site.cut = [50_000] * 7
    fetch([site.archive("noise.bin", NOISE)], tmp_path)
    assert (tmp_path / "noise.bin").read_bytes() == NOISE
    assert site.sent == len(NOISE)


def test_the_next_command_continues_an_unfinished_download(site, tmp_path):
    archive = site.archive("noise.bin", NOISE)
    site.cut = [100_000, 0, 0, 0, 0]
    with pytest.raises(DataError, match=r"cannot be fetched: .*noise\.bin\.part keeps 0\.1 of 0\.4 MB, and the same"):
        fetch([archive], tmp_path)
    assert len(site.asked) == 1 + len(download.WAITS)
    assert unfinished_files_note([archive], tmp_path) == (
        f"{tmp_path}/noise.bin.part holds 0.1 of 0.4 MB: --download fetches the rest"
    )
    site.cut, site.asked = [], []
    fetch([archive], tmp_path)
    assert site.asked == [("/noise.bin", "bytes=100000-")]
    assert tree(tmp_path) == {"noise.bin": NOISE}
    assert site.sent == len(NOISE)


def test_a_server_without_ranges_starts_again_and_the_file_is_right(site, tmp_path):
    site.ranges, site.cut = False, [250_000]
    fetch([site.archive("noise.bin", NOISE)], tmp_path)
    assert tree(tmp_path) == {"noise.bin": NOISE}
    assert site.sent == len(NOISE) + 250_000


def test_a_file_that_changed_in_between_is_fetched_from_its_beginning(site, tmp_path):
    site.archive("noise.bin", NOISE)
    site.cut = [100_000, 0, 0, 0]
    with pytest.raises(DataError):
        fetch([Archive("noise.bin", f"{site.url}/noise.bin")], tmp_path)
    site.cut = []
    fetch([site.archive("noise.bin", NOISE[::-1], hash=None)], tmp_path)
    assert (tmp_path / "noise.bin").read_bytes() == NOISE[::-1]


def test_a_download_killed_before_it_was_verified_is_not_fetched_again(site, tmp_path):
    (tmp_path / "noise.bin.part").write_bytes(NOISE)
    (tmp_path / "noise.bin.part.json").write_text(f'{{"total": {len(NOISE)}, "version": ""}}')
    fetch([site.archive("noise.bin", NOISE)], tmp_path)
    assert tree(tmp_path) == {"noise.bin": NOISE}
    assert site.asked == []


def test_a_part_that_is_longer_than_the_file_is_dropped(site, tmp_path):
    (tmp_path / "labels.mat.part").write_bytes(NOISE)
    fetch([site.archive("labels.mat", b"labels")], tmp_path)
    assert tree(tmp_path) == {"labels.mat": b"labels"}
    assert site.asked == [("/labels.mat", "bytes=400000-"), ("/labels.mat", None)]


def test_a_range_that_was_not_asked_for_is_not_appended(site, tmp_path):
    site.cut, site.shift = [100_000], 5
    fetch([site.archive("noise.bin", NOISE, hash=None)], tmp_path)
    assert (tmp_path / "noise.bin").read_bytes() == NOISE
    assert [wanted for _, wanted in site.asked] == [None, "bytes=100000-", None]


def test_a_server_that_sends_less_of_a_range_than_was_asked_for_is_asked_for_the_rest(site, tmp_path):
    site.cut, site.window = [100_000], 200_000
    fetch([site.archive("noise.bin", NOISE, hash=None)], tmp_path)
    assert (tmp_path / "noise.bin").read_bytes() == NOISE
    assert [wanted for _, wanted in site.asked] == [None, "bytes=100000-", "bytes=300000-"]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_is_busy_is_asked_again(site, tmp_path, status):
    site.status = [status, status]
    fetch([site.archive("labels.mat", b"labels")], tmp_path)
    assert len(site.asked) == 3


def test_a_server_that_stays_busy_is_given_up_after_three_more_tries(site, tmp_path):
    site.status = [503] * 9
    with pytest.raises(DataError, match=r"cannot be fetched: the server answered 503 .*; fetch it by hand and put it"):
        fetch([site.archive("labels.mat", b"labels")], tmp_path)
    assert len(site.asked) == 4


@pytest.mark.parametrize("status", [403, 404])
def test_a_file_that_is_not_there_is_asked_for_once_and_explained(site, tmp_path, status):
    archive, site.status = site.archive("birds.zip", b"", "birds"), [status]
    with pytest.raises(DataError, match=rf"{site.url}/birds\.zip answered {status} .* by hand, put it at .*birds\.zip"):
        fetch([archive], tmp_path)
    assert len(site.asked) == 1
    assert tree(tmp_path) == {}


def test_without_a_network_the_address_the_reason_and_the_place_are_named(tmp_path, site):
    archive = Archive("birds.zip", "http://127.0.0.1:1/birds.zip", folder="birds")
    with pytest.raises(DataError) as caught:
        fetch([archive], tmp_path)
    assert str(caught.value) == (
        "http://127.0.0.1:1/birds.zip cannot be fetched: [Errno 111] Connection refused; "
        f"fetch it by hand and put it at {tmp_path}/birds.zip"
    )


# --- damaged files -------------------------------------------------------------------------------------------


def test_a_wrong_hash_names_both_hashes_and_keeps_the_file_aside(site, tmp_path):
    archive = site.archive("birds.zip", zip_of(PHOTOS), "birds", hash="md5:" + "0" * 32)
    found = hashlib.md5(zip_of(PHOTOS)).hexdigest()
    with pytest.raises(DataError, match=rf"birds\.zip has the hash md5:{found}, expected md5:0{{32}}; kept as"):
        fetch([archive], tmp_path)
    assert tree(tmp_path) == {"birds.zip.damaged": zip_of(PHOTOS)}


def test_a_web_page_in_place_of_an_archive_is_called_one(site, tmp_path):
    page = b"\n<!DOCTYPE html><title>Sign in</title>"
    with pytest.raises(
        DataError, match=r"birds\.tar is not a whole archive \(file could .*\); it is a web page, kept as"
    ):
        fetch([site.archive("birds.tar", page, "birds", hash=None)], tmp_path)
    with pytest.raises(DataError, match=r"expected md5:.*it is a web page"):
        fetch([site.archive("birds.tar", page, "birds", hash="md5:" + "0" * 32)], tmp_path)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("suffix", ["zip", "tar", "tar.gz"])
def test_half_an_archive_put_there_by_hand_is_set_aside_and_fetched(site, tmp_path, caplog, suffix, known):
    files = {f"birds/{k}.jpg": NOISE[k * 9_000 : k * 9_000 + 9_000] for k in range(20)}
    content = zip_of(files) if suffix == "zip" else tar_of(files, "w" if suffix == "tar" else "w:gz")
    archive = site.archive(f"birds.{suffix}", content, "birds", **({} if known else {"hash": None}))
    (tmp_path / archive.name).write_bytes(content[:100_000])
    fetch([archive], tmp_path)
    kept = (
        {} if known else {f"{archive.name}.sha256": f"{hashlib.sha256(content).hexdigest()}  {archive.name}\n".encode()}
    )
    assert tree(tmp_path) == {archive.name: content, f"{archive.name}.damaged": content[:100_000], **files, **kept}
    assert f"kept as {tmp_path}/{archive.name}.damaged; fetching it again" in caplog.text


def test_a_tar_of_unknown_hash_is_read_to_its_end(site, tmp_path):
    content = tar_of({f"birds/{k}.txt": b"x" for k in range(3)}, "w")
    (tmp_path / "birds.tar").write_bytes(content[:2048])  # two of three files
    fetch([site.archive("birds.tar", content, "birds", hash=None)], tmp_path)
    assert len(list((tmp_path / "birds").iterdir())) == 3


def test_a_damaged_file_that_is_used_as_it_is_is_fetched_again(site, tmp_path):
    (tmp_path / "train.gz").write_bytes(NOISE[:100])
    fetch([site.archive("train.gz", NOISE)], tmp_path)
    assert tree(tmp_path) == {"train.gz": NOISE, "train.gz.damaged": NOISE[:100]}


@pytest.mark.parametrize("cut", [3 * 1024, 2 * 1024 + 100, 2 * 1024])  # at the end mark, in a header, between members
def test_a_tar_cut_where_tarfile_does_not_notice_is_not_taken_for_whole(tmp_path, cut):
    content = tar_of({f"birds/{k}.txt": b"x" for k in range(3)}, "w")
    (tmp_path / "birds.tar").write_bytes(content[:cut])
    with pytest.raises(DamagedFile, match="the end is missing"):
        unpack.unpack(tmp_path / "birds.tar", tmp_path, "birds")
    assert not (tmp_path / "birds").exists()


def test_a_gzip_whose_checksum_is_wrong_is_not_taken_for_whole(tmp_path):
    content = bytearray(tar_of(PHOTOS))
    content[-8] ^= 1
    (tmp_path / "birds.tgz").write_bytes(content)
    with pytest.raises(DamagedFile, match="CRC check failed"):
        unpack.unpack(tmp_path / "birds.tgz", tmp_path, "birds")


def test_an_archive_without_its_result_lists_its_content(site, tmp_path):
    with pytest.raises(DataError, match=r"has no flowers, it has birds; unpack it by hand, so that .*flowers is there"):
        fetch([site.archive("flowers.zip", zip_of(PHOTOS), "flowers")], tmp_path)
    assert tree(tmp_path) == {"flowers.zip": zip_of(PHOTOS)}


def test_an_encrypted_zip_is_explained(tmp_path):
    content = bytearray(zip_of({"birds/a": b"a"}))
    for signature, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(signature) + flags] |= 1
    (tmp_path / "birds.zip").write_bytes(content)
    with pytest.raises(DataError, match=r"birds\.zip cannot be unpacked: .*password"):
        unpack.unpack(tmp_path / "birds.zip", tmp_path, "birds")


# --- unpacking -----------------------------------------------------------------------------------------------


def zip_with_link() -> bytes:
    info = zipfile.ZipInfo("birds/link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(info, "/etc")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.zip", zip_of({"birds/a": b"", "../out": b"x"}), r"'\.\./out' would be written outside"),
        ("x.zip", zip_of({"birds/../../out": b"x"}), r"'birds/\.\./\.\./out' would be written outside"),
        ("x.zip", zip_of({"/out": b"x"}), "'/out' would be written outside"),
        ("x.zip", zip_with_link(), "'birds/link' is a link"),
        ("x.tar", tar_of({"birds/a": b"", "../out": b"x"}, "w"), r"'\.\./out' would be written outside"),
        ("x.tgz", tar_of({"birds/a/../../../out": b"x"}), "would be written outside"),
        ("x.tar", tar_of({"/out": b"x"}, "w"), "'/out' would be written outside"),
        ("x.tar", tar_with(member("birds/l", tarfile.SYMTYPE, "/etc")), "'birds/l' is a link to /etc"),
        ("x.tar", tar_with(member("birds/l", tarfile.SYMTYPE, "../..")), r"'birds/l' is a link to \.\./\.\."),
        ("x.tar", tar_with(member("birds/l", tarfile.LNKTYPE, "../out")), r"'birds/l' is a link to \.\./out"),
        (
            "x.tar",
            tar_with(member("birds/l", tarfile.SYMTYPE, "a"), member("birds/l/b", size=1)),
            "'birds/l/b' would be written through a link",
        ),
        ("x.tar", tar_with(member("birds/d", tarfile.CHRTYPE)), "its member 'birds/d' is no file"),
    ],
)
def test_an_archive_that_leads_out_of_the_folder_is_refused_whole(site, tmp_path, name, content, message):
    raw = tmp_path / "a" / "b" / "raw"
    with pytest.raises(DataError, match=message):
        fetch([site.archive(name, content, "birds")], raw)
    assert tree(tmp_path) == {f"a/b/raw/{name}": content}
    assert sorted(path.name for path in raw.iterdir()) == [".fetch.lock", name]


def test_a_link_within_the_archive_is_kept(site, tmp_path):
    content = tar_with(member("birds/a", size=1), member("birds/b", tarfile.SYMTYPE, "a"))
    fetch([site.archive("birds.tar", content, "birds")], tmp_path)
    assert os.readlink(tmp_path / "birds/b") == "a"


def test_unpacked_files_can_be_read_and_removed_by_their_owner(site, tmp_path):
    info = member("birds/a", size=1)
    info.mode, info.uid = 0o000, 12345
    fetch([site.archive("birds.tar", tar_with(info), "birds")], tmp_path)
    found = (tmp_path / "birds/a").stat()
    assert (found.st_uid, stat.S_IMODE(found.st_mode) & 0o600) == (os.getuid(), 0o600)


def test_two_archives_share_a_folder_and_each_is_unpacked_once(site, tmp_path):
    archives = [
        site.archive("images.tar.gz", tar_of({"images/a.jpg": b"a"}), "pets/images", into="pets"),
        site.archive("annotations.tar.gz", tar_of({"annotations/list": b"a"}), "pets/annotations", into="pets"),
        site.archive(
            "deep.zip", zip_of({"pets/annotations/more/x": b"x", "pets/README": b""}), "pets/annotations/more"
        ),
    ]
    fetch(archives, tmp_path)
    unpacked = {name: content for name, content in tree(tmp_path).items() if name.startswith("pets/")}
    assert unpacked == {
        "pets/images/a.jpg": b"a",
        "pets/annotations/list": b"a",
        "pets/annotations/more/x": b"x",
        "pets/README": b"",
    }
    shutil.rmtree(tmp_path / "pets/images")
    fetch(archives, tmp_path)
    assert (tmp_path / "pets/images/a.jpg").exists()
    assert len(site.asked) == 3


def test_an_archive_without_a_folder_of_its_own_is_unpacked_into_one(site, tmp_path):
    archives = [
        site.archive("lists.zip", zip_of({"train.txt": b"1"}), "Partitions", into="Partitions"),
        site.archive("102flowers.tgz", tar_of({"jpg/1.jpg": b"1"}), "flowers/jpg", into="flowers"),
    ]
    fetch(archives, tmp_path)
    assert {"Partitions/train.txt", "flowers/jpg/1.jpg"} <= set(tree(tmp_path))


def test_an_archive_inside_an_archive_is_unpacked_where_it_lies(site, tmp_path):
    inner = tar_of({"categories/ant/1.jpg": b"ant"})
    content = zip_of({"caltech/categories.tar.gz": inner, "caltech/show.m": b"m"})
    inside = "caltech/categories.tar.gz"
    fetch([site.archive("caltech.zip", content, "caltech/categories", inside=inside)], tmp_path)
    assert tree(tmp_path) == {
        "caltech.zip": content,
        "caltech/categories/ant/1.jpg": b"ant",
        "caltech/show.m": b"m",
    }
    with pytest.raises(DataError, match=r"has no caltech/faces\.tar inside, it has caltech;"):
        fetch([site.archive("b.zip", content, "caltech/faces", inside="caltech/faces.tar")], tmp_path)


def test_an_archive_inside_an_archive_cannot_lead_out_either(site, tmp_path):
    content = zip_of({"caltech/inner.tar": tar_of({"../../out": b"x"}, "w")})
    with pytest.raises(DataError, match=r"'\.\./\.\./out' would be written outside"):
        fetch([site.archive("caltech.zip", content, "caltech", inside="caltech/inner.tar")], tmp_path / "raw")
    assert tree(tmp_path) == {"raw/caltech.zip": content}


KILLED = """
import os, signal, sys, tarfile
from pathlib import Path
from debeton.data.raw import unpack

extract = tarfile.TarFile.extract
def extract_two(self, member, *args, **kwargs):
    extract(self, member, *args, **kwargs)
    if member.name.endswith("b.jpg"):
        os.kill(os.getpid(), signal.SIGKILL)
tarfile.TarFile.extract = extract_two
unpack.unpack(Path(sys.argv[1]) / "birds.tgz", Path(sys.argv[1]), "birds")
"""


def test_a_killed_unpacking_leaves_nothing_under_the_final_name_and_the_next_one_cleans_up(site, tmp_path):
    content = tar_of(PHOTOS)
    archive = site.archive("birds.tgz", content, "birds")
    (tmp_path / "birds.tgz").write_bytes(content)
    env = {"PYTHONPATH": str(Path(unpack.__file__).parents[3])}
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path], env=env, check=False)
    assert done.returncode == -signal.SIGKILL
    assert sorted(path.name for path in tmp_path.iterdir()) == [".birds.tgz.unpacking", "birds.tgz"]
    fetch([archive], tmp_path)
    assert tree(tmp_path) == {"birds.tgz": content, **PHOTOS}
    assert sorted(path.name for path in tmp_path.iterdir()) == [".fetch.lock", "birds", "birds.tgz"]


def test_the_path_that_marks_an_unpacked_archive_appears_last(tmp_path, monkeypatch):
    (tmp_path / "x.zip").write_bytes(zip_of({"a/images/1": b"", "a/z": b"", "b": b""}))
    (tmp_path / "a").mkdir()
    moved = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda old, new: (moved.append(Path(new).name), replace(old, new)))
    unpack.unpack(tmp_path / "x.zip", tmp_path, "a/images")
    assert moved == ["b", "z", "images"]


# --- full disks and other processes --------------------------------------------------------------------------


def full_disk(*args: object, **kwargs: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_that_fills_during_the_download_keeps_the_received_bytes(site, tmp_path, monkeypatch):
    archive = site.archive("noise.bin", NOISE)
    with monkeypatch.context() as patch:
        is_part = lambda fd: os.readlink(f"/proc/self/fd/{fd}").endswith(".part")  # noqa: E731
        patch.setattr(os, "fsync", lambda fd: full_disk() if is_part(fd) else None)
        with pytest.raises(DataError, match=r"disk under .* is full: noise\.bin\.part holds .* goes on from there"):
            fetch([archive], tmp_path)
    fetch([archive], tmp_path)
    assert tree(tmp_path) == {"noise.bin": NOISE}


def test_a_disk_that_fills_during_the_unpacking_leaves_only_the_archive(site, tmp_path, monkeypatch):
    archive = site.archive("birds.zip", zip_of(PHOTOS), "birds")
    monkeypatch.setattr(zipfile.ZipFile, "extract", full_disk)
    with pytest.raises(DataError, match=r"disk under .* is full: birds could not be written"):
        fetch([archive], tmp_path)
    assert tree(tmp_path) == {"birds.zip": zip_of(PHOTOS)}


def test_processes_that_fetch_at_once_fetch_and_unpack_each_file_once(site, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    archives = [site.archive("noise.bin", NOISE), site.archive("birds.zip", zip_of(PHOTOS), "birds")]
    errors: list[BaseException] = []

    def run() -> None:
        try:
            fetch(archives, tmp_path)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(site.asked) == 2
    assert sum("unpacking" in message for message in caplog.messages) == 1
    assert tree(tmp_path) == {"noise.bin": NOISE, "birds.zip": zip_of(PHOTOS), **PHOTOS}


# --- notes and declarations ----------------------------------------------------------------------------------


def test_the_note_names_packed_and_unfinished_files(tmp_path):
    archives = [Archive(f"{name}.zip", "", folder=name) for name in ("done", "packed", "begun", "absent")]
    (tmp_path / "done").mkdir()
    (tmp_path / "packed.zip").write_bytes(b"")
    (tmp_path / "begun.zip.part").write_bytes(b"x" * 1_200_000)
    assert unfinished_files_note(archives, tmp_path) == (
        f"{tmp_path}/packed.zip is there, not unpacked: --download checks and unpacks it; "
        f"{tmp_path}/begun.zip.part holds 1.2 MB: --download fetches the rest"
    )
    assert unfinished_files_note(archives, None) == unfinished_files_note(archives, tmp_path / "no") == ""


@pytest.mark.parametrize("name", SOURCES.names())
def test_every_sources_archives_are_well_formed(name):
    archives = SOURCES.get(name).archives
    for archive in archives:
        assert re.fullmatch(r"https?://[^\s/]+/\S+", archive.url), archive
        assert archive.hash is None or re.fullmatch(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", archive.hash), archive
        assert re.fullmatch(r"\w[^/]*", archive.name), archive
        assert not archive.folder or archive.name.endswith(unpack.SUFFIXES), archive
        assert archive.folder or not archive.inside, archive
        for path in (archive.folder, archive.into, archive.inside):
            assert path == Path(path).as_posix() or not path, archive
            assert not path.startswith("/"), archive
            assert ".." not in path.split("/"), archive
        assert not archive.folder or Path(archive.folder).is_relative_to(archive.into), archive
    for values in ([a.name for a in archives], [a.result for a in archives], [a.path for a in archives]):
        assert len(set(values)) == len(values), values


# --- hashes that nobody publishes ------------------------------------------------------------------------------


def test_the_first_hash_is_kept_where_nobody_publishes_one_and_compared_from_then_on(site, tmp_path):
    archive = site.archive("labels.mat", NOISE, hash=None)
    fetch([archive], tmp_path)
    first = hashlib.sha256(NOISE).hexdigest()
    kept = tmp_path / "labels.mat.sha256"
    assert kept.read_text() == f"{first}  labels.mat\n"
    subprocess.run(["sha256sum", "--check", "--quiet", kept.name], cwd=tmp_path, check=True)
    check_fetched([archive], tmp_path)
    damaged = bytearray(NOISE)
    damaged[1000] ^= 4
    (tmp_path / "labels.mat").write_bytes(damaged)
    with pytest.raises(DamagedFile, match=rf"labels\.mat has the hash .*, expected sha256:{first}, which the first"):
        check_fetched([archive], tmp_path)
    fetch([archive], tmp_path)
    assert (tmp_path / "labels.mat").read_bytes() == NOISE
    assert (tmp_path / "labels.mat.damaged").read_bytes() == damaged


@pytest.mark.parametrize("folder", ["", "birds"])
def test_a_file_that_its_owner_changed_is_refused_until_the_first_hash_is_removed(site, tmp_path, folder):
    archive = site.archive("birds.zip", zip_of(PHOTOS), folder, hash=None)
    fetch([archive], tmp_path)
    (tmp_path / "birds.zip").unlink()
    shutil.rmtree(tmp_path / "birds", ignore_errors=True)
    site.files["/birds.zip"] = zip_of({**PHOTOS, "birds/list.txt": b"b a"})
    kept = tmp_path / "birds.zip.sha256"
    with pytest.raises(DataError, match=f"if its owner has changed it since, remove {re.escape(str(kept))}; kept as"):
        fetch([archive], tmp_path)
    kept.unlink()
    fetch([archive], tmp_path)
    assert kept.read_text().startswith(hashlib.sha256(site.files["/birds.zip"]).hexdigest())


def test_a_damaged_note_of_the_first_hash_is_one_sentence(site, tmp_path):
    archive = site.archive("labels.mat", b"labels", hash=None)
    fetch([archive], tmp_path)
    (tmp_path / "labels.mat.sha256").write_bytes(b"\xff\x00")
    with pytest.raises(DataError, match=r"labels\.mat\.sha256 does not begin with a SHA-256, 64 hex digits; remove it"):
        check_fetched([archive], tmp_path)


def test_the_published_hash_of_a_file_without_a_checksum_is_compared_when_the_set_is_read(site, tmp_path):
    archive = site.archive("labels.mat", b"labels")
    fetch([archive], tmp_path)
    source = Source("x", lambda request: "read", "", archives=(archive,))
    assert source.read(source.request(tmp_path)) == "read"
    (tmp_path / "labels.mat").write_bytes(b"lacels")
    with pytest.raises(DamagedFile, match=r"labels\.mat has the hash .*, expected .*; --download fetches it again$"):
        source.read(source.request(tmp_path))
    assert source.read(source.request()) == "read"  # from the usual places
