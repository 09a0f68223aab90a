"""The life of a collector: open the store, serve, keep time; and at the end stop runs, write, close.

state_dir/            0700
├── ca.crt, ca.key    made once
├── store.duckdb      what was measured
└── endpoint.json     address, server name and CA, as long as it serves
"""

import asyncio
import json
import logging
import os
import shutil
import stat
from collections.abc import AsyncIterator, Collection, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext, suppress
from pathlib import Path

from cvmprobe.collector.certificates import Certificates
from cvmprobe.collector.conductor import Conductor, interrupted, monotonic_ms, unix_ms
from cvmprobe.collector.ingest import Ingest, declare_unfinished
from cvmprobe.collector.live import Live
from cvmprobe.collector.plans import Planner
from cvmprobe.collector.query import EXPORTS, Query
from cvmprobe.collector.roster import Roster
from cvmprobe.collector.spending import DAY_MS
from cvmprobe.collector.surroundings import FileSurroundings, Surroundings
from cvmprobe.collector.writer import Writer
from cvmprobe.config.collector import CollectorSettings
from cvmprobe.errors import ConfigError, StoreError
from cvmprobe.model.run import Run, RunState
from cvmprobe.store import Store
from cvmprobe.store.duck import DuckStore
from cvmprobe.wire.serve import serve, serve_health

__all__ = ["run_collector"]

_LOG = logging.getLogger(__name__)
_PRUNE_S = 3_600.0


async def run_collector(settings: CollectorSettings, stop: asyncio.Event) -> None:
    """Run a collector until ``stop`` is set. Raises ConfigError or StoreError when it cannot start."""
    _make_state_dir(settings.state_dir)
    endpoint_file = settings.state_dir / "endpoint.json"
    _sweep(settings.state_dir, endpoint_file)
    certificates = Certificates(settings.state_dir, settings.names)
    surrounding = _surrounding(settings, certificates.ca_pem)
    if settings.ephemeral:
        _LOG.warning("ephemeral: what is stored in %s ends with this pod; export what must stay", settings.state_dir)
    store = DuckStore(settings.state_dir / "store.duckdb")
    if store.notice:
        _LOG.warning("%s", store.notice)
    try:
        _declare_cut_off(store)
        async with AsyncExitStack() as stack:
            entering = asyncio.create_task(stack.enter_async_context(surrounding))
            await _until(stop, {entering})
            if not stop.is_set():
                writer, writing = await stack.enter_async_context(_writing(store))
                await _serve(settings, entering.result(), certificates, store, writer, writing, stop)
            elif not entering.done():
                entering.cancel()
                await asyncio.wait({entering})
    finally:
        _forget(endpoint_file)
        store.close()


def _surrounding(settings: CollectorSettings, ca_pem: bytes) -> AbstractAsyncContextManager[Surroundings]:
    if settings.identity == "kubernetes":
        from cvmprobe.collector.in_cluster import in_cluster  # noqa: PLC0415 - a local run needs no client of it

        return in_cluster(settings.namespace, settings.node, ca_pem)
    return nullcontext(FileSurroundings(settings))


async def _serve(
    settings: CollectorSettings,
    surroundings: Surroundings,
    certificates: Certificates,
    store: Store,
    writer: Writer,
    writing: asyncio.Task[None],
    stop: asyncio.Event,
) -> None:
    """Serve until ``stop`` is set, then stop the run that is alive and write all that has arrived."""
    conductor, ingest, query = _assembled(settings, surroundings, certificates, store, writer)
    async with (
        serve(
            settings.listen,
            certificates.server_tls,
            surroundings.authenticator,
            ingest=ingest,
            probe=query,
            health=True,
            reflection=True,
        ) as port,
        serve_health(settings.health_listen),
        _background(conductor.run()) as conducting,
        _background(_prune(writer, settings)) as pruning,
    ):
        address = f"{settings.listen.rpartition(':')[0]}:{port}"
        _write_endpoint(settings.state_dir / "endpoint.json", address, settings.names[0], certificates.ca_pem)
        _LOG.info("serving at %s", address)
        await _until(stop, {writing, conducting, pruning})
        _LOG.info("stopping")
        conductor.stop()
        with suppress(StoreError):  # said by the writer, which tries once more at its end
            await writer.flush()


def _assembled(
    settings: CollectorSettings,
    surroundings: Surroundings,
    certificates: Certificates,
    store: Store,
    writer: Writer,
) -> tuple[Conductor, Ingest, Query]:
    """Make what arranges runs, what agents speak to, and what people ask; a run that a dead collector left is over."""
    roster, live = Roster(), Live()
    past = [_closed(run, writer) for run in store.runs()]
    planner = Planner(settings.light, settings.budgets, monotonic_ms, settings.service_host)
    conductor = Conductor(
        roster, planner, settings.budgets, past, lambda run: _keep(writer, run), settings.service_host
    )
    ingest = Ingest(
        surroundings,
        writer=writer,
        roster=roster,
        live=live,
        issue=certificates.issue,
        listener=conductor,
    )
    query = Query(
        store=store,
        writer=writer,
        roster=roster,
        live=live,
        conductor=conductor,
        surroundings=surroundings,
        scratch=settings.state_dir,
    )
    return conductor, ingest, query


def _sweep(state_dir: Path, endpoint_file: Path) -> None:
    """Remove what a collector that was killed left behind."""
    _forget(endpoint_file)
    for unfinished in state_dir.glob(f"{EXPORTS}*"):
        shutil.rmtree(unfinished, ignore_errors=True)


def _forget(endpoint_file: Path) -> None:
    with suppress(OSError):  # a volume that became read-only ends us no worse than that
        endpoint_file.unlink(missing_ok=True)


async def _until(stop: asyncio.Event, works: Collection[asyncio.Task[object]]) -> None:
    """Wait for ``stop``; a work that ends before is broken, and its error is ours."""
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({stopping, *works}, return_when=asyncio.FIRST_COMPLETED)
        for work in works:
            if work.done():
                work.result()
    finally:
        stopping.cancel()


def _keep(writer: Writer, run: Run) -> None:
    writer.act(lambda store: store.put_run(run))


def _declare_cut_off(store: Store) -> None:
    """Tell which streams the end of the collector before us cut off. A full disk must not keep us from starting."""
    try:
        declare_unfinished(store)
    except StoreError as error:
        _LOG.error("which streams our last end cut off is not on record: %s", error)


def _closed(run: Run, writer: Writer) -> Run:
    """Return a run of the past as it stands now: one that the end of the collector before us cut off has ended."""
    if run.state is not RunState.RUNNING:
        return run
    _LOG.warning("run %s was cut off by the end of the collector", run.run_id)
    ended = interrupted(run, unix_ms())
    _keep(writer, ended)
    return ended


@asynccontextmanager
async def _writing(store: Store) -> AsyncIterator[tuple[Writer, asyncio.Task[None]]]:
    """Have a writer at work; what is left at the end is written before the block is left."""
    writer = Writer(store)
    try:
        async with _background(writer.run()) as writing:
            yield writer, writing
    finally:
        if not await writer.close():
            _LOG.error("not everything could be stored; what was not acknowledged is still with the agents")


@asynccontextmanager
async def _background(work: Coroutine[None, None, None]) -> AsyncIterator[asyncio.Task[None]]:
    """Have ``work`` go on beside the block, and end with it."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})


async def _prune(writer: Writer, settings: CollectorSettings) -> None:
    """Once an hour let go of what is too old, or too much; at first by size alone: a booting clock may be years off."""
    before_ms = 0

    def prune(store: Store) -> None:
        store.prune(before_ms, settings.keep_bytes)

    while True:
        writer.act(prune)
        await asyncio.sleep(_PRUNE_S)
        before_ms = unix_ms() - settings.keep_days * DAY_MS


def _make_state_dir(directory: Path) -> None:
    """Make the state directory, for our eyes only. ConfigError when it cannot be, or anybody may write to it."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = directory.stat().st_mode & 0o777
    except OSError as error:
        raise ConfigError(f"state_dir {directory} cannot be used: {error.strerror}") from error
    if mode & stat.S_IWOTH:
        raise ConfigError(f"anybody may write to state_dir {directory} (mode {mode:04o}): chmod o-w {directory}")


def _write_endpoint(path: Path, address: str, server_name: str, ca_pem: bytes) -> None:
    """Write where we serve: whole or not at all. Who knows that already is served on a full disk, too."""
    draft = path.with_name(f"{path.name}.new")
    facts = {"address": address, "server_name": server_name, "ca_pem": ca_pem.decode()}
    try:
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            json.dump(facts, file)
        draft.replace(path)
    except OSError as error:
        _LOG.error("cannot write %s: %s; nobody finds us by it", path, error.strerror)
