"""What stands in for the internet, as a process of its own: for a network namespace that has no other network.

usage: python -m tests.real.stand_ins CONFIG

CONFIG is JSON, see `Config`. It prints its ports as JSON. When stdin ends it prints what it was asked, and ends.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.integration.closed_network import Authority, GitServer, Proxy, Server

HOSTS = (
    *("bitbucket.org", "curl.haxx.se", "ftp.exim.org", "github.com", "mirror.bazel.build"),
    *("storage.googleapis.com", "www.nasm.us", "www.sqlite.org", "zlib.net"),
)
"""Where TensorFlow's files say that archives are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What is served.

    Args:
        address: of this machine, as builds reach it.
        authority: a folder for the CA and its certificates.
        served: a folder; by HTTPS under its address, and by HTTP.
        archives: a folder of files that every host has, whatever the path that is asked for.
        repositories: path in a URL → git directory.
        password: of the proxy.
    """

    address: str
    authority: str
    served: str
    archives: str
    repositories: dict[str, str]
    password: str


def _report(what: object) -> None:
    sys.stdout.write(f"{json.dumps(what)}\n")
    sys.stdout.flush()


def main() -> None:
    """Serve until stdin ends."""
    config = Config(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    authority = Authority.make(Path(config.authority), config.address, HOSTS)
    served, archives = Path(config.served), Path(config.archives)
    repositories = {path: Path(folder) for path, folder in config.repositories.items()}
    with (
        Server.run(served, authority, archives) as https,
        Server.run(served, None) as http,
        GitServer.run(repositories) as git,
        Proxy.run(https, config.password, config.address, HOSTS) as proxy,
    ):
        ports = {"https": https.port, "http": http.port, "git": git.port, "proxy": proxy.url}
        _report(ports)
        sys.stdin.read()
        asked = {"https": https.asked, "http": http.asked, "git": git.asked, "tunnels": proxy.tunnels}
        _report(asked)


if __name__ == "__main__":
    main()
