"""What the extra ``archive`` brings, and what is said where it is missing."""

import os
from typing import Any

from dripgate.errors import MissingExtra


def daft() -> Any:
    """The engine, told first to count no users and to draw no bars of its own."""
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("DAFT_PROGRESS_BAR", "0")
    try:
        import daft
    except ImportError as error:
        raise MissingExtra("an archive", "archive") from error
    return daft


def transport(*, anonymous: bool = False) -> Any:
    """How the engine reaches object stores and servers: an IOConfig.

    Credentials and regions are those of the environment, as for the stores' own tools, and
    ``AWS_ENDPOINT_URL`` leads to an S3 server that is not Amazon's.
    """
    io = daft().io
    s3: dict[str, Any] = {"anonymous": anonymous, "num_tries": 4}
    if endpoint := os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
        # A server of one's own has no name for each bucket.
        s3 |= {"endpoint_url": endpoint, "use_ssl": endpoint.startswith("https:")}
        s3 |= {"force_virtual_addressing": False}
    if region := os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"):
        s3["region_name"] = region
    return io.IOConfig(
        s3=io.S3Config(**s3),
        gcs=io.GCSConfig(anonymous=anonymous),
        http=io.HTTPConfig(num_tries=3, retry_initial_backoff_ms=200),
    )
