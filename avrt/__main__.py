"""``python -m avrt``: the same entry point as the ``avrt`` command."""

from avrt.cli import main

if __name__ == "__main__":
    main()
