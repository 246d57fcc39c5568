"""Python as the commands of `tests.warm` see it: our own modules and files are run by a fork, all else by the real one.

    python -IS tests/warm_python.py ADDRESS PYTHON ARGUMENTS

It imports nothing but what is needed to ask, hands its own streams over, passes signals on, and ends as the fork ends.
"""

import os
import sys

OURS = ("avrt", "tests", "data_recipes")
ORPHANED = 0
"""What is sent in the place of a signal's number when whoever asked has gone."""


def ours(arguments: list[str]) -> bool:
    """Whether Python is asked for something of this repository, in a way that the fork knows."""
    if arguments[:1] == ["-m"]:
        return len(arguments) > 1 and arguments[1].partition(".")[0] in OURS
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return bool(arguments) and os.path.abspath(arguments[0]).startswith(root + os.sep)


def ask(connection, request: dict, streams: list[int]) -> None:
    """Send what is to be run, and the three streams that it is to have."""
    import array
    import json
    import socket

    data = json.dumps(request).encode()
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", streams))]
    connection.sendmsg([len(data).to_bytes(8, "big")], rights)
    connection.sendall(data)


def main(address: str, python: str, arguments: list[str]) -> None:
    """Have it run by a fork and end as that does."""
    if not ours(arguments):
        os.execv(python, [python, *arguments])
    import signal
    import socket

    parent = os.getppid()
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(address)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT):
        signal.signal(number, lambda number, _: connection.sendall(bytes([number])))
    request = {"command": arguments, "cwd": os.getcwd(), "environment": dict(os.environ), "parent": parent}
    ask(connection, request, [0, 1, 2])
    connection.settimeout(0.2)
    while True:
        try:
            status = int(connection.recv(16) or 1)
            break
        except TimeoutError:
            if os.getppid() != parent:
                connection.sendall(bytes([ORPHANED]))
                os._exit(1)
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
