"""Runs, nodes and gaps as JSON documents: in the database and in a snapshot's manifest, and back.

They are the model's own shape but for an instance, which is flat, in the words of the table columns.
"""

from collections.abc import Mapping

import msgspec

from cvmprobe.model.delivery import Hello, StreamKey
from cvmprobe.model.run import Cost, LeaseRecord, Run, RunState
from cvmprobe.model.window import Instance
from cvmprobe.store.rows import INSTANCE, instance_from, instance_values

__all__ = ["LeaseDocument", "NodeDocument", "RunDocument"]


class LeaseDocument(msgspec.Struct, frozen=True):
    """A lease of a run; ``instance`` has the columns of ``rows.INSTANCE``."""

    lease_id: str
    step: str
    instance: Mapping[str, str | int | None]
    state: str
    detail: str
    totals: Mapping[str, int]

    @classmethod
    def of(cls, record: LeaseRecord) -> "LeaseDocument":
        """Return the document of a record."""
        instance = dict(zip(INSTANCE, instance_values(record.instance), strict=True))
        return cls(record.lease_id, record.step, instance, record.state, record.detail, record.totals)

    def record(self) -> LeaseRecord:
        """Return the record of the document; ValueError where its instance makes no sense."""
        return LeaseRecord(self.lease_id, self.step, self._instance(), self.state, self.detail, self.totals)

    def _instance(self) -> Instance:
        return instance_from([self.instance.get(column) for column in INSTANCE])


class RunDocument(msgspec.Struct, frozen=True):
    """A run with its leases."""

    run_id: str
    suite: str
    scale: float
    state: RunState
    started_unix_ms: int
    ended_unix_ms: int | None
    cost: Cost
    leases_total: int
    leases: tuple[LeaseDocument, ...]
    detail: str

    @classmethod
    def of(cls, run: Run) -> "RunDocument":
        """Return the document of a run."""
        return cls(
            run_id=run.run_id,
            suite=run.suite,
            scale=run.scale,
            state=run.state,
            started_unix_ms=run.started_unix_ms,
            ended_unix_ms=run.ended_unix_ms,
            cost=run.cost,
            leases_total=run.leases_total,
            leases=tuple(map(LeaseDocument.of, run.leases)),
            detail=run.detail,
        )

    def run(self) -> Run:
        """Return the run of the document; ValueError where a lease makes no sense."""
        return Run(
            run_id=self.run_id,
            suite=self.suite,
            scale=self.scale,
            state=self.state,
            started_unix_ms=self.started_unix_ms,
            ended_unix_ms=self.ended_unix_ms,
            cost=self.cost,
            leases_total=self.leases_total,
            leases=tuple(document.record() for document in self.leases),
            detail=self.detail,
        )


class NodeDocument(msgspec.Struct, frozen=True):
    """How the agent of one stream introduced itself, with the cluster the collector filled in."""

    cluster: str
    hello: Hello

    @property
    def stream(self) -> StreamKey:
        """The stream this is about."""
        return StreamKey(self.cluster, self.hello.endpoint, self.hello.boot_id, self.hello.start_id)
