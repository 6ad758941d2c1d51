"""Downloads and archives from 127.0.0.1: whole, broken and hostile ones."""

import errno
import tarfile
import zipfile
from contextlib import suppress

import numpy as np
import pytest

from helpers.archives import sha, tarred, zipped
from helpers.errors import refusal
from ssss_zoo.data.benchmarks.archives import SIZE_TOLERANCE, unpack
from ssss_zoo.data.benchmarks.download import ResumingDownloader, fetch
from ssss_zoo.errors import UserError

BODY = np.random.default_rng(0).bytes(300_000)


# --- fetching -------------------------------------------------------------------------------------------------------


def test_a_file_is_fetched_once(server, tmp_path):
    server.files["/a"] = BODY
    for _ in range(2):
        fetch(tmp_path / "a.bin", [f"{server.url}/a"], sha(BODY))
    assert (tmp_path / "a.bin").read_bytes() == BODY
    assert len(server.asked) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_a_broken_connection_is_made_again(server, tmp_path):
    server.files["/a"] = BODY
    server.breaks["/a"] = [100_000, 200_000]
    fetch(tmp_path / "a.bin", [f"{server.url}/a"], sha(BODY))
    assert (tmp_path / "a.bin").read_bytes() == BODY
    assert [wanted for _, wanted in server.asked] == ["", "bytes=65536-", "bytes=196608-"]


def test_a_broken_download_goes_on_where_it_stopped(server, tmp_path):
    server.files["/a"] = BODY
    server.breaks["/a"] = [100_000, 1]
    refusal(lambda: fetch(tmp_path / "a.bin", [f"{server.url}/a"], sha(BODY)), "was lost", "continues", "a.bin")
    kept = (tmp_path / "a.bin.part").stat().st_size
    assert 0 < kept <= 100_000
    assert not (tmp_path / "a.bin").exists()
    fetch(tmp_path / "a.bin", [f"{server.url}/a"], sha(BODY))
    assert (tmp_path / "a.bin").read_bytes() == BODY
    assert server.asked[-1] == ("/a", f"bytes={kept}-")


def test_a_server_without_ranges_begins_anew(server, tmp_path):
    server.files["/a"], server.ranges = BODY, False
    (tmp_path / "a.bin.part").write_bytes(BODY[:1000])
    fetch(tmp_path / "a.bin", [f"{server.url}/a"], sha(BODY))
    assert (tmp_path / "a.bin").read_bytes() == BODY


@pytest.mark.parametrize("left", [b"rubbish", BODY + b"more", BODY], ids=["other bytes", "too many", "all of them"])
def test_bytes_of_an_earlier_try_are_not_trusted(server, tmp_path, left):
    server.files["/a"] = BODY
    (tmp_path / "a.bin.part").write_bytes(left)
    fetch(tmp_path / "a.bin", [f"{server.url}/a"], sha(BODY))
    assert (tmp_path / "a.bin").read_bytes() == BODY


def test_the_next_mirror_is_asked(server, tmp_path):
    server.files |= {"/wrong": BODY[::-1], "/right": BODY}
    fetch(tmp_path / "a.bin", [f"{server.url}/{name}" for name in ("none", "wrong", "right")], sha(BODY))
    assert (tmp_path / "a.bin").read_bytes() == BODY
    assert [path for path, _ in server.asked] == ["/none", "/wrong", "/right"]


def test_what_every_mirror_did_is_said(server, tmp_path):
    server.files["/wrong"] = BODY[::-1]
    urls = [f"{server.url}/none", f"{server.url}/wrong", "http://127.0.0.1:9/closed"]
    message = refusal(
        lambda: fetch(tmp_path / "a.bin", urls, sha(BODY)), *urls, "404", "another file", "copy the file to"
    )
    assert "Traceback" not in message
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_keeps_what_has_come(server, tmp_path, monkeypatch):
    server.files["/a"] = BODY

    def write(self, answer, here):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ResumingDownloader, "write", write)
    refusal(lambda: fetch(tmp_path / "a.bin", [f"{server.url}/a"], sha(BODY)), "disk", "full", "continues")


def test_progress_is_told(server, tmp_path):
    server.files["/a"] = BODY
    calls = []
    fetch(tmp_path / "a.bin", [f"{server.url}/a"], sha(BODY), lambda *given: calls.append(given))
    assert calls[-1] == ("fetching a.bin", len(BODY), len(BODY))


# --- unpacking ------------------------------------------------------------------------------------------------------


@pytest.fixture(params=[zipped, tarred], ids=["zip", "tar"])
def packed(request, tmp_path):
    return lambda files: request.param(tmp_path / "a.archive", files)


def test_only_what_is_kept_is_unpacked(packed, tmp_path):
    archive = packed({"top/in/a.txt": b"a", "top/in/deep/b.txt": b"b", "top/out/c.txt": b"c"})
    assert unpack(archive, tmp_path / "to", {"top/in/": "here/"}, 100) == 2
    found = sorted(str(path.relative_to(tmp_path / "to")) for path in (tmp_path / "to").rglob("*") if path.is_file())
    assert found == ["here/a.txt", "here/deep/b.txt"]


@pytest.mark.parametrize(
    "name", ["../evil", "in/../../evil", "/tmp/evil", "in/..\\..\\evil", "C:evil"], ids=lambda name: name
)
def test_a_path_that_leads_outside_is_refused(packed, tmp_path, name):
    archive = packed({"in/good.txt": b"good", name: b"evil"})
    refusal(lambda: unpack(archive, tmp_path / "to", {"": ""}, 100), "a.archive", "outside")
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_of_a_tar_are_refused(tmp_path, kind):
    archive = tarred(tmp_path / "a.tgz", {"in/a": b"a"}, links=[("in/link", "../../../etc/passwd", kind)])
    refusal(lambda: unpack(archive, tmp_path / "to", {"in/": ""}, 100), "in/link is a link or a device")
    assert sorted(path.name for path in (tmp_path / "to").iterdir()) == ["a"]


def test_links_of_a_zip_are_refused(tmp_path):
    entry = zipfile.ZipInfo("in/link")
    entry.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(entry, "/etc/passwd")
    refusal(lambda: unpack(tmp_path / "a.zip", tmp_path / "to", {"": ""}, 100), "in/link is a link")


def test_an_encrypted_member_is_refused(packed, tmp_path):
    archive = packed({"in/a": b"secret"})
    content = bytearray(archive.read_bytes())
    if not zipfile.is_zipfile(archive):
        pytest.skip("a TAR cannot be encrypted")
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + flags] |= 1
    archive.write_bytes(content)
    refusal(lambda: unpack(archive, tmp_path / "to", {"in/": ""}, 100), "is not unpacked: in/a is encrypted")
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize("name", [".", "./."])
def test_a_member_without_a_name_is_refused(packed, tmp_path, name):
    archive = packed({name: b"x"})
    refusal(lambda: unpack(archive, tmp_path / "to", {"": ""}, 100), "has no name")


def test_a_member_of_a_zip_with_an_empty_name_is_refused(tmp_path):
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as made, made.open(zipfile.ZipInfo(""), "w") as member:
        member.write(b"x")
    refusal(lambda: unpack(archive, tmp_path / "to", {"": ""}, 100), "has no name")


def test_an_archive_of_any_damage_is_unpacked_or_refused(packed, tmp_path):
    archive = packed({"in/a": b"x" * 50, "in/b/c": bytes(range(200))})
    whole = archive.read_bytes()
    for seed in range(150):
        random = np.random.default_rng(seed)
        content = bytearray(whole)
        for place in random.integers(0, len(content), random.integers(1, 6)):
            content[place] ^= int(random.integers(1, 256))
        archive.write_bytes(content)
        with suppress(UserError):
            unpack(archive, tmp_path / "to", {"in/": ""}, 10**6)


def test_a_bomb_is_refused_before_it_is_written(packed, tmp_path):
    archive = packed({"in/bomb": bytes(SIZE_TOLERANCE + 200)})
    assert archive.stat().st_size < 100_000
    refusal(lambda: unpack(archive, tmp_path / "to", {"in/": ""}, 100), "more than the announced 100 bytes", "bomb")
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize("share", [0.3, 0.7, 0.97])
def test_a_truncated_archive_is_named(packed, tmp_path, share):
    archive = packed({f"in/{index}": BODY[index : index + 20_000] for index in range(5)})
    whole = archive.read_bytes()
    archive.write_bytes(whole[: int(len(whole) * share)])
    refusal(lambda: unpack(archive, tmp_path / "to", {"in/": ""}, 10**6), "a.archive is broken")
    assert not list(tmp_path.rglob("*.new"))


def test_damaged_content_is_noticed(tmp_path):
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr("in/a", BODY)
    content = bytearray(archive.read_bytes())
    content[1000] ^= 255
    archive.write_bytes(content)
    refusal(lambda: unpack(archive, tmp_path / "to", {"in/": ""}, 10**6), "broken")
    assert not (tmp_path / "to/a").exists()
