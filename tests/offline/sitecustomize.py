"""Notes what this process and its children open, run and ask of the network."""

import os
import sys

NETWORK = (
    "socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr",
    "socket.connect", "socket.sendto", "urllib.Request", "http.client.connect",
)  # fmt: skip
PROGRAMS = (
    "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.startfile",
    "pty.spawn", "webbrowser.open", "pickle.find_class",
)  # fmt: skip
LOG = os.open(os.environ["WATCHED_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
NOTED: set[str] = set()


def note(event: str, arguments: tuple) -> None:
    if event == "exec":
        arguments = (getattr(arguments[0], "co_filename", ""),)
    elif event not in ("open", *NETWORK, *PROGRAMS):
        return
    first = arguments[0]
    if event in ("open", "exec"):
        if isinstance(first, int) or event == "exec" and not os.path.isabs(first):
            return
        first = os.path.abspath(os.fsdecode(first))
    line = f"{event}\t{first!s}".replace("\n", " ") + "\n"
    if line not in NOTED:
        NOTED.add(line)
        os.write(LOG, line.encode(errors="replace"))
    if event in NETWORK:
        raise OSError("there is no network in this test")


sys.addaudithook(note)
