"""Probes of a server."""

from support.memory_store import MemoryStore
from swiftfs.config.options import MIB
from swiftfs.maintenance.server_probe import Finding, Probe
from swiftfs.paths import Source
from swiftfs.store import SwiftStore


def probe_of(store: MemoryStore | SwiftStore, source: str = "box") -> dict[str, Finding]:
    probe = Probe(store, Source.parse(source), MIB)
    findings = {finding.subject: finding for finding in probe.run()}
    assert probe.left() == []
    return findings
