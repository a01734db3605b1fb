"""Versions of models on this disk: which there are, what their configs mean, which are served.

Must not know ONNX Runtime or any transport; it reaches instances through the `Loader` Protocol.
"""
