"""Asks a registry about a manifest, over its HTTP API (OCI distribution specification, section "Pull")."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import re
import ssl
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import docker.auth
from docker.errors import DockerException

from serving_factory.engine import registry_faults
from serving_factory.errors import RegistryDeniedError, RegistryError, UsageError

if TYPE_CHECKING:
    from email.message import Message
    from typing import IO

__all__ = ["Credentials", "ImageName", "Registry", "credentials_for"]

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
REASON_LIMIT = 500  # characters of a registry's answer that an error quotes


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
            registry, repository = DOCKER_HUB, text if slash else f"library/{text}"
        if not all(PATH_PART.fullmatch(part) for part in repository.split("/")):
            raise UsageError(
                f"'{text}' is not the name of an image repository.",
                why="A name is registry/path without a tag: small letters, digits, and . _ - inside a part.",
                remedy="Write it like registry.example.com/team/tensorflow-serving.",
            )
        return cls(registry, repository)

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
    """

    def __init__(self, host: str, *, credentials: Credentials | None = None, timeout: float = 20.0) -> None:
        self.host = host
        self._credentials = credentials
        self._timeout = timeout
        loopback = registry_faults.is_loopback(host)
        server = "registry-1.docker.io" if host == DOCKER_HUB else host
        self._base = f"{'http' if loopback else 'https'}://{server}/v2/"
        self._realms = ("https://", "http://") if loopback else ("https://",)  # no password over plain HTTP
        handlers: list[urllib.request.BaseHandler] = [_Redirects()]
        if loopback:
            handlers.append(urllib.request.ProxyHandler({}))
        self._opener = urllib.request.build_opener(*handlers)

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

    def takes_password(self) -> bool:
        """Tell whether the registry wants a plain name and password (Basic) and takes ours.

        False says nothing about a registry with a token service: what a token allows is not known before it is used.

        Raises:
            RegistryUnreachableError, RegistryFaultError: it could not be found out.
        """
        challenge = self._open("GET", self._base, {}).headers.get("WWW-Authenticate", "")
        if self._credentials is None or not challenge.lower().startswith("basic "):
            return False
        answer = self._open("GET", self._base, {"Authorization": self._basic(self._credentials)})
        return answer.status == http.HTTPStatus.OK

    def _ask(self, method: str, url: str, scope: str) -> _Answer | None:
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

    def _check(self, answer: _Answer) -> None:
        status = answer.status
        if status < http.HTTPStatus.MULTIPLE_CHOICES:
            return
        why = f"It answered {status}: {answer.reason}"
        if status in {http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN}:
            raise registry_faults.denied(self.host, why)
        if status == http.HTTPStatus.TOO_MANY_REQUESTS or status >= http.HTTPStatus.INTERNAL_SERVER_ERROR:
            raise registry_faults.fault(self.host, why)
        raise RegistryError(
            f"The registry {self.host} did not answer as a registry does.",
            why=why,
            remedy="Check the registry's name: is there a registry (API version 2) at that address?",
        )

    def _open(self, method: str, url: str, headers: dict[str, str], data: bytes | None = None) -> _Answer:
        request = urllib.request.Request(url, data=data, method=method)  # noqa: S310  (http and https only, above)
        for name, value in headers.items():
            request.add_unredirected_header(name, value)
        try:
            with self._opener.open(request, timeout=self._timeout) as response:
                return _Answer(response.status, response.headers, response.read())
        except urllib.error.HTTPError as error:
            with error:
                return _Answer(error.code, error.headers, _body(error))
        except urllib.error.URLError as error:
            raise self._failed(error.reason) from error
        except (OSError, http.client.HTTPException) as error:
            raise registry_faults.fault(self.host, f"The connection broke: {error!r}") from error

    def _failed(self, reason: object) -> Exception:
        if isinstance(reason, ssl.SSLCertVerificationError):
            return registry_faults.from_text(self.host, str(reason))
        if isinstance(reason, ssl.SSLError):
            return RegistryError(
                f"The registry {self.host} does not speak HTTPS as it should.",
                why=str(reason),
                remedy="Give it a certificate. Plain HTTP is for registries on localhost only.",
            )
        if isinstance(reason, (ConnectionResetError, BrokenPipeError)):
            return registry_faults.fault(self.host, f"The connection broke: {reason}")
        return registry_faults.unreachable(self.host, str(reason))


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: Message
    body: bytes

    @property
    def reason(self) -> str:
        return self.body[:REASON_LIMIT].decode("utf-8", errors="replace").strip() or "(no text)"


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Keeps the method: the standard library turns a redirected HEAD into a GET."""

    def redirect_request(  # noqa: PLR0917  (the standard library's signature)
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        redirected = super().redirect_request(req, fp, code, msg, headers, newurl)
        if redirected is not None:
            redirected.method = req.get_method()
        return redirected


def _body(response: urllib.error.HTTPError) -> bytes:
    try:
        return response.read()
    except (OSError, http.client.HTTPException):
        return b""  # the status alone decides
