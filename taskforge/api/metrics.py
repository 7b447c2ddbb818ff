"""`/metrics`: the store's counts in Prometheus' text format, collected when asked for."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

import taskforge
from taskforge.core.states import RunState, StepState
from taskforge.store.protocol import Stats

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def metrics_text(stats: Stats, in_flight: int) -> bytes:
    """All metrics of this moment."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_StatsCollector(stats, in_flight))
    return generate_latest(registry)


class _StatsCollector(Collector):
    def __init__(self, stats: Stats, in_flight: int) -> None:
        self._stats = stats
        self._in_flight = in_flight

    def collect(self) -> Iterator[Metric]:
        stats = self._stats
        yield InfoMetricFamily("taskforge_build", "The program that answers.", {"version": taskforge.__version__})
        yield _by_state("taskforge_runs", "Runs by state.", stats.runs, tuple(RunState))
        yield _by_state("taskforge_steps", "Step runs by state.", stats.steps, tuple(StepState))
        yield _gauge("taskforge_steps_ready", "Steps that are due and wait for a slot.", stats.ready_steps)
        oldest = (stats.oldest_ready_ms or 0) / 1000
        yield _gauge("taskforge_oldest_ready_seconds", "How long the oldest of them has been due.", oldest)
        yield _gauge("taskforge_attempts_in_flight", "Attempts that this process carries out.", self._in_flight)
        yield _gauge("taskforge_dead_letters", "Dead letters that are open.", stats.dead_letters)
        yield _gauge("taskforge_schedules_overdue", "Schedules that should have fired.", stats.schedules_overdue)
        overdue = stats.schedule_overdue_ms / 1000
        yield _gauge("taskforge_schedule_overdue_seconds", "How long the most overdue of them has been due.", overdue)
        yield _gauge("taskforge_database_bytes", "Size of the database file.", stats.db_bytes)
        yield CounterMetricFamily("taskforge_pruned_runs", "Ended runs let go of.", value=stats.pruned_runs)
        yield CounterMetricFamily("taskforge_freed_bytes", "Bytes given back to the disk.", value=stats.freed_bytes)
        yield _gauge("taskforge_wal_bytes", "Size of the write-ahead log.", stats.wal_bytes)


def _gauge(name: str, doc: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, doc, value=value)


def _by_state(name: str, doc: str, counts: dict[str, int], states: tuple[str, ...]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, doc, labels=["state"])
    for state in states:
        family.add_metric([str(state)], counts.get(state, 0))
    return family
