"""What is wrong between a device and its broker: one line, with the remedy, and nothing is lost."""

import json
import socket
import subprocess

import pytest

from dripgate.cli import main
from dripgate.errors import UplinkError
from dripgate.stream.broker import Login, parse_address, read_login
from needs import need

TOPIC = "farm/north"


@pytest.fixture
def refused(lab, capsys, monkeypatch):
    """Sends from a store of five; exit code 2 and one line that has all the words."""

    def check(address, *words, options=()):
        if not (lab / "device.db").exists():
            lab.fill("device.db", 5)
        arguments = ("send", lab / "device.db", "--to", address, *options)
        monkeypatch.setattr("sys.argv", ["dripgate", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        err = capsys.readouterr().err
        assert stopped.value.code == 2, err
        assert "Traceback" not in err
        last = err.strip().splitlines()[-1]
        for word in ("dripgate: ", *words):
            assert word in last, last
        assert lab.count("device.db") == (5, 5)
        return last

    return check


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    """An authority, and certificates of a broker and of a device that it signed."""
    need("mosquitto", "openssl")
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=farm",
            "-days", "2")  # fmt: skip
    (folder / "san").write_text("subjectAltName=DNS:localhost")
    for name in ("broker", "device"):
        openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", "/CN=x")
        openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", "-extfile", "san",
                "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2")  # fmt: skip
    return folder


def tls(folder):
    return (
        f"cafile {folder}/ca.pem",
        f"certfile {folder}/broker.pem",
        f"keyfile {folder}/broker.key",
    )


def passwords(lab):
    """A broker that knows one user, who may not write everywhere; and that user's file."""
    need("mosquitto")
    subprocess.run(["mosquitto_passwd", "-b", "-c", lab / "users", "north", "right"], check=True)
    (lab / "rules").write_text(f"user north\ntopic readwrite {TOPIC}/#\n")
    credentials(lab, "right")
    return lab.broker(
        "allow_anonymous false", f"password_file {lab.folder}/users", f"acl_file {lab.folder}/rules"
    )


def credentials(lab, password, mode=0o600):
    (lab / "login.toml").write_text(f'username = "north"\npassword = "{password}"\n')
    (lab / "login.toml").chmod(mode)
    return ("--credentials", lab / "login.toml")


# Addresses and credentials ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "cause"),
    [
        ("http://host/topic", "expected mqtt://host/topic"),
        ("mqtt://host", "host or topic is missing"),
        ("mqtt:///topic", "host or topic is missing"),
        ("mqtt://host:port/topic", "not the address of a topic"),
        ("mqtt://host/a/+/b", "the broker's"),
        ("mqtt://host/$SYS/a", "the broker's"),
        ("mqtt://host/a?b=c", "host or topic is missing"),
    ],
)
def test_an_address_that_is_none_is_refused(address, cause):
    with pytest.raises(UplinkError, match=cause.replace("$", r"\$")):
        parse_address(address)


def test_an_address_may_hold_no_password_and_the_message_does_not_repeat_it():
    with pytest.raises(UplinkError, match="--credentials FILE") as told:
        parse_address("mqtt://north:secret@host/topic")
    assert "secret" not in str(told.value)
    address = parse_address("mqtts://[::1]:99/farm/north/")
    assert address == ("::1", 99, True, "farm/north")
    assert parse_address("mqtts://host/a").port == 8883


def test_credentials_come_from_a_private_file_or_from_the_environment(lab):
    file = credentials(lab, "right")[1]
    env = {"DRIPGATE_MQTT_USERNAME": "n", "DRIPGATE_MQTT_PASSWORD": "p"}
    assert read_login(file, env) == Login("north", "right")
    assert read_login(None, env) == Login("n", "p")
    assert read_login(None, {}) is None
    credentials(lab, "right", mode=0o644)
    with pytest.raises(UplinkError, match="chmod 600"):
        read_login(file)
    for text, cause in [("username = 1", "username"), ("password = 'x'", "username"), ("{", "two")]:
        file.write_text(text)
        file.chmod(0o600)
        with pytest.raises(UplinkError, match=cause):
            read_login(file)
    with pytest.raises(UplinkError, match="No such file"):
        read_login(lab / "none.toml")


# Brokers ----------------------------------------------------------------------------------------


def test_no_broker_there(refused, lab):
    broker = lab.broker()
    broker.kill()
    refused(broker.address(), f"127.0.0.1:{broker.port}", "nothing listens there", "host and port")
    refused("mqtt://no-such-host.invalid/a", "no host of this name")


def test_wrong_credentials_and_the_right_ones(refused, lab):
    broker = passwords(lab)
    refused(broker.address(), "refuses our user name or password", "--credentials")
    refused(broker.address(), "refuses our user name or password",
            options=credentials(lab, "wrong"))  # fmt: skip
    right = credentials(lab, "right")
    receiver = lab.command("receive", broker.address(), "--store", lab / "central.db", *right)
    env = {"DRIPGATE_MQTT_USERNAME": "north", "DRIPGATE_MQTT_PASSWORD": "right"}
    sender = lab.command("send", lab / "device.db", "--to", broker.address(), "--patience", "0.3",
                         env=env)  # fmt: skip
    assert sender.wait() == 0, sender.log()
    receiver.stop()
    assert lab.samples("central.db").keys() == lab.samples("device.db").keys()
    assert "right" not in sender.log() + receiver.log()


def test_topics_that_one_may_not_write_or_read(lab):
    broker = passwords(lab)
    right = credentials(lab, "right")
    lab.fill("device.db", 5)
    with (lab / "rules").open("a") as rules:
        rules.write("topic write mute/#\ntopic read deaf/#\n")
    broker.kill()
    broker.start()
    for topic, cause in [("deaf", "does not let us write to deaf/samples"),
                         ("mute", "no receipts for what is sent to mute/samples")]:  # fmt: skip
        receiver = lab.command("receive", broker.address(topic), "--store", lab / "c.db", *right)
        sender = lab.command("send", lab / "device.db", "--to", broker.address(topic), *right,
                             "--give-up", "3", "--patience", "0.2", "--confirm", "receiver",
                             "--json", lab / "send.json")  # fmt: skip
        assert sender.wait() == 1
        receiver.kill()
        assert cause in sender.log().splitlines()[-1]
        assert lab.count("device.db") == (5, 5)
        assert json.loads((lab / "send.json").read_text())["left"] == 5


def test_tls_that_is_right(lab, certificates):
    broker = lab.broker("allow_anonymous true", "require_certificate true", tls=tls(certificates))
    sent = lab.fill("device.db", 40)
    address = broker.address(scheme="mqtts", host="localhost")
    ours = ("--ca", certificates / "ca.pem", "--cert", certificates / "device.pem",
            "--key", certificates / "device.key")  # fmt: skip
    receiver = lab.command("receive", address, "--store", lab / "central.db", *ours)
    sender = lab.command("send", lab / "device.db", "--to", address, "--patience", "0.3", *ours)
    assert sender.wait() == 0, sender.log()
    receiver.stop()
    assert lab.samples("central.db").keys() == sent


def test_tls_that_is_wrong(refused, lab, certificates):
    broker = lab.broker(tls=tls(certificates))
    trust = ("--ca", certificates / "ca.pem")
    local = broker.address(scheme="mqtts", host="localhost")
    refused(local, "is not trusted", "--ca FILE")
    refused(broker.address(scheme="mqtts"), "is not trusted", "IP address mismatch", options=trust)
    refused(broker.address(), "closes the connection without an answer", "mqtts://")
    refused(local, "expected PEM", options=("--ca", certificates / "san"))
    plain = lab.broker()
    refused(plain.address(scheme="mqtts", host="localhost"), "no TLS", "mqtt://", options=trust)


def test_two_devices_of_one_name_are_told(lab):
    broker = lab.broker()
    senders = []
    for store in ("device.db", "other.db"):
        lab.fill(store, 5)
        twin = ("--device", "twin", "--give-up", "8")
        senders.append(lab.command("send", lab / store, "--to", broker.address(), *twin))
    told = lab.eventually(lambda: [s for s in senders if "another client" in s.log()])
    assert "has our name (--device)" in told[0].log()


def test_a_connection_that_is_taken_over_at_once_was_answered(lab):
    """A broker closes behind its CONNACK where a client of the same name comes just then."""
    lab.fill("device.db", 1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"mqtt://127.0.0.1:{server.getsockname()[1]}/farm"
        sender = lab.command("send", lab / "device.db", "--to", address, "--device", "twin")
        connection, _ = server.accept()
        with connection:
            assert connection.recv(1) == b"\x10"  # CONNECT
            connection.sendall(b"\x20\x03\x00\x00\x00")  # CONNACK of MQTT 5
            connection.recv(1024)
        assert sender.wait() != 0
    assert "another client has our name (--device)" in sender.log()


def test_devices_of_one_image_get_names_of_their_own(lab):
    from dripgate.store import Store
    from dripgate.stream.broker import is_name, name_of

    names = set()
    for store in ("a.db", "b.db"):
        with Store(lab / store) as opened:
            names |= {name_of(opened), name_of(opened)}
        with Store(lab / store) as opened:
            names.add(name_of(opened))
            with pytest.raises(UplinkError, match="cannot name a device"):
                name_of(opened, "a/b")
    assert len(names) == 2
    assert all(map(is_name, names))
