"""What is written about each sample: the columns of the partitions, and of what passes between."""

from typing import Any

import numpy as np
import pyarrow as pa

from dripgate.policy.duplicates import WIDTH, Duplicates
from dripgate.types import Array

#: One row per sample. address: where its bytes are. at: seconds from a recording's beginning at
#: which the window begins, null for a whole file. id: SHA-256 of the sample's bytes, null where
#: there were none. time: when it was taken, as far as anything says so. row: of the listing.
#: cause: why it could not be read, else null; then there is no prediction. sketch: the embedding
#: folded as ``policy.duplicates`` has it, bfloat16, by which near-duplicates are found.
SCHEMA = pa.schema(
    [
        ("address", pa.string()), ("at", pa.float64()), ("id", pa.string()),
        ("time", pa.timestamp("us", tz="UTC")), ("predicted", pa.string()),
        ("probability", pa.float32()), ("score", pa.float32()), ("quality", pa.float32()),
        ("verdict", pa.string()), ("reason", pa.string()), ("cause", pa.string()),
        ("bytes", pa.int64()), ("row", pa.int64()), ("sketch", pa.binary()),
    ]
)  # fmt: skip
#: (D,) of half precision, where they are asked for: as float32, which all readers know.
EMBEDDING = pa.field("embedding", pa.list_(pa.float32()))


def schema(*, embeddings: bool) -> pa.Schema:
    """The columns of a partition."""
    return SCHEMA.append(EMBEDDING) if embeddings else SCHEMA


def sketched(embeddings: Array) -> list[bytes]:
    """Embeddings (N, D) as sketches: at most ``WIDTH`` values of bfloat16."""
    points = np.stack([point for point, _ in Duplicates(0.0).points(embeddings)])
    bits = (np.ascontiguousarray(points).view(np.uint32) >> 16).astype("<u2")
    return [row.tobytes() for row in bits]


def unsketched(sketches: list[bytes]) -> Array:
    """Sketches of one width as float32 (N, width)."""
    bits = np.frombuffer(b"".join(sketches), "<u2").reshape(len(sketches), -1).astype(np.uint32)
    if bits.shape[1] > WIDTH:
        raise ValueError(f"a sketch of {bits.shape[1]} values, expected up to {WIDTH}")
    return (bits << 16).view(np.float32)


def lists(embeddings: Array, present: Array) -> Any:
    """Embeddings (n, D) of those rows that have one, as the column of all rows."""
    lengths = np.where(present, embeddings.shape[1] if len(embeddings) else 0, 0)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    values = pa.array(embeddings.astype(np.float16).astype(np.float32).ravel())
    return pa.ListArray.from_arrays(offsets, values, mask=pa.array(~present))
