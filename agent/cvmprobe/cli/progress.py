"""How far a run is: on a terminal one line that moves, elsewhere one line for each step."""

from types import TracebackType
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from cvmprobe.cli.figures import figures_of_window, headline
from cvmprobe.cli.output import notes_console
from cvmprobe.model.run import LeaseRecord, Run
from cvmprobe.model.window import Instance, Window

__all__ = ["RunDisplay", "describe"]


class RunDisplay:
    """Shows what is being done, on stderr. Use it as a context."""

    def __init__(self) -> None:
        self._console = notes_console()
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            refresh_per_second=4,  # it runs beside what it shows
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task("", total=None, rate="")
        self._running: dict[str, LeaseRecord] = {}
        self._told: set[str] = set()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Take the line off the screen; twice is fine."""
        self._progress.stop()

    def say(self, what: str) -> None:
        """Tell what is being done now, where there is no run to show yet, or no longer."""
        self._progress.update(self._task, description=what, rate="")
        self._line(what)

    def note(self, text: str) -> None:
        """Tell something that stays on the screen."""
        self._print(text)

    def cost(self, run: Run) -> None:
        """Tell what a run will use at the most."""
        self._progress.update(self._task, total=run.leases_total, completed=0)
        network, disk = run.cost.network_bytes / 1e9, run.cost.disk_write_bytes / 1e9
        self._print(
            f"run {run.run_id} of suite {run.suite}: {run.leases_total} measurements, "
            f"at most {run.cost.seconds:.0f} s, {network:.1f} GB over the network and {disk:.1f} GB written to disks"
        )

    def run(self, run: Run) -> None:
        """Show a run as it stands."""
        self._running = {
            lease.lease_id: lease for lease in run.leases if lease.state in ("granted", "armed", "running")
        }
        now = next(iter(self._running.values()), None)
        self._progress.update(self._task, total=run.leases_total, completed=run.leases_ended)
        if now is None or now.lease_id in self._told:
            return
        self._told.add(now.lease_id)
        step = f"{now.step}  {describe(now.instance)}"
        self._progress.update(self._task, description=step, rate="")
        self._line(f"[{len(self._told)}/{run.leases_total}] {step}")

    def window(self, window: Window) -> None:
        """Show the rate of a window of what runs now; others are of no interest."""
        if window.instance.assignment_id in self._running:
            self._progress.update(self._task, rate=headline(figures_of_window(window)))

    def _line(self, text: str) -> None:
        if not self._console.is_terminal:
            self._print(text)

    def _print(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, markup=False)


def describe(instance: Instance) -> str:
    """Return who measures what, in a few words."""
    over = f" over {instance.path}" if instance.path else ""
    return f"{instance.source} → {instance.target}{over}"
