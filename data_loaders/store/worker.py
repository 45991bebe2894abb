"""A process that reads videos for a store: `python -m data_loaders.store.worker`, see `processes.py`.

What to open the source with comes in as a line of JSON on stdin, and then a line for each video; a
line goes out on stdout for each. When the process that prepares the store ends, so does stdin.
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
    threading.Thread(target=_end_with, args=[os.getppid()], daemon=True).start()
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
    """Ends this process, in the middle of a video, too, once the one that started it is gone."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


if __name__ == "__main__":
    main()
