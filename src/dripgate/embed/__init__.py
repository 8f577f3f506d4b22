"""A gate as C99 for a microcontroller, from the same gate.onnx, preprocessing included."""

import emx_onnx_cgen  # noqa: F401 - first: its absence names the extra to install

from dripgate.embed.folder import Embedded, embed

__all__ = ["Embedded", "embed"]
