"""Codec, uplink, services, TLS and identity; the only importer of the generated code and of grpc."""

import os

# gRPC's core would write lines of its own to stderr. Each failure reaches the caller as an error, in words.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
