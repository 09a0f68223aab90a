"""Where a collector runs: who may come in, where agents are reached, who should be there; here as files tell it."""

from collections.abc import Sequence
from typing import Protocol

from cvmprobe.collector.identity import read_tokens
from cvmprobe.collector.ways import Peer
from cvmprobe.config.collector import CollectorSettings
from cvmprobe.errors import ConfigError
from cvmprobe.model.delivery import Hello
from cvmprobe.model.endpoint import Endpoint, PeerAddress, Role
from cvmprobe.model.environment import Fact
from cvmprobe.wire.identity import Authenticator, Principal

__all__ = ["FileSurroundings", "Surroundings"]


class Surroundings(Protocol):
    """What a collector cannot know by itself. Asked in the event loop; must not block."""

    @property
    def cluster(self) -> str:
        """Name of the cluster in every stored window."""

    @property
    def authenticator(self) -> Authenticator:
        """Who tells whose a token is."""

    def peer(self, hello: Hello, principal: Principal) -> Peer | None:
        """Return where an attached endpoint is reached now; None where it may not, or cannot yet, be given probes."""

    @property
    def all_known(self) -> bool:
        """Whether an endpoint that is not expected is no more, so that nobody waits for it."""

    def expected(self) -> Sequence[Endpoint]:
        """Return the endpoints that are there, or should be."""

    def facts(self, node: str) -> Sequence[Fact]:
        """Return what is known of a node beside what its agent says."""


class FileSurroundings:
    """Tokens in a file, hosts in the settings: agents that attach are the peers, their ports stand in their Hello."""

    all_known = False

    def __init__(self, settings: CollectorSettings) -> None:
        if settings.tokens_file is None:
            raise ConfigError('collector.tokens_file is not set: with identity = "tokens" it says who may come in')
        self.cluster = settings.cluster
        self.authenticator: Authenticator = read_tokens(settings.tokens_file)
        self._hosts = settings.hosts

    def peer(self, hello: Hello, principal: Principal) -> Peer | None:
        """Return the peer; None where the settings name no host for its node, or it has no responder."""
        del principal
        host = self._hosts.get(hello.endpoint.node)
        if host is None or hello.responder_port == 0:
            return None
        return Peer(hello.endpoint, hello.boot_id, hello.start_id, PeerAddress(host, hello.responder_port))

    def expected(self) -> Sequence[Endpoint]:
        """Return the pod endpoint of every node that has a host."""
        return [Endpoint(node, Role.POD) for node in self._hosts]

    def facts(self, node: str) -> Sequence[Fact]:
        """Return none: nobody else knows the node."""
        del node
        return ()
