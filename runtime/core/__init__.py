"""Words of the domain: tensors, models, requests, errors.

Imports the standard library, numpy and msgspec only; knows no transport, no disk layout, no ONNX Runtime.
"""
