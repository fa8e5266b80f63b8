"""One process pulls two repositories while two others delete, undo and empty: is anything broken?

    python benchmarks/cache_races.py [PULLS]

"ours" pulls as a run does; "theirs" is the hub's client alone, which takes none of our locks: a
pull of it may fail, but the cache must be sound in the end.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests/support"))

from cache_racers import check, make_sources, race
from hub_server import serve


def main() -> None:
    pulls = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with tempfile.TemporaryDirectory(prefix="loba-cache-") as folder:
        place = Path(folder)
        folders = make_sources(place)
        with serve(folders) as hub:
            for how in ("ours", "theirs"):
                began = time.perf_counter()
                home = place / how
                counts = race(hub, home, list(folders), pulls=pulls, how=how, seed=0)
                check(home, list(folders))
                shown = ", ".join(f"{count} {what}" for what, count in counts.items())
                seconds = time.perf_counter() - began
                print(f"{how:8}{shown}; the cache is sound; {seconds:.0f} s")


if __name__ == "__main__":
    main()
