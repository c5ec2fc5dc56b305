"""What Prometheus reads of a coordinator."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterator
from typing import final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from aimer2.coordinator.presence import Presence
from aimer2.coordinator.registry import Registry

_STATES = ("offered", "running", "paused", "finished", "stopped")
_ROUND_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 21600)


@final
class Metrics:
    def __init__(self, registry: Registry, presence: Presence, open_tasks: Callable[[], int]) -> None:
        self._registry = registry
        self._presence = presence
        self._open_tasks = open_tasks
        self._collectors = CollectorRegistry()
        self.exchanges = Counter("aimer2_exchanges", "Requests in which sites handed in replies and waited for tasks", registry=self._collectors)
        self.bytes_received = Counter("aimer2_received_bytes", "Bytes of request bodies and uploaded blobs", registry=self._collectors)
        self.bytes_sent = Counter("aimer2_sent_bytes", "Bytes of exchanges answered and blobs sent", registry=self._collectors)
        self.round_seconds = Histogram(
            "aimer2_round_seconds", "Time from asking the sites to the next model", buckets=_ROUND_SECONDS, registry=self._collectors
        )
        self.rounds = Counter("aimer2_rounds", "Rounds finished", registry=self._collectors)
        self._collectors.register(self)

    def collect(self) -> Iterator[Metric]:
        """The state at this moment."""
        studies = GaugeMetricFamily("aimer2_studies", "Studies by state", labels=["state"])
        tally: Tally[str] = Tally(offer.state for offer in self._registry.studies.values())
        for state in _STATES:
            studies.add_metric([state], tally[state])
        yield studies
        enrolled = [site.site for site in self._registry.sites.values() if not site.revoked]
        yield GaugeMetricFamily("aimer2_sites_enrolled", "Sites that may take part", value=len(enrolled))
        yield GaugeMetricFamily("aimer2_sites_online", "Sites heard of lately", value=sum(self._presence.online(site) for site in enrolled))
        yield GaugeMetricFamily("aimer2_frozen", "1 while everything is stopped at a person's word", value=self._registry.frozen.frozen)
        yield GaugeMetricFamily("aimer2_open_tasks", "Tasks that wait for a site", value=self._open_tasks())

    def text(self) -> bytes:
        return generate_latest(self._collectors)
