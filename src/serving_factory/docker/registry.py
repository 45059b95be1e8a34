"""Asks a registry about a manifest, over its HTTP API (OCI distribution specification, section "Pull")."""

from __future__ import annotations

import base64
import hashlib
import http
import json
import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import docker.auth
from docker.errors import DockerException

from serving_factory.docker import http as registry_faults
from serving_factory.docker.http import Answer, Asker, NoAnswerError, Route, Trouble
from serving_factory.errors import RegistryDeniedError, RegistryError, UsageError

DOCKER_HUB = "docker.io"
MANIFESTS = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
PATH_PART = re.compile(r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*")
CHALLENGE = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True, slots=True)
class ImageName:
    """A repository in a registry: `127.0.0.1:5000` and `team/image`."""

    registry: str
    repository: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `[registry/]path` as Docker does.

        The first part is a registry if it has a dot or a colon or is `localhost`; else all is Docker Hub's.

        Raises:
            UsageError: it is no such name, or has a tag or digest.
        """
        first, slash, rest = text.partition("/")
        if slash and ("." in first or ":" in first or first == "localhost"):
            registry, repository = first, rest
        else:
            registry, repository = DOCKER_HUB, text
        if registry in {DOCKER_HUB, f"index.{DOCKER_HUB}"}:
            registry, repository = DOCKER_HUB, repository if "/" in repository else f"library/{repository}"
        if not all(PATH_PART.fullmatch(part) for part in repository.split("/")):
            raise UsageError(
                f"'{text}' is not the name of an image repository.",
                why="A name is registry/path without a tag: small letters, digits, and . _ - inside a part.",
                remedy="Write it like registry.example.com/team/tensorflow-serving.",
            )
        return cls(registry, repository)

    @classmethod
    def parse_reference(cls, text: str) -> tuple[Self, str]:
        """Read `[registry/]path[:tag][@digest]` as Docker does.

        Returns:
            The repository; and the digest, else the tag, `latest` where there is none.

        Raises:
            UsageError: it is no such reference.
        """
        named, _, digest = text.partition("@")
        folder, slash, last = named.rpartition("/")
        name, _, tag = last.partition(":")
        return cls.parse(f"{folder}{slash}{name}"), digest or tag or "latest"

    def __str__(self) -> str:
        return f"{self.registry}/{self.repository}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What a registry wants to see: name and password, or an identity token (OAuth2 refresh token)."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)


def credentials_for(host: str) -> Credentials | None:
    """Look a registry up in Docker's own configuration, credential helpers included.

    Args:
        host: the registry, such as `127.0.0.1:5000`.

    Returns:
        None where there are none.

    Raises:
        RegistryDeniedError: the configuration or its credential helper does not work.
    """
    try:
        found = docker.auth.load_config().resolve_authconfig(host) or {}
    except (DockerException, ValueError) as error:
        raise RegistryDeniedError(
            f"Docker's configuration has no usable credentials for {host}.",
            why=str(error),
            remedy=f"Repair config.json in DOCKER_CONFIG or ~/.docker, or log in again: docker login {host}",
        ) from error
    values = {key.lower(): str(value) for key, value in found.items() if value}
    credentials = Credentials(
        username=values.get("username", ""),
        password=values.get("password", ""),
        identity_token=values.get("identitytoken", ""),
    )
    return credentials if credentials != Credentials() else None


class Registry:
    """One registry.

    Args:
        host: its name and port. Plain HTTP for localhost and 127.0.0.0/8, as the engine does, else HTTPS.
        credentials: None to ask without.
        timeout: seconds that each connection and each answer may take.
        route: how to get out of this network; registries on this machine are asked directly.
    """

    def __init__(
        self,
        host: str,
        *,
        credentials: Credentials | None = None,
        timeout: float = 20.0,
        route: Route | None = None,
    ) -> None:
        self.host = host
        self._credentials = credentials
        loopback = registry_faults.is_loopback(host)
        server = "registry-1.docker.io" if host == DOCKER_HUB else host
        self._base = f"{'http' if loopback else 'https'}://{server}/v2/"
        self._realms = ("https://", "http://") if loopback else ("https://",)  # no password over plain HTTP
        self._asker = Asker(route=route, direct=loopback, timeout=timeout)

    def manifest_digest(self, repository: str, reference: str) -> str | None:
        """Find the digest that a tag stands for now.

        Args:
            repository: such as `team/image`.
            reference: a tag or a digest.

        Returns:
            `sha256:...`; None if the registry says that there is none. Not knowing is an error, never None.

        Raises:
            RegistryUnreachableError, RegistryDeniedError, RegistryFaultError, RegistryError: it could not be
                found out. Only RegistryFaultError is worth another attempt soon.
        """
        url = f"{self._base}{repository}/manifests/{urllib.parse.quote(reference, safe=':')}"
        scope = f"repository:{repository}:pull"
        answer = self._ask("HEAD", url, scope)
        if answer is None:
            return None
        digest = answer.headers.get("Docker-Content-Digest", "")
        if DIGEST.fullmatch(digest):
            return str(digest)
        answer = self._ask("GET", url, scope)  # the header is a "should": the digest is that of the body
        return None if answer is None else f"sha256:{hashlib.sha256(answer.body).hexdigest()}"

    def platforms(self, repository: str, digest: str) -> frozenset[str]:
        """Find the platforms that an image is for.

        Args:
            repository: such as `team/image`.
            digest: of an image index, a manifest list or a single manifest, that the registry holds.

        Returns:
            `os/architecture` of each, such as `linux/amd64`.

        Raises:
            RegistryUnreachableError, RegistryDeniedError, RegistryFaultError, RegistryError: it could not be found out,
                or what the registry holds is not what has this digest.
        """
        manifest = self._content(repository, "manifests", digest)
        listed = manifest.get("manifests")
        if isinstance(listed, list):
            return frozenset(_platform(_mapping(_mapping(entry).get("platform"))) for entry in listed)
        config = str(_mapping(manifest.get("config")).get("digest"))
        return frozenset({_platform(self._content(repository, "blobs", config))})

    def _content(self, repository: str, kind: str, digest: str) -> dict[str, Any]:
        """Fetch a JSON document by its digest."""
        answer = self._ask("GET", f"{self._base}{repository}/{kind}/{digest}", f"repository:{repository}:pull")
        body = b"" if answer is None else answer.body
        try:
            found = json.loads(body)
        except ValueError:
            found = None
        if isinstance(found, dict) and f"sha256:{hashlib.sha256(body).hexdigest()}" == digest:
            return found
        raise RegistryError(
            f"The registry {self.host} does not hold {repository}@{digest} as it says.",
            why="There is nothing." if answer is None else "What it sends has another digest, or is no JSON object.",
            remedy="Run the same command again; if it goes on, look at the registry's own log.",
        )

    def takes_password(self) -> bool:
        """Say whether the registry wants a plain name and password (Basic) and takes ours.

        False says nothing about a registry with a token service: what a token allows is not known before it is used.

        Raises:
            RegistryUnreachableError, RegistryFaultError: it could not be found out.
        """
        challenge = self._open("GET", self._base, {}).headers.get("WWW-Authenticate", "")
        if self._credentials is None or not challenge.lower().startswith("basic "):
            return False
        answer = self._open("GET", self._base, {"Authorization": self._basic(self._credentials)})
        return answer.status == http.HTTPStatus.OK

    def log_in(self, repository: str) -> bool:
        """Show the registry our credentials, as a push to a repository does first.

        Returns:
            False where it wants none.

        Raises:
            RegistryDeniedError: it wants some, and there are none, or others.
            RegistryUnreachableError, RegistryFaultError, RegistryError: it could not be found out.
        """
        answer = self._open("GET", self._base, {})
        required = answer.status == http.HTTPStatus.UNAUTHORIZED
        if required:
            if self._credentials is None:
                raise registry_faults.denied(self.host, "It wants a log-in, and there is none for it here.")
            challenge = answer.headers.get("WWW-Authenticate", "")
            authorization = self._authorization(challenge, f"repository:{repository}:pull,push")
            answer = self._open("GET", self._base, {"Authorization": authorization})
        self._check(answer)
        return required

    def _ask(self, method: str, url: str, scope: str) -> Answer | None:
        answer = self._open(method, url, {"Accept": ", ".join(MANIFESTS)})
        if answer.status == http.HTTPStatus.UNAUTHORIZED:
            authorization = self._authorization(answer.headers.get("WWW-Authenticate", ""), scope)
            answer = self._open(method, url, {"Accept": ", ".join(MANIFESTS), "Authorization": authorization})
        if answer.status == http.HTTPStatus.NOT_FOUND:
            return None
        self._check(answer)
        return answer

    def _authorization(self, challenge: str, scope: str) -> str:
        scheme, _, rest = challenge.partition(" ")
        values = dict(CHALLENGE.findall(rest))
        if scheme.lower() == "basic":
            if self._credentials is None:
                raise registry_faults.denied(self.host, "It wants a name and a password.")
            return self._basic(self._credentials)
        if scheme.lower() == "bearer" and values.get("realm", "").startswith(self._realms):
            return self._bearer(values["realm"], values.get("service", ""), scope)
        raise RegistryError(
            f"The registry {self.host} asks for a kind of log-in that the factory does not know.",
            why=f"WWW-Authenticate: {challenge}",
            remedy="Use a registry with Basic or Bearer authentication (all that 'docker login' knows).",
        )

    def _basic(self, credentials: Credentials) -> str:
        pair = f"{credentials.username}:{credentials.password}".encode()
        return "Basic " + base64.b64encode(pair).decode("ascii")

    def _bearer(self, realm: str, service: str, scope: str) -> str:
        """Fetch a token (distribution specification, "Token Authentication")."""
        query = {"service": service, "scope": scope}
        if self._credentials is not None and self._credentials.identity_token:
            form = {
                "grant_type": "refresh_token",
                "client_id": "serving-factory",
                "refresh_token": self._credentials.identity_token,
                **query,
            }
            answer = self._open("POST", realm, {}, urllib.parse.urlencode(form).encode("ascii"))
        else:
            headers = {}
            if self._credentials is not None:
                headers["Authorization"] = self._basic(self._credentials)
            separator = "&" if "?" in realm else "?"
            answer = self._open("GET", f"{realm}{separator}{urllib.parse.urlencode(query)}", headers)
        self._check(answer)
        try:
            found = json.loads(answer.body)
            token = found.get("token") or found["access_token"]
        except (ValueError, KeyError, AttributeError) as error:
            raise RegistryError(
                f"The token service of {self.host} gave no token.",
                why=f"{realm} answered: {answer.reason}",
                remedy="Check that the registry's token service (its 'realm') is set up right.",
            ) from error
        return f"Bearer {token}"

    def _check(self, answer: Answer) -> None:
        status = answer.status
        if status < http.HTTPStatus.MULTIPLE_CHOICES:
            return
        why = f"It answered {status}: {answer.reason}"
        if status in {http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN}:
            raise registry_faults.denied(self.host, why)
        if status == http.HTTPStatus.TOO_MANY_REQUESTS:
            raise registry_faults.limit(self.host, why, answer.retry_after)
        if status >= http.HTTPStatus.INTERNAL_SERVER_ERROR:
            raise registry_faults.fault(self.host, why)
        raise RegistryError(
            f"The registry {self.host} did not answer as a registry does.",
            why=why,
            remedy="Check the registry's name: is there a registry (API version 2) at that address?",
        )

    def _open(self, method: str, url: str, headers: dict[str, str], data: bytes | None = None) -> Answer:
        try:
            return self._asker.ask(method, url, headers, data)
        except NoAnswerError as error:
            raise self._failed(error) from error

    def _failed(self, error: NoAnswerError) -> Exception:
        if error.trouble is Trouble.CERTIFICATE:
            return registry_faults.from_text(self.host, error.reason)
        if error.trouble is Trouble.TLS:
            return RegistryError(
                f"The registry {self.host} does not speak HTTPS as it should.",
                why=error.reason,
                remedy="Give it a certificate. Plain HTTP is for registries on localhost only.",
            )
        if error.trouble is Trouble.CUT:
            return registry_faults.fault(self.host, f"The connection broke: {error.reason}")
        return registry_faults.unreachable(self.host, error.reason)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _platform(entry: Mapping[str, Any]) -> str:
    return f"{entry.get('os')}/{entry.get('architecture')}"
