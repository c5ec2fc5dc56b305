"""Log-ins by a real OpenID provider (npm `oidc-provider`, which `.ci/run` installs), and everything of its word that must not be believed."""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import re
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit

import jwt
import pytest
import urllib3
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from serving import Client, Server, free_port

from aimer2.audit.log import AuditLog
from aimer2.coordinator.openid import OpenId, is_own_page
from aimer2.coordinator.records import Records
from aimer2.coordinator.settings import Folder, OpenIdSettings, Settings
from aimer2.coordinator.store import accounts
from aimer2.coordinator.store.accounts import Account
from aimer2.coordinator.store.database import Database
from aimer2.coordinator.store.migrate import migrate
from aimer2.core.errors import AimerError, BadInput, NotAllowed, NotAuthenticated, Unreachable
from aimer2.identity import base64url
from aimer2.identity.certificates import make_certificate
from aimer2.identity.keys import SigningKey
from aimer2.identity.openid import Provider, UnknownKey, check_id_token
from aimer2.identity.secret_files import write_secret

NPM = Path(__file__).parents[1] / "integration"
OPERATORS = {"aimer2-operators": "operator", "north-dpo": "data-protection-officer:north"}


@dataclass
class RealProvider:
    """The process of a provider; each start has new keys."""

    folder: Path
    port: int
    redirect_uri: str
    claims_in_token: bool = False
    process: subprocess.Popen[str] | None = None

    @property
    def issuer(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def start(self) -> None:
        key, certificate = make_certificate(["127.0.0.1"], now=time.time())
        if not (self.folder / "key.pem").exists():
            write_secret(self.folder / "key.pem", key)
            (self.folder / "certificate.pem").write_bytes(certificate)
        given = {
            "port": self.port,
            "key": str(self.folder / "key.pem"),
            "certificate": str(self.folder / "certificate.pem"),
            "client_id": "aimer2",
            "client_secret": "a secret of the test: %&+",
            "redirect_uri": self.redirect_uri,
            "claims_in_token": self.claims_in_token,
        }
        arguments = ["node", "openid_provider.mjs", json.dumps(given)]
        self.process = subprocess.Popen(arguments, cwd=NPM, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@dataclass
class Browser:
    """Follows redirections and fills in the provider's forms."""

    authorities: Mapping[str, Path]
    """By address: certificates of the same name that vouch for themselves cannot lie side by side."""
    cookies: dict[tuple[str, str], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        contexts = {place: ssl.create_default_context(cafile=str(file)) for place, file in self.authorities.items()}
        self.pools = {place: urllib3.PoolManager(ssl_context=context, retries=False) for place, context in contexts.items()}

    def go(self, address: str, fields: Mapping[str, str] | None = None) -> urllib3.BaseHTTPResponse:
        place = urlsplit(address).netloc
        known = "; ".join(f"{name}={value}" for (where, name), value in self.cookies.items() if where == place)
        headers = {"Cookie": known, "Content-Type": "application/x-www-form-urlencoded"}
        body = None if fields is None else urlencode(fields)
        response = self.pools[place].request("GET" if fields is None else "POST", address, body=body, headers=headers, redirect=False)
        for line in response.headers.getlist("set-cookie"):
            for name, morsel in SimpleCookie(line).items():
                self.cookies[place, name] = morsel.value
        return response

    def log_in(self, address: str, login: str, until: str) -> str:
        """Logs in at the provider and agrees; the first address that begins with ``until``, not visited."""
        response = self.go(address)
        for _ in range(12):
            if 300 <= response.status < 400:
                address = urljoin(address, response.headers["location"])
                if address.startswith(until):
                    return address
                response = self.go(address)
                continue
            page = response.data.decode()
            form = re.search(r'<form[^>]*action="([^"]+)"', page)
            assert form is not None, (response.status, page)
            hidden = dict(re.findall(r'name="(\w+)" value="([^"]*)"', page))
            address = urljoin(address, form[1])
            response = self.go(address, hidden | ({"login": login, "password": "x"} if 'name="login"' in page else {}))
        raise AssertionError("the provider did not send us back")


@pytest.fixture(scope="module")
def node() -> None:
    if shutil.which("node") and (NPM / "node_modules" / "oidc-provider").is_dir():
        return
    message = "no OpenID provider: install node and npm, then `npm ci` in tests/integration"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="module")
def provider(node: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealProvider]:
    made = RealProvider(tmp_path_factory.mktemp("provider"), free_port(), "https://coordinator.test/v1/openid/callback")
    made.start()
    yield made
    made.stop()


@dataclass
class Clock:
    """The machine's, put forward."""

    ahead: float = 0.0

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead


@dataclass
class Door:
    """The coordinator's half without its process, and a browser in front of it."""

    openid: OpenId
    database: Database
    browser: Browser
    clock: Clock

    def log_in(self, login: str, target: str = "/") -> tuple[Account, str]:
        return asyncio.run(self._log_in(login, target))

    async def _log_in(self, login: str, target: str) -> tuple[Account, str]:
        answer, state = await self.answer(login, target)
        return await self.openid.finish(answer, state)

    async def answer(self, login: str, target: str = "/") -> tuple[dict[str, str], str]:
        address, state = await self.openid.start(target)
        back = Browser(self.browser.authorities).log_in(address, login, "https://coordinator.test/")
        return dict(parse_qsl(urlsplit(back).query)), state


@pytest.fixture
def door(provider: RealProvider, tmp_path: Path) -> Iterator[Callable[..., Door]]:
    databases: list[Database] = []

    def make(**changes: Any) -> Door:
        given: dict[str, Any] = {"issuer": provider.issuer, "ca_file": str(provider.folder / "certificate.pem")}
        given |= {"roles": OPERATORS, "create_accounts": True}
        openid = OpenIdSettings(client_id="aimer2", client_secret="secret", **given | changes)
        settings, clock = Settings(name="Test", url="https://coordinator.test", openid=openid), Clock()
        if not (tmp_path / "secret").exists():
            write_secret(tmp_path / "secret", b"a secret of the test: %&+")
        database = Database(f"sqlite:///{tmp_path / 'coordinator.sqlite'}")
        migrate(database)
        databases.append(database)
        records = Records(AuditLog(tmp_path / "audit.jsonl", SigningKey.generate(), clock))
        return Door(
            OpenId(Folder(tmp_path), settings, database, records, clock),
            database,
            Browser({f"127.0.0.1:{provider.port}": provider.folder / "certificate.pem"}),
            clock,
        )

    yield make
    for database in databases:
        database.close()


@pytest.mark.integration
def test_a_first_log_in_makes_an_account_and_each_later_one_gives_the_role_of_its_groups(door: Callable[..., Door]) -> None:
    one = door()
    account, target = one.log_in("olga+others,aimer2-operators", "/studies?state=running")
    assert (account.name, account.role, account.site, target) == ("olga", "operator", None, "/studies?state=running")
    assert account.password == "", "nobody logs in with a password"
    assert one.log_in("olga+others,aimer2-operators")[0].role == "operator"
    assert one.log_in("petra+north-dpo")[0].site == "north"
    with pytest.raises(NotAllowed, match="groups"):
        one.log_in("quinn+others")
    assert one.database.read_now(accounts.read_accounts).keys() == {"olga", "petra"}


@pytest.mark.integration
def test_a_name_that_is_taken_is_not_taken_over(door: Callable[..., Door]) -> None:
    one = door()
    one.database.write_now(accounts.add_account, Account("olga", "auditor", None, "a hash"), 0.0)
    with pytest.raises(NotAllowed, match="another account"):
        one.log_in("olga+aimer2-operators")


@pytest.mark.integration
def test_without_the_setting_only_whom_the_operator_knows_comes_in(door: Callable[..., Door], provider: RealProvider) -> None:
    one = door(roles={}, create_accounts=False)
    with pytest.raises(NotAllowed, match="no account"):
        one.log_in("rita")
    one.database.write_now(accounts.add_account, Account("Rita R", "auditor", issuer=provider.issuer, subject="rita"), 0.0)
    assert one.log_in("rita")[0] == Account("Rita R", "auditor", issuer=provider.issuer, subject="rita")
    assert one.log_in("rita")[0].role == "auditor"


@pytest.mark.integration
def test_an_answer_is_good_once_and_for_the_browser_that_asked(door: Callable[..., Door]) -> None:
    one = door()

    async def story() -> None:
        answer, state = await one.answer("sam+aimer2-operators")
        other, other_state = await one.answer("tom+aimer2-operators")
        for forged, kept in (
            (answer, ""),
            (answer, other_state),
            (answer | {"state": ""}, ""),
            (answer | {"state": "guessed"}, "guessed"),
            (answer | {"code": other["code"]}, state),
            (other | {"iss": "https://another.example"}, other_state),
        ):
            with pytest.raises(NotAuthenticated):
                await one.openid.finish(forged, kept)
        with pytest.raises(NotAuthenticated):
            await one.openid.finish(answer, state)

    asyncio.run(story())
    assert one.database.read_now(accounts.read_accounts) == {}


@pytest.mark.integration
def test_the_provider_takes_new_keys(door: Callable[..., Door], provider: RealProvider) -> None:
    one = door()
    assert one.log_in("uta+aimer2-operators")[0].name == "uta"
    provider.stop()
    provider.claims_in_token = True
    provider.start()
    one.clock.ahead += 61
    assert one.log_in("uta+aimer2-operators")[0].name == "uta"


@pytest.mark.integration
def test_a_provider_sends_the_coordinator_nowhere(door: Callable[..., Door], tmp_path: Path) -> None:
    """An address that it redirects to may lie inside the consortium's network: it is never asked."""
    asked: list[str] = []

    class Redirecting(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(302)
            self.send_header("Location", "/inside")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None: ...

    key, certificate = make_certificate(["127.0.0.1"], now=time.time())
    write_secret(tmp_path / "key.pem", key)
    (tmp_path / "certificate.pem").write_bytes(certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate.pem", tmp_path / "key.pem")
    with ThreadingHTTPServer(("127.0.0.1", 0), Redirecting) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        issuer = f"https://127.0.0.1:{server.server_address[1]}"
        with pytest.raises(Unreachable, match="status 302"):
            asyncio.run(door(issuer=issuer, ca_file=str(tmp_path / "certificate.pem")).openid.start("/"))
        server.shutdown()
    assert asked == ["/.well-known/openid-configuration"]


@pytest.mark.integration
def test_a_browser_goes_the_whole_way(node: None, make_server: Callable[..., Server], tmp_path: Path) -> None:
    server = make_server()
    provider = RealProvider(tmp_path, free_port(), f"{server.url}/v1/openid/callback")
    provider.start()
    try:
        settings = Folder(server.folder).read_settings()
        openid = OpenIdSettings(
            issuer=provider.issuer,
            client_id="aimer2",
            client_secret="secret",
            name="The university's log-in",
            roles=OPERATORS,
            create_accounts=True,
            ca_file=str(tmp_path / "certificate.pem"),
        )
        write_secret(server.folder / "secret", b"a secret of the test: %&+")
        Folder(server.folder).write_settings(settings.model_copy(update={"openid": openid}))
        assert Folder(server.folder).read_settings().openid == openid
        server.start()
        page = Client(server).call("GET", "/login?back=/studies%3Fa=b").data.decode()
        assert 'href="/v1/openid/login?next=/studies%3Fa%3Db"' in page and "The university&#39;s log-in" in page
        assert Client(server).get("/v1/openid") == {"name": "The university's log-in"}
        places = {provider.port: tmp_path / "certificate.pem", server.port: server.folder / "tls" / "certificate.pem"}
        browser = Browser({f"127.0.0.1:{port}": file for port, file in places.items()})
        back = browser.log_in(f"{server.url}/v1/openid/login?next=/v1/session", "olga+aimer2-operators", f"{server.url}/")
        answered = browser.go(back)
        assert (answered.status, answered.headers["location"], answered.headers["referrer-policy"]) == (303, "/v1/session", "no-referrer")
        me = browser.go(urljoin(back, answered.headers["location"])).json()
        assert (me["user"], me["role"], me["kind"]) == ("olga", "operator", "browser")
        assert browser.go(back).status == 401, "the same answer again"
        code = dict(parse_qsl(urlsplit(back).query))["code"]
        assert code not in server.log()
        assert Client(server).call("GET", "/v1/openid/login?next=//evil.example").status == 400
    finally:
        provider.stop()


# -- words that must not be believed

NOW = 1_800_000_000
KEY = ec.generate_private_key(ec.SECP256R1())
JWK = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(KEY.public_key())) | {"kid": "one", "use": "sig", "alg": "ES256"}
CLAIMS = {"iss": "https://provider.test", "aud": "aimer2", "sub": "ada", "nonce": "n", "iat": NOW - 5, "exp": NOW + 300}


def check(token: str, keys: list[Any] | None = None) -> dict[str, Any]:
    return check_id_token(token, [JWK] if keys is None else keys, issuer="https://provider.test", client_id="aimer2", nonce="n", now=float(NOW))


def signed(key: Any = KEY, algorithm: str = "ES256", kid: str = "one", **changes: Any) -> str:
    claims = {name: value for name, value in (CLAIMS | changes).items() if value is not None}
    return jwt.encode(claims, key, algorithm=algorithm, headers={"kid": kid})


def test_a_good_word_is_believed() -> None:
    assert check(signed())["sub"] == "ada"
    assert check(signed(aud=["aimer2", "other"], azp="aimer2"))["sub"] == "ada"
    assert check(signed(exp=NOW - 30))["sub"] == "ada", "clocks differ by up to a minute"


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://evil.test"},
        {"iss": None},
        {"aud": "other"},
        {"aud": ["aimer2", "other"]},
        {"azp": "other"},
        {"nonce": "m"},
        {"nonce": None},
        {"sub": None},
        {"sub": ""},
        {"sub": 7},
        {"exp": NOW - 61},
        {"exp": None},
        {"exp": "never"},
        {"iat": NOW + 61},
        {"iat": None},
        {"nbf": NOW + 61},
    ],
)
def test_a_word_for_another_client_time_or_log_in_is_not(changes: dict[str, Any]) -> None:
    if changes.get("nbf") or not isinstance(changes.get("sub", ""), str):
        # The library itself is stricter with some.
        token = jwt.api_jws.encode(json.dumps(CLAIMS | changes).encode(), KEY, algorithm="ES256", headers={"kid": "one"})
    elif "never" in changes.values():
        token = jwt.api_jws.encode(json.dumps(CLAIMS | changes).encode(), KEY, algorithm="ES256", headers={"kid": "one"})
    else:
        token = signed(**changes)
    with pytest.raises(NotAuthenticated):
        check(token)


def test_a_signature_of_another_kind_or_key_is_not() -> None:
    public = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    unsigned = signed(algorithm="ES256").rsplit(".", 1)[0].split(".")[1]
    header = base64url.encode(b'{"alg":"HS256","kid":"one","typ":"JWT"}')
    by_public = base64url.encode(hmac.digest(public, f"{header}.{unsigned}".encode(), "sha256"))
    stranger = ec.generate_private_key(ec.SECP256R1())
    rsa_key = rsa.generate_private_key(65537, 2048)
    tokens = [
        jwt.encode(CLAIMS, "", algorithm="none", headers={"kid": "one"}),
        f"{header}.{unsigned}.{by_public}",
        signed(stranger),
        signed(rsa_key, "RS256"),
        signed()[:-4] + "AAAA",
        "x.y.z",
        "",
        "ä",
    ]
    for token in tokens:
        with pytest.raises(NotAuthenticated):
            check(token)
    with pytest.raises(UnknownKey):
        check(signed(kid="two"))
    with pytest.raises(UnknownKey):
        check(signed(), [JWK | {"use": "enc"}])


def test_a_description_of_another_issuer_or_without_tls_is_refused() -> None:
    good = {
        "issuer": "https://p.test",
        "authorization_endpoint": "https://p.test/a",
        "token_endpoint": "https://p.test/t",
        "jwks_uri": "https://p.test/j",
    }
    assert Provider.read("https://p.test", json.dumps(good).encode()).userinfo_endpoint is None
    for change in ({"issuer": "https://q.test"}, {"token_endpoint": "http://p.test/t"}, {"jwks_uri": "file:///etc/passwd"}, {"userinfo_endpoint": 7}):
        with pytest.raises(BadInput):
            Provider.read("https://p.test", json.dumps(good | change).encode())
    for document in (b"[]", b"{", b"\xff"):
        with pytest.raises(BadInput):
            Provider.read("https://p.test", document)


@pytest.mark.parametrize("target", ["//evil.test", "https://evil.test", "/\\evil.test", "", "studies", "/a\r\nSet-Cookie: x", "/ä", "/" + "a" * 500])
def test_nobody_is_sent_to_another_place(target: str) -> None:
    assert not is_own_page(target)


@pytest.mark.parametrize(
    "wrong",
    [
        {"issuer": "http://p.test"},
        {"roles": {"g": "king"}},
        {"roles": {"g": "operator:north"}},
        {"roles": {"g": "site-administrator"}},
        {"create_accounts": True},
        {"scopes": ["profile"]},
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises((AimerError, ValueError)):
        OpenIdSettings(**({"issuer": "https://p.test", "client_id": "c"} | wrong))
