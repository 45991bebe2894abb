"""`python -m cwvae`: the same as the command `cwvae`."""

import sys

from cwvae.commands import main

if __name__ == "__main__":
    sys.exit(main())
