"""The rows of the journal's database about uploads: prefixes below which there may be unneeded segments."""

import json
from collections.abc import Iterable

from swiftfs.filecache.upload_record import UnreferencedPrefix
from swiftfs.journal.schema import Statement
from swiftfs.objects import ObjectName


def upload_changes(prefixes: Iterable[UnreferencedPrefix]) -> list[Statement]:
    """Return statements that update the tables of uploads; of two about one prefix the last counts."""
    uploads = {one.prefix: one for one in prefixes}
    if not uploads:
        return []
    names: list[tuple[object, ...]] = [(prefix.container, prefix.key) for prefix in uploads]
    left = [(prefix, one) for prefix, one in uploads.items() if one.named is not None]
    return [
        ("DELETE FROM uploads WHERE container = ? AND prefix = ?", names),
        ("DELETE FROM upload_facts WHERE container = ? AND prefix = ?", names),
        (
            "INSERT INTO uploads VALUES (?, ?, ?)",
            [(prefix.container, prefix.key, json.dumps(sorted(one.named or ()))) for prefix, one in left],
        ),
        (
            "INSERT INTO upload_facts VALUES (?, ?, ?)",
            [(prefix.container, prefix.key, _write_facts(one)) for prefix, one in left],
        ),
    ]


def sent_change(upload: UnreferencedPrefix) -> Statement:
    """Return the statement that updates which segments below a prefix have no answer."""
    row = (_write_facts(upload), upload.prefix.container, upload.prefix.key)
    return "UPDATE upload_facts SET facts = ? WHERE container = ? AND prefix = ?", [row]


def _write_facts(unreferenced: UnreferencedPrefix) -> str:
    objects = [[name.container, name.key] for name in sorted(unreferenced.objects)]
    facts = {"file": unreferenced.file, "objects": objects, "since": unreferenced.since}
    asked, landed, sent = map(sorted, (unreferenced.asked, unreferenced.landed, unreferenced.sent))
    return json.dumps({**facts, "asked": asked, "landed": landed, "sent": sent})


def read_unreferenced(prefix: ObjectName, named: str, text: str) -> UnreferencedPrefix:
    """Return what the row of a prefix in `uploads`, and the `text` in `upload_facts`, say."""
    facts = json.loads(text)
    return UnreferencedPrefix(
        prefix,
        frozenset(json.loads(named)),
        facts.get("file", ""),
        frozenset(ObjectName(container, key) for container, key in facts.get("objects", ())),
        frozenset(facts.get("asked", ())),
        facts.get("since", 0.0),
        frozenset(facts.get("landed", ())),
        frozenset(facts.get("sent", ())),
    )
