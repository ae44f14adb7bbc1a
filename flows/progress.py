"""Progress of long work: a bar on a terminal, a plain line now and then when piped."""

import sys
import time

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 15.0


class Progress:
    """Called with (done, total, unit, note) as often as one likes; used as a context manager."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.bar: tqdm | None = None
        self.printed = 0.0
        self.began = 0.0
        self.skipped = 0  # done before the first call, in no time that we know

    def __call__(self, done: int, total: int, unit: str, note: str = "") -> None:
        if sys.stderr.isatty():
            if self.bar is None:
                self.bar = tqdm(desc=self.label, total=total, unit=f" {unit}", leave=False, file=sys.stderr)
            self.bar.total = total
            self.bar.set_postfix_str(note, refresh=False)
            self.bar.update(done - self.bar.n)
            return
        now = time.monotonic()
        if not self.began:
            self.began = self.printed = now
            self.skipped = done
        elif now - self.printed >= SECONDS_BETWEEN_LINES:
            self.printed = now
            rate = (done - self.skipped) / (now - self.began)
            left = f", about {(total - done) / rate:.0f} s left" if rate else ""
            told = f"; {note}" if note else ""
            print(f"{self.label}: {done} of {total} {unit}, {rate:.1f} per second{left}{told}", flush=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()
