import hashlib
import http.server
import threading

import pytest

from dripgate.data import open_source
from dripgate.data.named import Remote, cache_root, find
from dripgate.errors import DataError

FILES = {"a-images.gz": b"images" * 50_000, "a-labels.gz": b"labels"}


@pytest.fixture
def server(tmp_path):
    """A real HTTP server on loopback; .requests lists the paths it was asked for."""
    folder = tmp_path / "official"
    folder.mkdir()
    for name, payload in FILES.items():
        (folder / name).write_bytes(payload)
    requests = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=folder)

        def log_request(self, code="-", size="-"):
            requests.append(self.path)

        def log_error(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.requests, httpd.folder = requests, folder
        httpd.address = f"http://127.0.0.1:{httpd.server_port}/"
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield httpd
        httpd.shutdown()
        thread.join()


def remotes(server, folder="mine") -> dict[str, Remote]:
    md5 = {name: hashlib.md5(payload).hexdigest() for name, payload in FILES.items()}
    return {"mine": Remote(server.address, folder, md5)}


def test_a_download_is_checked_kept_and_not_repeated(server):
    done = []
    path = find("mine", done.append, remotes(server))
    assert path == cache_root() / "data" / "mine"
    assert {file.name: file.read_bytes() for file in path.iterdir()} == FILES
    assert len(FILES["a-images.gz"]) in done
    assert find("mine", None, remotes(server)) == path
    assert server.requests == ["/a-images.gz", "/a-labels.gz"]


def test_a_wrong_checksum_leaves_nothing_behind(server):
    (server.folder / "a-labels.gz").write_bytes(b"changed")
    with pytest.raises(
        DataError, match=r"mine: not in .*a-labels\.gz could not be downloaded \(chec"
    ):
        find("mine", None, remotes(server))
    folder = cache_root() / "data" / "mine"
    assert [file.name for file in folder.iterdir()] == ["a-images.gz"]
    (server.folder / "a-labels.gz").write_bytes(FILES["a-labels.gz"])
    assert find("mine", None, remotes(server)) == folder, "the next try fetches what is missing"
    assert server.requests.count("/a-images.gz") == 1


def test_without_a_network_the_error_says_which_file_to_put_where(server):
    server.shutdown()
    server.server_close()
    with pytest.raises(DataError) as caught:
        find("mine", None, remotes(server))
    expected = f"put a-images.gz, a-labels.gz into {cache_root() / 'data' / 'mine'}"
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError):
        find("mine", None, remotes(server))


def test_a_missing_page_is_an_error(server):
    (server.folder / "a-images.gz").unlink()
    with pytest.raises(DataError, match="404"):
        find("mine", None, remotes(server))


def test_given_data_goes_before_the_cache_and_the_cache_before_the_network(
    server, tree, pack, classes, monkeypatch, tmp_path
):
    cached = cache_root() / "data" / "mine.zip"
    cached.parent.mkdir(parents=True)
    pack(classes, "mine.zip").rename(cached)
    assert find("mine", None, remotes(server)) == cached
    given = pack(classes, "mine.tar.gz")
    monkeypatch.setenv("DRIPGATE_DATA", str(tmp_path))
    assert find("mine", None, remotes(server)) == given
    folder = tree(classes, "mine")
    assert find("mine", None, remotes(server)) == folder
    assert open_source("mine").path == folder
    assert server.requests == []


def test_plantvillage_has_no_address_and_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("DRIPGATE_DATA", str(tmp_path / "mine"))
    with pytest.raises(DataError, match=r"plantvillage: not in .*/mine or .*put plantvillage\.tar"):
        open_source("plantvillage")


def test_unknown_names_are_nobodys(server):
    assert find("unknown", None, remotes(server)) is None
