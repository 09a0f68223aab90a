"""What deploy/base calls things: where a person's command finds them, and a collector its own."""

from typing import Final

__all__ = [
    "AUDIENCE",
    "CA_KEY",
    "COLLECTOR_PORT",
    "COMPONENT",
    "CONFIG_MAP",
    "NAMESPACE",
    "OURS",
    "PROBE_SERVICE_PORT",
    "SERVER_NAME",
]

NAMESPACE: Final = "cvmprobe"
AUDIENCE: Final = "cvmprobe"
SERVER_NAME: Final = "cvmprobe-collector"
COLLECTOR_PORT: Final = 7410
PROBE_SERVICE_PORT: Final = 7412
CONFIG_MAP: Final = "cvmprobe-ca"
CA_KEY: Final = "ca.crt"
OURS: Final = "app.kubernetes.io/name=cvmprobe"
COMPONENT: Final = "app.kubernetes.io/component"
