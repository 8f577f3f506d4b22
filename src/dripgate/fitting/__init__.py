"""Thresholds, quality and the gate's file, from an ONNX classifier and labelled data; no torch."""
