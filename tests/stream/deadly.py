"""A run whose decoder is killed by one payload, as the kernel does it for want of memory.

python deadly.py GATE FOLDER STORE BATCH PROCESSED: what is in the folder and holds "deadly" kills.
"""

import os
import signal
import sys

from dripgate.gate import Gate
from dripgate.store import Store
from dripgate.stream.folder import Folder
from dripgate.stream.loop import run


class Mortal(Gate):
    def decode(self, sample):
        if b"deadly" in sample.payload and not sample.problem:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().decode(sample)


def main():
    gate, folder, path, batch, processed = sys.argv[1:]
    with Store(path) as store:
        feed = Folder(folder, processed=processed)
        summary = run(Mortal.load(gate), feed, store, batch=int(batch))
    for entry in summary.unreadable_named:
        print(entry.source, entry.cause)


if __name__ == "__main__":
    main()
