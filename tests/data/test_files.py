import gzip
import io
import os
import stat
import tarfile
import zipfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dripgate.data import File, iter_files
from dripgate.errors import DataError

FILES = {
    "readme.txt": b"about",
    "b/2.png": b"two" * 1000,
    "b/1.png": b"one",
    "a/deep/3.png": b"",
    "ä ö/4 .png": b"\x00\xff",
}
KINDS = ["set.tar", "set.tar.gz", "set.tgz", "set.zip"]


def test_a_folder_is_walked_in_sorted_order(tree):
    names = [file.name for file in iter_files(tree(FILES))]
    assert names == ["readme.txt", "a/deep/3.png", "b/1.png", "b/2.png", "ä ö/4 .png"]


@pytest.mark.parametrize("kind", KINDS)
def test_archives_give_what_the_folder_gives(tree, pack, kind):
    archive = list(iter_files(pack(FILES, kind)))
    assert [file.name for file in archive] == list(FILES), "archive order"
    assert sorted(f[:3] for f in archive) == sorted(f[:3] for f in iter_files(tree(FILES)))
    assert all(file.time is not None for file in archive)


@pytest.mark.parametrize("make", ["folder", *KINDS])
def test_hidden_files_and_resource_forks_are_skipped(tree, pack, make):
    files = {"a/1": b"1", ".git/x": b"", "a/.DS_Store": b"", "__MACOSX/a/1": b"", ".hid": b""}
    path = tree(files) if make == "folder" else pack(files, make)
    assert [file.name for file in iter_files(path)] == ["a/1"]


@pytest.mark.parametrize("kind", KINDS)
def test_names_that_climb_out_are_harmless(pack, tmp_path, kind):
    path = pack({"../../evil": b"1", "/etc/passwd": b"2", "a/../b/./c": b"3"}, kind)
    before = sorted(tmp_path.iterdir())
    assert [f.name for f in iter_files(path)] == ["evil", "etc/passwd", "a/b/c"]
    assert sorted(tmp_path.iterdir()) == before, "nothing was extracted"


def test_backslashes_of_windows_archives_are_folders(pack):
    assert [f.name for f in iter_files(pack({"a\\..\\b\\1.png": b""}, "set.zip"))] == ["a/b/1.png"]


@pytest.mark.parametrize("make", ["folder", *KINDS])
def test_a_file_over_the_limit_comes_without_its_payload(tree, pack, make):
    files = {"a/big": b"x" * 1001, "a/fits": b"x" * 1000}
    path = tree(files) if make == "folder" else pack(files, make)
    big, fits = (file._replace(time=None) for file in iter_files(path, limit=1000))
    assert big == File("a/big", b"", "1,001 bytes, more than the limit of 1,000")
    assert fits == File("a/fits", b"x" * 1000)


def test_links_are_followed_inside_the_folder_only(tree, tmp_path):
    folder = tree({"a/1": b"1"})
    (tmp_path / "secret").write_bytes(b"secret")
    (folder / "a/inside").symlink_to(folder / "a/1")
    (folder / "a/outside").symlink_to(tmp_path / "secret")
    (folder / "a/nowhere").symlink_to(tmp_path / "none")
    (folder / "a/loop").symlink_to(folder)
    os.mkfifo(folder / "a/pipe")
    assert [(f.name, f.payload) for f in iter_files(folder)] == [("a/1", b"1"), ("a/inside", b"1")]


def test_links_and_devices_in_archives_are_skipped(tmp_path):
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        for name, kind in [("soft", tarfile.SYMTYPE), ("hard", tarfile.LNKTYPE),
                           ("device", tarfile.CHRTYPE), ("pipe", tarfile.FIFOTYPE)]:  # fmt: skip
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
        archive.addfile(tarfile.TarInfo("plain"))
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
        archive.writestr("plain", b"")
    for kind in ("set.tar", "set.zip"):
        assert [f.name for f in iter_files(tmp_path / kind)] == ["plain"]


def test_names_that_are_no_utf8_can_be_printed_and_stay_apart(tree):
    folder = tree({"a/1": b""})
    for byte in (b"\xe8", b"\xe9"):
        (folder / "a" / os.fsdecode(b"caf" + byte + b".png")).write_bytes(byte)
    odd = {file.name: file.payload for file in iter_files(folder) if file.payload}
    assert odd == {"a/caf\\xe8.png": b"\xe8", "a/caf\\xe9.png": b"\xe9"}


@pytest.mark.parametrize("kind", KINDS[:3])  # a zip's directory is at its end
def test_archives_are_streamed(pack, kind):
    """After the first file, the rest of the archive may be cut off and nobody has noticed yet."""
    path = pack({f"a/{i}": os.urandom(50_000) for i in range(100)}, kind)
    files = iter_files(path)
    assert next(files).name == "a/0"
    os.truncate(path, 1_000_000)
    with pytest.raises(DataError, match="truncated or damaged"):
        list(files)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 0.999))
def test_a_truncated_archive_is_named_wherever_it_ends(pack, kind, share):
    path = pack({f"a/{i}": os.urandom(700) for i in range(20)}, kind)
    whole = path.read_bytes()
    end = len(whole) - (10240 if kind == "set.tar" else 0)  # tar ends with zeros that say nothing
    path.write_bytes(whole[: int(share * end)])
    with pytest.raises(DataError, match=r"set\.\w+.*: a truncated or damaged archive") as caught:
        list(iter_files(path))
    assert "\n" not in str(caught.value)


def test_damage_between_members_is_not_taken_for_the_end(pack):
    path = pack({f"a/{i}": b"x" * 512 for i in range(5)}, "set.tar")
    data = bytearray(path.read_bytes())
    data[2 * 1024 : 2 * 1024 + 100] = os.urandom(100)
    path.write_bytes(data)
    with pytest.raises(DataError, match="damaged between members"):
        list(iter_files(path))


def test_wrong_bytes_in_gzip_are_noticed_by_its_checksum(tmp_path):
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w") as archive:
        member = tarfile.TarInfo("a/1")
        member.size = 5000
        archive.addfile(member, io.BytesIO(os.urandom(5000)))
    stored = bytearray(gzip.compress(inner.getvalue(), compresslevel=0))
    stored[2000] ^= 1
    (tmp_path / "set.tar.gz").write_bytes(stored)
    with pytest.raises(DataError, match="CRC"):
        list(iter_files(tmp_path / "set.tar.gz"))


def test_in_a_zip_a_damaged_member_is_one_damaged_file(pack):
    path = pack({"a/1": b"one" * 99, "a/2": b"two" * 99}, "set.zip")
    path.write_bytes(path.read_bytes().replace(b"oneone", b"ouneon", 1))
    one, two = iter_files(path)
    assert one.payload == b""
    assert "CRC-32" in one.problem
    assert two.payload == b"two" * 99


def test_neither_folder_nor_archive(tmp_path):
    (tmp_path / "data.csv").write_bytes(b"a,b")
    for name, found in [
        ("none", "no such file or folder"),
        ("data.csv", "not a folder or an arch"),
    ]:
        with pytest.raises(DataError, match=rf"{name}: {found}.*\.tar\.gz"):
            list(iter_files(tmp_path / name))
