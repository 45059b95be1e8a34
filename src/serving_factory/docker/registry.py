"""Asks registries over their HTTP API (OCI distribution specification), on the terms on which Docker asks them."""

from __future__ import annotations

import base64
import hashlib
import http
import ipaddress
import json
import re
import urllib.parse
from collections.abc import Callable, Container, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self

import docker.auth
from docker.errors import DockerException

from serving_factory.docker.client import read_config
from serving_factory.docker.http import (
    DENIED,
    Answer,
    Client,
    NoAnswerError,
    Trouble,
    is_loopback,
    trusting,
    trusting_anyone,
)
from serving_factory.docker.process import Cancel
from serving_factory.errors import (
    FactoryError,
    RegistryDeniedError,
    RegistryError,
    RegistryFaultError,
    RegistryLimitError,
    RegistryUnreachableError,
    UsageError,
)

DOCKER_HUB = "docker.io"
CERTIFICATES = Path("/etc/docker/certs.d")
MANIFESTS = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
INDEX = MANIFESTS[0]
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_PATH_PART = re.compile(r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*")
_NO_JSON = (ValueError, RecursionError)
_TOKEN = re.compile(r"[\x21-\x7e]+")  # what a header may hold
# Of a challenge (RFC 9110, section 11.6.1): a parameter, or else the name of a scheme.
_CHALLENGE = re.compile(r'([\w-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*))|([A-Za-z][\w-]*)')
_NEXT = re.compile(r'<([^>]*)>\s*;[^,]*\brel="?next\b', re.IGNORECASE)  # RFC 8288
_PAGES = 100  # of one list
_KEPT = 2**20  # bytes of a content that is not fetched twice
_NO_SUCH_METHOD = {405, 501}
_NOT_TAKEN = {400, 404, 405, 409, 412, 413, 415}  # what registries answer to a manifest that they do not take
_BLOB_SECONDS = 3600.0  # for a blob, which may have gigabytes
_TLS_TRIAL = 5.0  # seconds in which a registry that may go without TLS shows whether it speaks it

_UNREACHABLE = re.compile(
    r"connection refused|no such host|i/o timeout|no route to host|network is unreachable|server misbehaving"
    r"|temporary failure in name resolution|while waiting for connection",
    re.IGNORECASE,
)
_LIMIT = re.compile(r"HTTP status:? 429|request to \S+: 429|\b429 Too|too ?many ?requests", re.IGNORECASE)
_FAULT = re.compile(
    r"HTTP status:? 5\d\d|request to \S+: 5\d\d|\b5\d\d (Internal|Bad|Service|Gateway)"
    r"|\bEOF\b|unknown blob|blob upload (unknown|invalid)|connection reset|broken pipe"
    r"|TLS handshake timeout|connection closed|server closed|Client\.Timeout|deadline exceeded",
    re.IGNORECASE,
)
_DENIED = re.compile(
    r"unauthorized|denied|authentication required|no basic auth credentials|insufficient_scope|forbidden", re.IGNORECASE
)
_NOT_TLS = re.compile(r"server gave HTTP response to HTTPS client", re.IGNORECASE)
_CERTIFICATE = re.compile(r"x509|certificate verify failed|CERTIFICATE_VERIFY_FAILED", re.IGNORECASE)


def unreachable(registry: str, why: str) -> RegistryUnreachableError:
    """Nothing answers at the registry's address."""
    return RegistryUnreachableError(
        f"The registry {registry} cannot be reached.",
        why=why,
        remedy=f"Check the registry's name, that it runs, and that this machine reaches it: curl -i "
        f"{'http' if is_loopback(registry) else 'https'}://{registry}/v2/",
    )


def denied(registry: str, why: str) -> RegistryDeniedError:
    """The registry requires credentials, or other ones."""
    return RegistryDeniedError(
        f"The registry {registry} refused the credentials, or there are none for it.",
        why=why,
        remedy=f"Log in with an account that may do this there: docker login {registry}",
    )


def fault(registry: str, why: str, retry_after: float | None = None) -> RegistryFaultError:
    """The registry failed in a way that may be over the next time."""
    return RegistryFaultError(
        f"The registry {registry} failed.",
        why=why,
        remedy="Run the same command again later: what the registry has is not sent twice. If it goes on, look "
        "at the registry's own log.",
        retry_after=retry_after,
    )


def limit(registry: str, why: str, retry_after: float | None = None) -> RegistryLimitError:
    """The registry's rate limit is used up."""
    asked = f"\nIt asks to wait {retry_after:.0f} s." if retry_after else ""
    return RegistryLimitError(
        f"The registry {registry} accepts no more requests for now: its rate limit is used up.",
        why=why + asked,
        remedy="Run the same command again later. A log-in often has a higher limit than none: docker login "
        f"{registry}; or name a mirror at network.base_images in the matrix file.",
        retry_after=retry_after,
    )


def from_text(registry: str, text: str) -> FactoryError:
    """Classify an error of the engine's push, of which there is only the text."""
    if _NOT_TLS.search(text):
        return RegistryError(
            f"The registry {registry} speaks plain HTTP, and the engine requires HTTPS.",
            why=text,
            remedy="Give the registry a certificate, or name it at insecure-registries in the engine's daemon.json.",
        )
    if _CERTIFICATE.search(text):
        return RegistryError(
            f"The registry {registry} has a certificate that is not trusted here.",
            why=text,
            remedy=f"Put the authority's certificate into {CERTIFICATES}/{registry}/ca.crt: the engine and the factory "
            "read it.",
        )
    for pattern, error in ((_UNREACHABLE, unreachable), (_LIMIT, limit), (_FAULT, fault), (_DENIED, denied)):
        if pattern.search(text):
            return error(registry, text)
    return RegistryError(
        f"The registry {registry} refused.", why=text, remedy="Read its message above; its own log may say more."
    )


def names_registry(text: str) -> bool:
    """Whether an image's name begins with a registry, as Docker reads it: by a dot, a colon, or `localhost`."""
    first, slash, _ = text.partition("/")
    return bool(slash) and ("." in first or ":" in first or first == "localhost")


@dataclass(frozen=True, slots=True)
class ImageName:
    """A repository in a registry: `127.0.0.1:5000` and `team/image`."""

    registry: str
    repository: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `[registry/]path` as Docker does; UsageError where it is no such name, or has a tag or digest."""
        if names_registry(text):
            registry, _, repository = text.partition("/")
        else:
            registry, repository = DOCKER_HUB, text
        if registry in {DOCKER_HUB, f"index.{DOCKER_HUB}"}:
            registry, repository = DOCKER_HUB, repository if "/" in repository else f"library/{repository}"
        if not all(_PATH_PART.fullmatch(part) for part in repository.split("/")):
            raise UsageError(
                f"'{text}' is not the name of an image repository.",
                why="A name is registry/path without a tag: small letters, digits, and . _ - inside a part.",
                remedy="Write it like registry.example.com/team/tensorflow-serving.",
            )
        return cls(registry, repository)

    @classmethod
    def parse_reference(cls, text: str) -> tuple[Self, str]:
        """Read `[registry/]path[:tag][@digest]`: the repository; and the digest, else the tag, else `latest`."""
        named, _, digest = text.partition("@")
        folder, slash, last = named.rpartition("/")
        name, _, tag = last.partition(":")
        return cls.parse(f"{folder}{slash}{name}"), digest or tag or "latest"

    def __str__(self) -> str:
        return f"{self.registry}/{self.repository}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Name and password, or an identity token (OAuth2 refresh token)."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)


def credentials_for(host: str) -> Credentials | None:
    """Look a registry up in Docker's own configuration; RegistryDeniedError where its credential helper fails."""
    read_config()
    try:
        found = docker.auth.load_config().resolve_authconfig(host) or {}
    except (DockerException, ValueError, OSError) as error:
        raise RegistryDeniedError(
            f"Docker's credential helper has no usable credentials for {host}.",
            why=str(error),
            remedy=f"Repair config.json in DOCKER_CONFIG or ~/.docker, or log in again: docker login {host}",
        ) from error
    names = {"username": "username", "password": "password", "identitytoken": "identity_token"}
    given = {names[key.lower()]: str(value) for key, value in found.items() if value and key.lower() in names}
    return Credentials(**given) if given else None


def is_insecure(host: str, config: Mapping[str, Any]) -> bool:
    """Whether the engine goes without trusted TLS to a registry, by its own `docker info`."""
    index = (config.get("IndexConfigs") or {}).get(host)
    if index is not None:
        return not index.get("Secure", True)
    with suppress(ValueError):
        address = ipaddress.ip_address((host.rpartition(":")[0] or host).strip("[]"))
        networks = map(ipaddress.ip_network, config.get("InsecureRegistryCIDRs") or ())
        return any(address in network for network in networks)
    return False


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A manifest or an index, as a registry has it."""

    body: bytes
    media_type: str

    @property
    def digest(self) -> str:
        """Its name in every registry."""
        return digest_of(self.body)

    @cached_property
    def document(self) -> Mapping[str, Any]:
        """What it says; empty where it is no JSON object."""
        return _object(self.body) or {}


def digest_of(body: bytes) -> str:
    """The digest of a content."""
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


@dataclass(slots=True)
class Memory:
    """What the answers of a registry have shown, for all that ask it in one run."""

    base: str = ""  # of its addresses
    accepted: dict[str, dict[str, str]] = field(default_factory=dict)  # scope → the header that it last accepted
    lists_referrers: bool = True
    contents: dict[str, Answer] = field(default_factory=dict)  # small ones, by their path, which has their digest


class Registry:
    """One registry.

    Each question raises RegistryUnreachableError, RegistryDeniedError, RegistryFaultError (the only one that is worth
    another attempt soon) or RegistryError where it gets no answer: not knowing is never taken for absence.

    A registry on this machine, and an `insecure` one, may go without a trusted certificate, or without TLS: HTTPS is
    tried first, as the engine does. Registries on this machine are asked without a proxy.
    """

    def __init__(
        self,
        host: str,
        *,
        credentials: Credentials | None = None,
        insecure: bool = False,
        client: Client | None = None,
        memory: Memory | None = None,
    ) -> None:
        self.host = host
        self._memory = memory or Memory()
        self._credentials = credentials
        self._insecure = insecure or is_loopback(host)
        self._server = "registry-1.docker.io" if host == DOCKER_HUB else host
        client, files = client or Client(), sorted((CERTIFICATES / host).glob("*.crt"))
        context = trusting_anyone() if self._insecure else trusting(client.route.ca_certificates, *files)
        self._client = replace(client, direct=is_loopback(host), context=context)

    @property
    def _base(self) -> str:
        self._memory.base = self._memory.base or self._found_base()
        return self._memory.base

    def _found_base(self) -> str:
        if self._insecure:
            patience = self._client.patience
            trial = replace(self._client, patience=replace(patience, each=min(_TLS_TRIAL, patience.each)))
            try:
                trial.ask("GET", f"https://{self._server}/v2/")
            except NoAnswerError:
                return f"http://{self._server}/v2/"
        return f"https://{self._server}/v2/"

    @property
    def cancel(self) -> Cancel | None:
        """What ends each wait for it, if anything does."""
        return self._client.patience.cancel

    def manifest_digest(self, repository: str, reference: str) -> str | None:
        """The digest that a tag (or a digest) stands for now; None if the registry says that there is none."""
        path = f"{repository}/manifests/{urllib.parse.quote(reference, safe=':')}"
        answer = self._pull("HEAD", path, unless=_NO_SUCH_METHOD)
        if answer is None:
            return None
        digest = answer.headers.get("Docker-Content-Digest", "")
        if DIGEST.fullmatch(digest):
            return str(digest)
        answer = self._pull("GET", path)  # the header is a "should": the digest is that of the body
        return None if answer is None else digest_of(answer.body)

    def manifest(self, repository: str, reference: str) -> Manifest | None:
        """The manifest or the index that a tag or a digest stands for; None if the registry says that there is none."""
        answer = self._pull("GET", f"{repository}/manifests/{urllib.parse.quote(reference, safe=':')}")
        if answer is None:
            return None
        held = Manifest(body=answer.body, media_type=answer.headers.get_content_type())
        said = str(held.document.get("mediaType"))
        return replace(held, media_type=said) if held.media_type not in MANIFESTS and said in MANIFESTS else held

    def put_manifest(self, repository: str, reference: str, manifest: Manifest) -> Mapping[str, str]:
        """Send a manifest or an index under a tag or its own digest, after what it names; give the answer's headers."""
        url = f"{self._base}{repository}/manifests/{urllib.parse.quote(reference, safe=':')}"
        scope = f"repository:{repository}:pull,push"
        answer, _ = self._ask("PUT", url, scope, data=manifest.body, content_type=manifest.media_type)
        if answer.status in _NOT_TAKEN:
            raise RegistryError(
                f"The registry {self.host} does not take {repository}:{reference}.",
                why=f"It answered {answer.status}: {answer.reason}",
                remedy="See in its answer why. Are images missing there? Push them again (./factory push). May the tag "
                "not move? Leave it out of the registry's rules for immutable tags. Does it take no OCI image indexes? "
                "Use one that does.",
            )
        self._check(answer)
        return {name.lower(): value for name, value in answer.headers.items()}

    def config_digest(self, repository: str, digest: str) -> str:
        """The digest of an image's configuration, which is the image's id in the engine; empty for an index."""
        return str(members(self._content(repository, "manifests", digest).get("config")).get("digest") or "")

    def labels(self, repository: str, digest: str) -> Mapping[str, str]:
        """The labels of an image; none of an index."""
        config = self.config_digest(repository, digest)
        found = members(self._content(repository, "blobs", config).get("config")) if config else {}
        return {name: str(value) for name, value in members(found.get("Labels")).items()}

    def platforms(self, repository: str, digest: str) -> frozenset[str]:
        """The platforms that an image or an index is for, such as `linux/amd64`."""
        manifest = self._content(repository, "manifests", digest)
        entries = manifest.get("manifests")
        if isinstance(entries, list):
            return frozenset(_platform(members(members(entry).get("platform"))) for entry in entries)
        config = str(members(manifest.get("config")).get("digest"))
        return frozenset({_platform(self._content(repository, "blobs", config))})

    def referrers(self, repository: str, digest: str) -> list[Mapping[str, Any]] | None:
        """List what refers to a manifest, of all pages; None where the registry keeps no such list itself."""
        # Distribution specification, "Listing Referrers"
        if not self._memory.lists_referrers:
            return None
        url, found, asked = f"{self._base}{repository}/referrers/{digest}", [], set[str]()
        scope, stay = f"repository:{repository}:pull", replace(self._client, redirected=False)
        while url not in asked and len(asked) < _PAGES:
            answer, _ = self._ask("GET", url, scope, send=stay.ask, Accept=INDEX)
            # What knows no such question answers in many ways: ghcr.io leads to a page for browsers.
            page = (_object(answer.body) or {}).get("manifests") if answer.status == http.HTTPStatus.OK else None
            unknown = answer.status == http.HTTPStatus.NOT_IMPLEMENTED or not answer.is_fault
            if not asked and not isinstance(page, list) and unknown and answer.status not in DENIED:
                # One that keeps lists, but none of this manifest, says so as a registry does.
                self._memory.lists_referrers = _object(answer.body) is not None
                return None
            self._check(answer)
            found += listed(page)
            asked.add(url)
            if not (following := _NEXT.search(", ".join(answer.headers.get_all("Link", [])))):
                return found
            url = _joined(url, following[1])
            if not _same_origin(url, self._base):
                break
        raise RegistryError(
            f"The registry {self.host} gave no whole list of what refers to {repository}@{digest}.",
            why=f"After {len(asked)} pages it names {url} as the next.",
            remedy="Look at the registry's own log, and at what stands in between, such as a proxy.",
        )

    def blob(self, repository: str, digest: str, sink: Callable[[bytes], object]) -> bool:
        """Fetch a blob of any size, piece by piece, and do not compare its digest; False if there is none."""
        patience = replace(self._client.patience, total=_BLOB_SECONDS)
        patient = replace(self._client, patience=patience)
        url = f"{self._base}{repository}/blobs/{digest}"
        answer, _ = self._ask("GET", url, f"repository:{repository}:pull", send=partial(patient.ask, sink=sink))
        if answer.status == http.HTTPStatus.NOT_FOUND:
            return False
        self._check(answer)
        return True

    def small_blob(self, repository: str, digest: str) -> bytes | None:
        """Fetch a blob, and do not compare its digest; None if there is none, or it has more than a few MiB."""
        try:
            answer = self._pull("GET", f"{repository}/blobs/{digest}")
        except RegistryError as error:
            if isinstance(error.__cause__, NoAnswerError) and error.__cause__.trouble is Trouble.TOO_BIG:
                return None  # what others keep beside an image, such as the report of a scan, is of no concern here
            raise
        return None if answer is None else answer.body

    def put_blob(self, repository: str, content: bytes) -> str:
        """Store a blob, unless the registry has it; give its digest."""
        digest = digest_of(content)
        if self._pull("HEAD", f"{repository}/blobs/{digest}") is not None:
            return digest
        url, scope = f"{self._base}{repository}/blobs/uploads/", f"repository:{repository}:pull,push"
        answer, _ = self._ask("POST", url, scope, data=b"")
        self._check(answer)
        upload = _joined(url, answer.headers.get("Location", ""))
        upload += f"{'&' if '?' in upload else '?'}digest={digest}"
        kind = "application/octet-stream"
        if _same_origin(upload, url):
            answer, _ = self._ask("PUT", upload, scope, data=content, content_type=kind)
        elif upload.startswith(self._schemes):  # the specification allows it; no other host gets our credentials
            answer = self._open("PUT", upload, {"Content-Type": kind}, content)
        else:
            raise RegistryError(
                f"The registry {self.host} wants an upload sent to no HTTPS address.",
                why=upload.partition("?")[0],
                remedy="Correct the registry's own address in its settings, and in those of a proxy before it.",
            )
        self._check(answer)
        return digest

    def log_in(self, repository: str) -> bool:
        """Show the registry our credentials, as a push to a repository does first; False where it requires none."""
        answer, headers = self._ask("GET", self._base, f"repository:{repository}:pull,push")
        self._check(answer)
        return bool(headers)

    def try_push(self, repository: str) -> None:
        """Begin an upload as a push does, and cancel it: the answer is that to a push; raises RegistryError."""
        url = f"{self._base}{repository}/blobs/uploads/"
        answer, headers = self._ask("POST", url, f"repository:{repository}:pull,push", data=b"")
        if answer.status == http.HTTPStatus.NOT_FOUND:
            raise RegistryError(
                f"The registry {self.host} takes no push to {repository}: it knows no such repository.",
                why=f"It answered 404: {answer.reason}",
                remedy="Create the repository there first, or correct image.repository in the matrix file.",
            )
        self._check(answer)
        with suppress(FactoryError):  # an upload that is left there expires
            upload = _joined(url, answer.headers.get("Location", ""))
            if _same_origin(upload, url):  # no other host gets our credentials
                self._open("DELETE", upload, headers)

    def _content(self, repository: str, kind: str, digest: str) -> dict[str, Any]:
        """Fetch a JSON document by its digest."""
        answer = self._pull("GET", f"{repository}/{kind}/{digest}")
        body = b"" if answer is None else answer.body
        found = _object(body)
        if found is not None and digest_of(body) == digest:
            return found
        raise RegistryError(
            f"The registry {self.host} does not hold {repository}@{digest} as it says.",
            why="There is nothing." if answer is None else "What it sends has another digest, or is no JSON object.",
            remedy="Run the same command again; if it goes on, look at the registry's own log.",
        )

    def _pull(self, method: str, path: str, unless: Container[int] = ()) -> Answer | None:
        """Fetch; None for nothing there. An answer of a status in `unless` is given as it is."""
        scope = f"repository:{re.split(r'/(?:manifests|blobs)/', path)[0]}:pull"
        contents = self._memory.contents
        if method == "GET" and path in contents:
            return contents[path]
        answer, _ = self._ask(method, f"{self._base}{path}", scope, Accept=", ".join(MANIFESTS))
        if answer.status == http.HTTPStatus.NOT_FOUND:
            return None
        if answer.status in unless:
            return answer
        self._check(answer)
        if method == "GET" and len(answer.body) <= _KEPT and path.endswith(digest_of(answer.body)):
            contents[path] = answer
        return answer

    def _ask(
        self,
        method: str,
        url: str,
        scope: str,
        *,
        data: bytes | None = None,
        content_type: str = "",
        send: Callable[..., Answer] | None = None,  # in the place of the client's `ask`
        **headers: str,
    ) -> tuple[Answer, dict[str, str]]:
        """Ask; and again, with authorization, where the registry requires it. Gives the headers of the last request."""
        headers |= {"Content-Type": content_type} if content_type else {}
        headers |= self._memory.accepted.get(scope, {})
        answer = refused = self._open(method, url, headers, data, send)
        if answer.status == http.HTTPStatus.NOT_FOUND and self._credentials and "Authorization" not in headers:
            refused = self._welcome  # some hide from strangers that there is anything, and say here that they do
        if refused.status == http.HTTPStatus.UNAUTHORIZED:
            headers |= self._authorized(refused, scope)
            answer = self._open(method, url, headers, data, send)
            if answer.status not in DENIED:
                self._memory.accepted[scope] = {"Authorization": headers["Authorization"]}
        return answer, headers

    def _authorized(self, refused: Answer, scope: str) -> dict[str, str]:
        """The header that a registry asks for by refusing a request without it."""
        texts = refused.headers.get_all("WWW-Authenticate", [])
        if not texts:
            raise denied(self.host, f"It answered {refused.status}: {refused.reason}")
        challenges = _challenges(texts)
        bearer = challenges.get("bearer", {})
        realm = _joined(self._base, bearer["realm"]) if bearer.get("realm") else ""
        if realm.startswith(self._schemes):  # no password over plain HTTP
            return {"Authorization": f"Bearer {self._token(realm, bearer.get('service', ''), scope)}"}
        if "basic" in challenges:
            if self._credentials is None:
                raise denied(self.host, "It requires a log-in, and Docker's configuration has none for it.")
            return self._basic(self._credentials)
        raise RegistryError(
            f"The registry {self.host} asks for a kind of log-in that the factory does not know.",
            why=f"WWW-Authenticate: {', '.join(texts)}",
            remedy="Use a registry with Basic or Bearer authentication (all that 'docker login' knows).",
        )

    @cached_property
    def _welcome(self) -> Answer:
        """What it answers to one who has not logged in."""
        return self._open("GET", self._base, {})

    @property
    def _schemes(self) -> tuple[str, ...]:
        return ("https://", "http://") if self._insecure else ("https://",)

    def _basic(self, credentials: Credentials) -> dict[str, str]:
        pair = f"{credentials.username}:{credentials.password}".encode()
        return {"Authorization": "Basic " + base64.b64encode(pair).decode("ascii")}

    def _token(self, realm: str, service: str, scope: str) -> str:
        """Fetch a token (distribution specification, "Token Authentication")."""
        query = {"service": service, "scope": scope}
        credentials = self._credentials
        if credentials is not None and credentials.identity_token:
            form = {"grant_type": "refresh_token", "client_id": "serving-factory", **query}
            form["refresh_token"] = credentials.identity_token
            answer = self._open("POST", realm, {}, urllib.parse.urlencode(form).encode("ascii"))
        else:
            url = f"{realm}{'&' if '?' in realm else '?'}{urllib.parse.urlencode(query)}"
            answer = self._open("GET", url, {} if credentials is None else self._basic(credentials))
        self._check(answer)
        try:
            found = json.loads(answer.body)
            token = found.get("token") or found["access_token"]
        except (*_NO_JSON, KeyError, AttributeError):
            token = None
        if isinstance(token, str) and _TOKEN.fullmatch(token):
            return token
        raise RegistryError(
            f"The token service of {self.host} gave no token.",
            why=f"{realm} answered: {answer.reason}" if token is None else f"What {realm} gave is no token.",
            remedy="Check that the registry's token service (its 'realm') is set up right.",
        )

    def _check(self, answer: Answer) -> None:
        status, why = answer.status, f"It answered {answer.status}: {answer.reason}"
        # Quay's answers are HTML by their headers where they have no content, or `true`.
        is_web_page = (
            answer.status == http.HTTPStatus.OK
            and str(answer.headers.get("Content-Type", "")).lower().startswith("text/html")
            and "Docker-Distribution-Api-Version" not in answer.headers
        )
        if status < http.HTTPStatus.MULTIPLE_CHOICES and not is_web_page:
            return
        if status in DENIED:
            raise denied(self.host, why)
        if status == http.HTTPStatus.TOO_MANY_REQUESTS:
            raise limit(self.host, why, answer.retry_after)
        if status >= http.HTTPStatus.INTERNAL_SERVER_ERROR:
            raise fault(self.host, why, answer.retry_after)
        raise RegistryError(
            f"The registry {self.host} did not answer as a registry does"
            f"{', but with a web page' if is_web_page else ''}.",
            why=why,
            remedy="Check the registry's name, and what stands in between: a proxy, or a network that wants a log-in "
            "in a browser first. A registry of API version 2 must be at that address.",
        )

    def _open(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        data: bytes | None = None,
        send: Callable[..., Answer] | None = None,
    ) -> Answer:
        try:
            return (send or self._client.ask)(method, url, headers, data)
        except NoAnswerError as error:
            match error.trouble:
                case Trouble.CERTIFICATE:
                    raise from_text(self.host, error.reason) from error
                case Trouble.TLS:
                    raise RegistryError(
                        f"The registry {self.host} does not speak HTTPS.",
                        why=error.reason,
                        remedy="Give it a certificate. Plain HTTP is for registries on this machine, and for those "
                        "that the engine's daemon.json names at insecure-registries.",
                    ) from error
                case Trouble.TOO_BIG:
                    raise RegistryError(
                        f"The registry {self.host} sent an answer that is too large for a registry's: {error.reason}.",
                        remedy="Check the registry's name, and what stands in between, such as a proxy.",
                    ) from error
                case Trouble.CUT | Trouble.SLOW:
                    raise fault(self.host, error.why) from error
                case _:
                    raise unreachable(self.host, error.reason) from error


def _object(body: bytes) -> dict[str, Any] | None:
    """What JSON holds, if that is an object."""
    try:
        found = json.loads(body)
    except _NO_JSON:
        return None
    return found if isinstance(found, dict) else None


def _challenges(texts: Iterable[str]) -> Mapping[str, Mapping[str, str]]:
    """The schemes by which a registry lets one log in, each with its parameters."""
    found: dict[str, dict[str, str]] = {}
    for text in texts:
        scheme: dict[str, str] = {}
        for name, quoted, bare, other in _CHALLENGE.findall(text):
            if other:
                scheme = found.setdefault(other.lower(), {})
            else:
                scheme.setdefault(name.lower(), re.sub(r"\\(.)", r"\1", quoted) or bare)
    return found


def _joined(base: str, place: str) -> str:
    """An address that an answer names; empty where it is none."""
    try:
        return urllib.parse.urljoin(base, place)
    except ValueError:
        return ""


def _same_origin(url: str, other: str) -> bool:
    return urllib.parse.urlsplit(url)[:2] == urllib.parse.urlsplit(other)[:2]


def members(value: object) -> Mapping[str, Any]:
    """What JSON says, if that is an object; else nothing: a registry may send anything."""
    return value if isinstance(value, dict) else {}


def listed(value: object) -> list[Mapping[str, Any]]:
    """The objects of what JSON says, if that is a list."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _platform(entry: Mapping[str, Any]) -> str:
    return f"{entry.get('os')}/{entry.get('architecture')}"
