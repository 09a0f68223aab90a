"""Codec, uplink, services, TLS and identity; the only importer of the generated code and of grpc."""
