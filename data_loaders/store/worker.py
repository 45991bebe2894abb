"""A process that reads videos for a store: `python -m data_loaders.store.worker PARENT`.

It receives lines of JSON on stdin: first the arguments of `data_loaders.open_source`, then a
request per video. It answers each with a line on stdout. `processes.py` starts it and gives its own
process id as PARENT.
"""

import json
import os
import pathlib
import sys
import threading
import time

import data_loaders
from cwvae.errors import UserError
from data_loaders.store.processes import read_one


def main() -> None:
    """Answers requests until there are no more."""
    threading.Thread(target=_end_with, args=[int(sys.argv[1])], daemon=True).start()
    source = data_loaders.open_source(**json.loads(sys.stdin.readline()))
    for line in sys.stdin:
        split, item, path = json.loads(line)
        try:
            answer = read_one(source, split, item, pathlib.Path(path))
        except UserError as error:
            answer = {"error": str(error)}
        except OSError as error:
            answer = {"errno": error.errno, "problem": error.strerror or str(error)}
        try:
            print(json.dumps(answer), flush=True)
        except BrokenPipeError:
            os._exit(1)


def _end_with(parent: int) -> None:
    """Ends this process, even in the middle of a video, after its parent has ended."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


if __name__ == "__main__":
    main()
