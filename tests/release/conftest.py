"""Keys, gates and releases."""

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.uplink.conftest import lab  # noqa: F401 - a fixture of ours, too

from dripgate.gate import Gate
from dripgate.graph.build import with_info, with_thresholds
from dripgate.release.make import make
from dripgate.release.manifest import Limits

EASY = Limits(shadow=200, watch=300, slower=50.0, kept=1.0, outside=1.0, psi=100.0)


def write_keys(folder, name="key"):
    key = ec.generate_private_key(ec.SECP256R1())
    secret, public = folder / f"{name}.pem", folder / f"{name}.pub"
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )  # fmt: skip
    public.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return secret, public


@pytest.fixture
def keys(tmp_path):
    return write_keys(tmp_path)


@pytest.fixture(scope="session")
def better(gate):
    """The same classifier, keeping a little more; another file."""
    low = tuple(None if b is None else b * 0.9 for b in gate.info.thresholds.low)
    thresholds = msgspec.structs.replace(gate.info.thresholds, low=low)
    info = msgspec.structs.replace(gate.info, thresholds=thresholds, notes=("better",))
    return Gate(with_info(with_thresholds(gate.data, thresholds), info), "better.onnx")


@pytest.fixture(scope="session")
def worse(gate):
    """A gate that classifies at random: its last weights are shuffled."""
    import numpy as np
    import onnx
    from onnx import numpy_helper

    model = onnx.load_model_from_string(gate.data)
    rng = np.random.default_rng(0)
    classes = len(gate.info.classes)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.name != "thresholds" and values.dtype == np.float32 and classes in values.shape:
            axis = values.shape.index(classes)
            order = rng.permutation(classes)
            tensor.CopyFrom(numpy_helper.from_array(values.take(order, axis), tensor.name))
    return Gate(model.SerializeToString(), "worse.onnx")


@pytest.fixture
def released(tmp_path, keys):
    """Makes a release file of a gate."""

    def release(gate, version=1, limits=EASY, key=keys[0], **options):
        out = tmp_path / f"gate-{version}.release"
        make(gate, key, out, version=version, limits=limits, **options)
        return out

    return release
