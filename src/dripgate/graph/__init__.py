"""An ONNX classifier in, a gate out, without torch (docs/architecture.md)."""
