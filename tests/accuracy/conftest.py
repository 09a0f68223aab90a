"""What accuracy tests stand on: root, and a network of our own."""

import os
import shutil
from pathlib import Path

import pytest
from tests.accuracy.namespaces import bucket, dropping, network

NETWORK_TOOLS = ("ip", "tc", "nft")


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if os.geteuid() and item.path.is_relative_to(here):
            item.add_marker(pytest.mark.skip(reason="accuracy tests make namespaces, mounts and cgroups: run as root"))


@pytest.fixture(scope="session")
def network_works():
    """Namespaces, token buckets and random drops can be made here."""
    if missing := [tool for tool in NETWORK_TOOLS if shutil.which(tool) is None]:
        pytest.skip(f"missing {', '.join(missing)} (Debian: apt-get install iproute2 nftables)")
    try:
        with network() as net, bucket(net, net.b, 10**9), dropping(net, net.b, 1, "meta l4proto udp") as drop:
            drop.counted()
    except RuntimeError as refusal:
        pytest.skip(f"this kernel lacks what a test network needs: {refusal}")


@pytest.fixture
def net(network_works):
    """Two sides and a middle, see namespaces.py."""
    with network() as made:
        yield made
