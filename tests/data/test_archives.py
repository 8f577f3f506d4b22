"""Archives made to do harm: sizes that cannot be, headers and indices without end."""

import gzip
import os
import resource
import subprocess
import sys
import tarfile
import zipfile

import pytest

from dripgate.data import archives, iter_files
from dripgate.errors import DataError


def header(size: bytes | int, kind=b"0", name=b"a/1") -> bytes:
    """One tar header whose size field holds ``size``."""
    member = tarfile.TarInfo(name.decode())
    member.type = kind
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    if isinstance(size, int):
        size = b"%011o\0" % size
    block[124:136] = size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def negative(value: int) -> bytes:
    """In base 256, as GNU tar writes what octal digits cannot."""
    return value.to_bytes(12, "big", signed=True)


def pax(**records: str) -> bytes:
    """An extended header."""
    text = b""
    for key, value in records.items():
        line = f" {key}={value}\n".encode()
        length = len(line) + len(str(len(line) + 2))
        text += str(length).encode() + line
    return header(len(text), b"x", b"pax") + text.ljust(-(-len(text) // 512) * 512, b"\0")


END = bytes(1024)


@pytest.mark.parametrize(
    "content",
    [
        header(negative(-512)) + END,
        header(negative(-(2**70))) + END,
        header(negative(2**70)) + END,
        pax(size="-512") + header(0) + END,
        pax(size=str(2**70)) + header(0) + END,
        header(negative(-512), b"x") + END,
        header(2**33 - 1, b"x") + bytes(4096),
        header(2**33 - 1, b"L") + bytes(4096),
        header(0, b"S") + END,
        header(2**33 - 1) + END,
    ],
    ids=["-512", "-2^70", "2^70", "pax -512", "pax 2^70", "extended -512", "extended 8 GB",
         "long name 8 GB", "sparse", "8 GB"],
)  # fmt: skip
@pytest.mark.parametrize("packed", [False, True])
def test_sizes_that_cannot_be_end_in_one_line_at_once(tmp_path, content, packed):
    path = tmp_path / ("set.tar.gz" if packed else "set.tar")
    path.write_bytes(gzip.compress(content) if packed else content)
    try:
        files = list(iter_files(path))
    except DataError as error:
        assert "damaged archive" in str(error)
        assert "\n" not in str(error)
    else:
        assert all(len(file.payload) <= 1024 for file in files)


def limited(code: str, path) -> subprocess.CompletedProcess[str]:
    """Run with 400 MB of address space above what Python and NumPy take."""

    def most() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (1500 << 20, 1500 << 20))

    return subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False,
        preexec_fn=most, timeout=120,
        env={"OMP_NUM_THREADS": "1", "PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip


READ = (
    "import sys, pathlib\n"
    "from dripgate.data import iter_files\n"
    "from dripgate.errors import DataError\n"
    "try: print(sum(1 for _ in iter_files(pathlib.Path(sys.argv[1]))))\n"
    "except DataError as error: print(error)\n"
)


@pytest.mark.parametrize("kind", ["pax", "long name", "sparse map"])
def test_headers_that_unpack_to_gigabytes_do_not_fill_memory(tmp_path, kind):
    path = tmp_path / "set.tar.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        if kind == "sparse map":
            block = bytearray(header(512, b"S"))
            block[482] = 1  # another block of the map follows, and another …
            block[148:156] = b" " * 8
            block[148:156] = b"%06o\0 " % sum(block)
            file.write(block)
            extended = (b"%011o\0" % 0 + b"%011o\0" % 1) * 21 + b"\1" + bytes(7)
            for _ in range(60):
                file.write(extended * 10_000)
        else:
            file.write(header(2 << 30, b"x" if kind == "pax" else b"L"))
            for _ in range(2048):
                file.write(bytes(1 << 20))
    done = limited(READ, path)
    assert done.returncode == 0, done.stderr[-500:]
    assert "headers of more than 1,048,576 bytes" in done.stdout


def test_a_zip_with_an_index_of_a_million_members_is_refused_with_a_remedy(tmp_path):
    path = tmp_path / "set.zip"
    one = b"PK\x01\x02" + bytes(24) + b"\x01\0" + bytes(16) + b"a"
    assert len(one) == 47
    index = one * 1_000_000
    end = b"PK\x05\x06" + bytes(4) + b"\xff\xff\xff\xff"
    end += len(index).to_bytes(4, "little") + bytes(4) + bytes(2)
    path.write_bytes(index + end)
    done = limited(READ, path)
    assert done.returncode == 0, done.stderr[-500:]
    assert "unpack it, or pack it as .tar" in done.stdout


def test_a_zip_with_many_members_is_read_up_to_the_limit(tmp_path, monkeypatch):
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(100):
            archive.writestr(f"a/{i}", b"x")
    assert len(list(iter_files(path))) == 100
    monkeypatch.setattr(archives, "MEMBERS", 99)
    with pytest.raises(DataError, match=r"more than 99 members.*pack it as \.tar"):
        list(iter_files(path))


def test_a_million_hard_links_are_counted_not_remembered(tmp_path, monkeypatch):
    path = tmp_path / "set.tar"
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("a/0"))
        for i in range(1, 50):
            link = tarfile.TarInfo(f"a/{i}")
            link.type, link.linkname = tarfile.LNKTYPE, "a/0"
            archive.addfile(link)
    monkeypatch.setattr(archives, "LINKS", 10)
    passed: list[str] = []
    files = list(iter_files(path, unused=lambda why, name: passed.append(why)))
    assert len(files) == 11
    assert passed == ["more than 10 hard links"] * 39


def test_links_to_links_are_their_file_and_circles_are_none(tmp_path):
    path = tmp_path / "set.tar"
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("a/0"))
        for name, target in [("a/1", "a/0"), ("a/2", "a/1"), ("b/1", "b/2"), ("b/2", "b/1")]:
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.LNKTYPE, target
            archive.addfile(link)
    passed: list[str] = []
    files = iter_files(path, unused=lambda why, name: passed.append(name))
    assert [file.name for file in files] == ["a/0", "a/1", "a/2"]
    assert sorted(passed) == ["b/1", "b/2"]


def test_other_compressions_of_a_tar_are_named(tmp_path):
    path = tmp_path / "set.tar"
    path.write_bytes(b"\xfd7zXZ\0" + bytes(100))
    with pytest.raises(DataError, match="compressed by xz or zstd, which is not read; use gzip"):
        list(iter_files(path))


def test_a_zip_member_of_another_compression_is_one_unreadable_file(tmp_path):
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a/1", b"x" * 100)
    (file,) = iter_files(path)
    assert file.problem == "cannot be unpacked: compression method 14; use deflate"


def test_a_pipe_is_no_archive(tmp_path):
    os.mkfifo(tmp_path / "set.zip")
    with pytest.raises(DataError, match="no regular file; give a folder or an archive"):
        list(iter_files(tmp_path / "set.zip"))
