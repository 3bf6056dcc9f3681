"""Search a running system for values that must not be there: memory, files, byte streams, all encodings.

    search = Search(record.values())
    async with Tap("127.0.0.1", gateway_port) as tap:      # what the wire carries
        ...                                                 # send sealed records through `tap.address`
        findings = [f for pid in outside for f in search.memory(pid)]
    findings += search.files(state) + search.streams(tap.recorded())
    assert not findings

A search that finds nothing proves something only beside a control that it does find: send one record
unsealed and search again.
"""

from geumgo.testing.leaks._errors import LeakSearchError
from geumgo.testing.leaks._memory import Region, descendants, read_regions, regions
from geumgo.testing.leaks._patterns import MIN_LENGTH, Pattern, patterns
from geumgo.testing.leaks._search import Finding, Search
from geumgo.testing.leaks._tap import Tap

__all__ = (
    "MIN_LENGTH",
    "Finding",
    "LeakSearchError",
    "Pattern",
    "Region",
    "Search",
    "Tap",
    "descendants",
    "patterns",
    "read_regions",
    "regions",
)
