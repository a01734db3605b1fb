"""Protobuf messages generated from `proto/` by `proto/generate.py`; committed, never edited by hand.

Their package is `spillway.inference`, so that other programs' `inference` may stand beside them in one process;
the bytes and the names on the wire are those of `proto/`. Read by wire, repository, transport and client.
"""
