"""Runs `swiftfs probe`'s checks on a store."""

from support.memory_store import MemoryStore
from swiftfs.cli.probe import Finding, Probe
from swiftfs.config.options import MIB
from swiftfs.paths import Source
from swiftfs.store.swift_store import SwiftStore


def probe_of(store: MemoryStore | SwiftStore, source: str = "box") -> dict[str, Finding]:
    """Return the findings of a probe by their subjects; assert that it leaves no object behind."""
    probe = Probe(store, Source.parse(source), MIB)
    findings = {finding.subject: finding for finding in probe.run()}
    assert probe.left() == []
    return findings
