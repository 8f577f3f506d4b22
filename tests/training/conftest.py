"""Here the loop is the one with training, and so are the gate and the stream."""

from loops import gate, loop, stream

__all__ = ["gate", "loop", "stream"]
