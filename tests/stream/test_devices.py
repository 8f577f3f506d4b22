"""Microphones and cameras: what is read, what goes away and comes back, what is never told.

The microphone is ALSA's own file plugin, through PortAudio; a preloaded library (sound_faults.c)
makes its buffer run over and cuts its cable. Network cameras are servers on loopback.
"""

import base64
import io
import json
import os
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dripgate.errors import DataError
from dripgate.media import decode
from dripgate.store import Store
from dripgate.stream.broker import Login
from dripgate.stream.frames import look
from dripgate.stream.sources import How, check_source, open_source, shown, unused_options
from dripgate.types import AudioInput, ImageInput
from needs import need

PICTURES = ImageInput(height=48, width=64, channels=3)
SOUND = AudioInput(rate=8000, length=8000)

# Microphones ------------------------------------------------------------------------------------

#: Prints what each window begins with, what was told, and what was missing.
LISTEN = """
import json, sys
from dripgate.errors import DataError
from dripgate.media import decode
from dripgate.stream.mic import microphone
from dripgate.types import AudioInput

which, rate, channels, count, waits = json.loads(sys.argv[1])
spec, told, heard, waited = AudioInput(rate=8000, length=8000), [], [], []

def stop():
    return len(heard) >= count or (waits and len(waited) >= waits)

try:
    feed = microphone(which, spec, rate, 0.5, stop, channels=channels, told=told.append,
                      wait=waited.append)
except DataError as error:
    print(json.dumps({"error": str(error)}))
    sys.exit()
for sample in feed:
    if sample:
        heard.append([sample.source, [int(one) for one in decode(sample.payload, spec)[:3]]])
feed.close()
found = {"heard": heard[:count], "told": told, "gaps": feed.gaps, "waited": waited}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def sound_faults(tmp_path_factory):
    need("PortAudio", "a C compiler")
    library = tmp_path_factory.mktemp("shim") / "sound_faults.so"
    source = Path(__file__).with_name("sound_faults.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


@pytest.fixture
def listen(tmp_path, alsa, sound_faults):
    """What is heard of a microphone whose n-th sample is n, with faults on demand."""

    def heard(which="", rate=None, channels=None, count=3, waits=0, **faults):
        environment = os.environ | alsa(np.arange(8000 * 8, dtype="<i2"))
        environment |= {"LD_PRELOAD": str(sound_faults)}
        environment |= {f"DRIPGATE_{name.upper()}": str(n) for name, n in faults.items()}
        words = json.dumps([which, rate, channels, count, waits])
        done = subprocess.run(
            [sys.executable, "-c", LISTEN, words],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return heard


@pytest.mark.parametrize("which", ["", "tape", "0", "TAP"])
def test_a_microphone_gives_windows_of_the_gate_s_length(listen, which):
    found = listen(which)
    name = f"mic:{which or 'default'}"
    assert found == {
        "heard": [[f"{name}@{at / 8000:.3f}s", [at, at + 1, at + 2]] for at in (0, 4000, 8000)],
        "told": [], "gaps": 0, "waited": [],
    }  # fmt: skip


def test_channels_are_averaged(listen):
    assert [at for _, (at, *_) in listen(channels=2)["heard"]] == [0, 8000, 16000]


def test_a_rate_that_the_microphone_has_not_is_said_and_resampled(listen):
    found = listen(only_rate=44100)
    assert found["told"] == ["mic:default: records at 44,100 Hz, not at 8,000; it is resampled"]
    assert [source for source, _ in found["heard"]] == [
        f"mic:default@{at:.3f}s" for at in (0, 0.5, 1)
    ]
    refused = listen(rate=16000, only_rate=44100)["error"]
    assert "cannot be opened at 16,000 Hz and 1 channels" in refused
    assert "Invalid sample rate); it has 44,100 Hz and up to" in refused


def test_no_window_reaches_over_sound_that_was_lost_and_it_is_counted(listen):
    found = listen(overflow=30, count=4)
    (told,) = found["told"]
    assert told.startswith("mic:default: sound was lost before it was read (overflow)")
    assert found["gaps"] == 1
    starts = [at for _, (at, *_) in found["heard"]]
    assert starts[0] % 8000 and list(np.diff(starts)) == [4000] * 3


def test_a_microphone_that_is_plugged_in_again_is_heard_again(listen):
    found = listen(gone=30, away=60)
    assert len(found["heard"]) == 3 and found["gaps"] == 1
    assert len(found["waited"]) > 1  # the first attempts found none
    gone, back = found["told"]
    assert gone.startswith("mic:default: gives no more sound (")
    assert gone.endswith("tried again every 5 s")
    assert back == "mic:default: is there again"


def test_a_run_whose_microphone_stays_away_ends_when_it_is_told_to(listen):
    found = listen(gone=30, away=10**6, waits=3)
    assert found["heard"] == [] and len(found["told"]) == 1


@pytest.mark.parametrize(
    ("which", "faults", "cause"),
    [
        ("", {"none": 1}, "mic:default: no microphone is there; plug one in"),
        ("usb", {}, "mic:usb: no microphone has this name or number; there are: 0 tape, 1 default"),
        ("7", {}, "no microphone has this name or number"),
        ("a", {}, "mic:a: 2 microphones have this name or number"),
    ],
)
def test_a_microphone_that_is_not_there_is_named_with_those_that_are(listen, which, faults, cause):
    assert cause in listen(which, **faults)["error"]


def test_without_portaudio_the_remedy_is_said():
    need("PortAudio")
    code = (
        "import ctypes.util; ctypes.util.find_library = lambda name: None\n"
        "from dripgate.stream.sources import check_source; check_source('mic:')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.endswith(
        "DataError: mic:default: needs the library PortAudio (PortAudio library not found); "
        "sudo apt install libportaudio2\n"
    )


def test_pictures_have_no_microphone(tmp_path):
    with Store(tmp_path / "k.db") as store, pytest.raises(DataError, match="mic:: this gate takes"):
        open_source("mic:", PICTURES, store, lambda: False, How())


# Network cameras --------------------------------------------------------------------------------


def jpeg(value):
    file = io.BytesIO()
    Image.fromarray(np.full((48, 64, 3), value, np.uint8)).save(file, "JPEG", quality=95)
    return file.getvalue()


class Webcam(BaseHTTPRequestHandler):
    """Five frames of a camera with a password, then its plug is pulled."""

    asked: list[str | None]

    def do_GET(self):
        self.asked.append(self.headers["Authorization"])
        if self.asked[-1] is None:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="camera"')
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for i in range(5):
            picture = jpeg(40 * i)
            self.wfile.write(b"--frame\r\nContent-Type: image/jpeg\r\n")
            self.wfile.write(b"Content-Length: %d\r\n\r\n%s\r\n" % (len(picture), picture))

    def log_message(self, *_):
        pass


@pytest.fixture
def webcam():
    """(host:port, the logins that it was asked with)."""
    need("OpenCV")
    handler = type("Handler", (Webcam,), {"asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}", handler.asked
        server.shutdown()


def basic(login):
    return "Basic " + base64.b64encode(login.encode()).decode()


def test_a_network_camera_is_opened_again_and_its_login_is_told_nowhere(webcam, tmp_path, capfd):
    from dripgate.stream.camera import Camera

    host, asked = webcam
    address, told, found = f"http://admin:s3cret@{host}/video", [], []
    name = shown(address)
    assert name == f"http://{host}/video"
    feed = look(name, lambda: Camera(address, name), 0.0, lambda: len(found) >= 8,
                told=told.append, wait=lambda _: None)  # fmt: skip
    found += (sample for sample in feed if sample is not None and not found[8:])
    feed.close()
    means = [decode(sample.payload, PICTURES).mean() for sample in found[:8]]
    assert sorted({round(mean / 40) for mean in means}) == [0, 1, 2, 3, 4]
    assert feed.gaps >= 1
    assert told[:2] == [
        f"{name}: gives no more frames; check its cable; tried again every 5 s",
        f"{name}: is there again",
    ]
    assert set(asked) <= {None, basic("admin:s3cret")} and basic("admin:s3cret") in asked
    assert all(sample.source.startswith(f"{name}@") for sample in found)
    out, err = capfd.readouterr()
    assert "s3cret" not in out + err + "".join(told)


def test_a_login_comes_from_a_file_and_reaches_the_camera(webcam, tmp_path, loop):
    """Through the command: nothing that it writes holds the password."""
    host, asked = webcam
    login = tmp_path / "login.toml"
    login.write_text('username = "ad/min"\npassword = "s3cr@t"\n')
    login.chmod(0o600)
    command = ["run", loop / "gate.onnx", f"http://{host}/video?channel=1", "--store",
               tmp_path / "k.db", "--source-credentials", login, "--interval", "0.05",
               "--json", tmp_path / "run.json"]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "dripgate", *map(str, command)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    said = []
    for line in process.stdout:
        said.append(line)
        if '"seen":5' in line.replace(" ", ""):
            break
    process.terminate()
    said.append(process.communicate()[0])
    assert process.returncode == 0, "".join(said)
    assert basic("ad/min:s3cr@t") in asked
    result = (tmp_path / "run.json").read_text()
    assert json.loads(result)["source"] == f"http://{host}/video?…"
    stored = b"".join(path.read_bytes() for path in tmp_path.glob("k.db*"))
    for secret in ("s3cr", "ad/min", "ad%2Fmin"):
        assert secret not in "".join(said) + result
        assert secret.encode() not in stored
    assert b"http://" + host.encode() in stored


class Rtsp(threading.Thread):
    """Answers each request of an RTSP client with a demand for its login, until it hangs up."""

    def __init__(self):
        super().__init__(daemon=True)
        self.server = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self.server.getsockname()[1]}"
        self.asked = []

    def run(self):
        while True:
            try:
                connection, _ = self.server.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as lines:
                head = {}
                for line in lines:
                    name, _, value = line.decode().strip().partition(": ")
                    head[name.lower()] = value
                    if line == b"\r\n":
                        self.asked.append(head.get("authorization"))
                        connection.sendall(
                            b"RTSP/1.0 401 Unauthorized\r\nCSeq: " + head["cseq"].encode()
                            + b'\r\nWWW-Authenticate: Basic realm="camera"\r\n\r\n'
                        )  # fmt: skip
                        head = {}


@pytest.fixture
def rtsp():
    need("OpenCV")
    camera = Rtsp()
    camera.start()
    yield camera
    camera.server.close()


@pytest.mark.parametrize("prefix", ["", "camera:"])
def test_an_rtsp_address_is_a_source_and_a_refused_login_is_not_told(rtsp, loop, tmp_path, prefix):
    source = f"{prefix}rtsp://admin:s3cret@{rtsp.host}/stream1?pass=s3cret"
    command = ["run", loop / "gate.onnx", source, "--store", tmp_path / "k.db"]
    done = subprocess.run(
        [sys.executable, "-m", "dripgate", *map(str, command)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert basic("admin:s3cret") in rtsp.asked
    assert f"{prefix}rtsp://{rtsp.host}/stream1?…: cannot be opened" in done.stderr
    assert "--source-credentials FILE hides it" in done.stderr
    assert "s3cret" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("rtsp://u:p@host/a", "rtsp://host/a"),
        ("camera:rtsp://u:p@host:8554/a?user=u&pwd=p", "camera:rtsp://host:8554/a?…"),
        ("rtsps://host/user=u&password=p&channel=1.sdp", "rtsps://host/user=…&password=…&channel=1.sdp"),
        ("http://host", "http://host"),
        ("camera:0", "camera:0"),
        ("incoming/a@b", "incoming/a@b"),
    ],
)  # fmt: skip
def test_an_address_is_written_down_without_its_login(source, told):
    assert shown(source) == told


@pytest.mark.parametrize(
    "source", ["rtsp://u:se/cret@host/a", "rtsp://u:1/secret@host/a", "http://u:s#ecret@host/a",
               "rtsp:///secret", "rtsp://u:secret@host:port/a"],
)  # fmt: skip
def test_an_address_that_is_none_is_refused_without_being_repeated(source):
    need("OpenCV")
    with pytest.raises(DataError, match="not the address of a camera; expected") as refused:
        check_source(source)
    assert "secret" not in str(refused.value) and "cret@" not in str(refused.value)


def test_two_logins_are_one_too_many(tmp_path):
    need("OpenCV")
    how = How(login=Login("u", "other"))
    with Store(tmp_path / "k.db") as store, pytest.raises(DataError) as refused:
        open_source("rtsp://u:secret@host/a", PICTURES, store, lambda: False, how)
    assert "rtsp://host/a: has a login, and --source-credentials too" in str(refused.value)


def test_options_of_one_kind_of_source_are_unused_with_another():
    given = ["rate", "every", "source_credentials", "queue", "follow"]
    unused = {
        source: unused_options(source, False, given)
        for source in ("mic:", "pcm:-", "camera:0", "picamera:", "rtsp://host/a")
    }
    login = ["follow", "rate", "source_credentials"]
    assert unused == {
        "mic:": ["every", "follow", "source_credentials"],
        "pcm:-": ["every", "follow", "source_credentials"],
        "camera:0": login, "picamera:": login, "rtsp://host/a": ["follow", "rate"],
    }  # fmt: skip


# A Raspberry Pi's own camera --------------------------------------------------------------------

#: picamera2 cannot be had here: what its manual says of the calls that are made.
PICAMERA2 = """
import numpy as np

LOG = []


class Request:
    def __init__(self, number):
        self.number = number

    def make_array(self, name):
        assert name == "main"
        return np.full((48, 64, 3), (self.number, 0, 0), np.uint8)

    def release(self):
        LOG.append(f"release {self.number}")


class Picamera2:
    cameras = 1

    def __init__(self, camera_num=0):
        [None][:self.cameras][camera_num]
        self.frames = iter(range(40, 240, 40))

    def create_video_configuration(self, main):
        return {"main": {"size": (64, 48)} | main}

    def configure(self, configuration):
        self.configuration = configuration

    def camera_configuration(self):
        return self.configuration

    def start(self):
        assert self.configuration["main"]["format"] == "BGR888"

    def capture_request(self, wait):
        for number in self.frames:
            return Request(number)
        raise TimeoutError

    def close(self):
        LOG.append("close")
"""


@pytest.fixture
def picamera2(tmp_path, monkeypatch):
    (tmp_path / "picamera2.py").write_text(PICAMERA2)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "picamera2", raising=False)
    import picamera2

    yield picamera2
    sys.modules.pop("picamera2", None)


def test_the_raspberry_pi_s_own_camera_is_read_and_opened_again(picamera2):
    from dripgate.stream.picamera import Picamera

    found, told = [], []
    feed = look("picamera:0", lambda: Picamera("0", "picamera:0"), 0.0, lambda: len(found) >= 7,
                told=told.append, wait=lambda _: None)  # fmt: skip
    found += (sample for sample in feed if sample is not None and not found[7:])
    feed.close()
    red = [decode(sample.payload, PICTURES)[..., 0].mean() for sample in found[:5]]
    assert red == pytest.approx([40, 80, 120, 160, 200], abs=3)
    assert decode(found[0].payload, PICTURES)[..., 2].mean() < 4
    assert told[0] == (
        "picamera:0: gives no more frames (none came); check its cable; tried again every 5 s"
    )
    assert picamera2.LOG[:6] == [*(f"release {n}" for n in range(40, 240, 40)), "close"]


def test_a_raspberry_pi_without_its_camera_says_so(picamera2, tmp_path, monkeypatch):
    monkeypatch.setattr(picamera2.Picamera2, "cameras", 0)
    with Store(tmp_path / "k.db") as store:
        with pytest.raises(DataError, match=r"picamera:1: cannot be opened .*--list-cameras"):
            open_source("picamera:1", PICTURES, store, lambda: False, How())
        with pytest.raises(DataError, match="picamera:a: expected the number of a camera"):
            open_source("picamera:a", PICTURES, store, lambda: False, How())
        with pytest.raises(DataError, match=r"picamera:: this gate takes .*, not images"):
            open_source("picamera:", SOUND, store, lambda: False, How())


def test_without_picamera2_the_remedy_is_said(tmp_path):
    with Store(tmp_path / "k.db") as store, pytest.raises(DataError) as refused:
        open_source("picamera:", PICTURES, store, lambda: False, How())
    assert "picamera:: needs picamera2" in str(refused.value)
    assert "sudo apt install python3-picamera2" in str(refused.value)
