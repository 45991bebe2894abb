"""A process that reads videos for a store: `python -m data_loaders.worker`, see `readers.py`.

What to open the source with comes in as a line of JSON on stdin, and then a line for each video; a
line goes out on stdout for each. When the process that prepares the store ends, so does stdin.
"""

import json
import pathlib
import signal
import sys

import data_loaders
from cwvae.errors import UserError
from data_loaders.readers import read_one


def main() -> None:
    """Answers requests until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent decides.
    source = data_loaders.open_source(**json.loads(sys.stdin.readline()))
    for line in sys.stdin:
        split, item, path = json.loads(line)
        try:
            answer = read_one(source, split, item, pathlib.Path(path))
        except UserError as error:
            answer = {"error": str(error)}
        except OSError as error:
            answer = {"errno": error.errno, "problem": error.strerror or str(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
