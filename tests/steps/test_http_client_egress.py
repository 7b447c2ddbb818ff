"""Names and addresses: DNS that fails, hangs or lies, closed addresses, and TLS."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from taskforge.security.egress import EgressPolicy, parse_networks
from taskforge.steps.http_client import HttpClient, HttpFailure, Request
from taskforge.steps.http_connect import SystemLookup
from tests.support.raw_server import Peer, Received, raw_server


async def failure_of(client: HttpClient, request: Request) -> HttpFailure:
    with pytest.raises(HttpFailure) as caught:
        await client.request(request)
    return caught.value


async def ok(peer: Peer, _: Received) -> None:
    await peer.answer(b"hi")


class Names:
    """A name server in memory: answers in turn, the last one again and again; None never answers."""

    def __init__(self, **answers: list[Sequence[str] | Exception | None]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    async def __call__(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        answers = self.answers[host.partition(".")[0]]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if answer is None:
            await asyncio.Event().wait()
        if isinstance(answer, Exception):
            raise answer
        return answer or ()


def client_with(names: Names, policy: EgressPolicy | None = None, dns_cache_ms: int = 0) -> HttpClient:
    return HttpClient(policy or EgressPolicy(), lookup=names, dns_timeout_ms=100, dns_cache_ms=dns_cache_ms)


async def test_a_name_is_resolved_and_sent_as_host() -> None:
    async with raw_server(ok) as server, client_with(Names(api=[["127.0.0.1"]])) as client:
        response = await client.request(Request("GET", server.url(host="api.example")))
    assert response.body == b"hi"
    assert server.requests[0].header("host") == f"api.example:{server.port}"


@pytest.mark.parametrize(
    "error",
    [OSError(-2, "Name or service not known"), OSError(-3, "Temporary failure"), UnicodeError("label too long")],
)
async def test_a_name_that_does_not_resolve_is_a_network_failure_that_was_not_sent(error: Exception) -> None:
    async with client_with(Names(gone=[error])) as client:
        failure = await failure_of(client, Request("POST", "http://gone.example/", body=b"x"))
    assert (failure.code, failure.retry_class, failure.sent) == ("DNS_FAILED", "network", False)
    assert "gone.example" in failure.message


async def test_a_name_without_addresses_is_a_dns_failure() -> None:
    async with client_with(Names(empty=[[]])) as client:
        assert (await failure_of(client, Request("GET", "http://empty.example/"))).code == "DNS_FAILED"


async def test_a_hanging_name_server_is_bounded_and_other_hosts_go_on() -> None:
    names = Names(hang=[None], api=[["127.0.0.1"]])
    async with raw_server(ok) as server, client_with(names) as client:
        stuck = asyncio.create_task(failure_of(client, Request("GET", "http://hang.example/")))
        async with asyncio.timeout(5):
            while not names.asked:
                await asyncio.sleep(0)
        assert (await client.request(Request("GET", server.url(host="api.example")))).body == b"hi"
        failure = await stuck
    assert (failure.code, failure.sent) == ("DNS_FAILED", False)
    assert "0.1 s" in failure.message


async def test_the_overall_timeout_bounds_dns() -> None:
    async with HttpClient(EgressPolicy(), lookup=Names(hang=[None])) as client:
        failure = await failure_of(client, Request("GET", "http://hang.example/", timeout_ms=50))
    assert (failure.code, failure.sent) == ("ATTEMPT_TIMEOUT", False)


async def test_lookups_of_one_name_are_shared_and_kept_for_a_moment() -> None:
    names = Names(api=[["127.0.0.1"]])
    async with raw_server(ok) as server, client_with(names, dns_cache_ms=60_000) as client:
        url = server.url(host="api.example")
        await asyncio.gather(*(client.request(Request("GET", url, fresh=False)) for _ in range(5)))
        assert server.connections == 5
    assert names.asked == ["api.example"]


async def test_a_dead_first_address_does_not_hide_a_living_second_one() -> None:
    async with raw_server(ok) as server, client_with(Names(api=[["127.0.0.2", "127.0.0.1"]])) as client:
        assert (await client.request(Request("GET", server.url(host="api.example")))).body == b"hi"


async def test_all_addresses_refused_is_a_refused_connection() -> None:
    async with client_with(Names(api=[["127.0.0.2", "127.0.0.3"]])) as client:
        failure = await failure_of(client, Request("GET", "http://api.example:1/"))
    assert (failure.code, failure.sent) == ("CONNECT_REFUSED", False)


@pytest.mark.parametrize("address", ["169.254.169.254", "::ffff:169.254.169.254", "127.0.0.1", "fe80::1%lo"])
async def test_a_name_that_leads_to_a_closed_address_is_denied_and_never_connected(address: str) -> None:
    policy = EgressPolicy(deny=parse_networks(["127.0.0.1"]))
    async with raw_server(ok) as server, client_with(Names(evil=[[address]]), policy) as client:
        failure = await failure_of(client, Request("GET", server.url(host="evil.example")))
        assert server.connections == 0
    assert (failure.code, failure.retry_class, failure.sent) == ("EGRESS_DENIED", None, False)


async def test_of_several_addresses_only_the_open_ones_are_used() -> None:
    names = Names(mixed=[["169.254.169.254", "127.0.0.9", "127.0.0.1"]])
    policy = EgressPolicy(deny=parse_networks(["127.0.0.9"]))
    async with (
        raw_server(ok) as server,
        raw_server(ok, host="127.0.0.9", port=server.port) as closed,
        client_with(names, policy) as client,
    ):
        assert (await client.request(Request("GET", server.url(host="mixed.example")))).body == b"hi"
        assert closed.connections == 0


async def test_closed_addresses_of_a_name_neither_crowd_out_nor_rename_the_fate_of_its_open_one() -> None:
    closed = [f"169.254.1.{number}" for number in range(20)]
    names = Names(a=[[*closed, "127.0.0.1"]], b=[[*closed, "127.0.0.2"]])
    async with raw_server(ok) as server, client_with(names) as client:
        assert (await client.request(Request("GET", server.url(host="a.example")))).body == b"hi"
        failure = await failure_of(client, Request("GET", server.url(host="b.example")))
    assert (failure.code, failure.retry_class) == ("CONNECT_REFUSED", "network")


async def test_a_name_that_changes_its_address_is_checked_at_each_connection() -> None:
    names = Names(rebind=[["127.0.0.1"], ["127.0.0.9"]])
    policy = EgressPolicy(deny=parse_networks(["127.0.0.9"]))
    async with (
        raw_server(ok) as server,
        raw_server(ok, host="127.0.0.9", port=server.port) as closed,
        client_with(names, policy) as client,
    ):
        url = server.url(host="rebind.example")
        assert (await client.request(Request("GET", url, fresh=True))).body == b"hi"
        assert (await failure_of(client, Request("GET", url, fresh=True))).code == "EGRESS_DENIED"
        assert closed.connections == 0


class ForgetfulPolicy(EgressPolicy):
    """Lets everything through when it is asked for the first time, as a check before the connection would."""

    asked: ClassVar[list[str]] = []

    def refusal(self, ip: str, port: int) -> str | None:
        self.asked.append(ip)
        return None if len(self.asked) == 1 else super().refusal(ip, port)


async def test_the_check_stands_at_the_connection_and_not_only_in_dns() -> None:
    policy = ForgetfulPolicy(deny=parse_networks(["127.0.0.1"]))
    policy.asked.clear()
    async with raw_server(ok) as server, client_with(Names(api=[["127.0.0.1"]]), policy) as client:
        failure = await failure_of(client, Request("GET", server.url(host="api.example")))
        assert server.connections == 0
    assert (failure.code, failure.sent) == ("EGRESS_DENIED", False)
    assert policy.asked == ["127.0.0.1", "127.0.0.1"]


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.1", "127.0.0.1.", "2130706433", "0x7f000001", "0x7f.1", "017700000001", "0177.0.0.01",
     "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "①②⑦.⓪.⓪.①", "127。0。0。1", "localhost", "LOCALHOST"],
)  # fmt: skip
async def test_loopback_in_every_spelling_is_closed_where_loopback_is_closed(host: str) -> None:
    policy = EgressPolicy(allow_loopback=False)
    async with raw_server(ok) as server, HttpClient(policy) as client, HttpClient(EgressPolicy()) as open_client:
        failure = await failure_of(client, Request("GET", server.url(host=host)))
        assert (failure.code, failure.sent) == ("EGRESS_DENIED", False)
        assert server.connections == 0
        if not host.startswith("["):
            assert (await open_client.request(Request("GET", server.url(host=host)))).body == b"hi"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "[::ffff:127.0.0.1]"])
async def test_the_server_itself_is_closed_and_its_neighbour_is_not(host: str) -> None:
    async with raw_server(ok) as own, raw_server(ok) as neighbour:
        policy = EgressPolicy(own_addresses=frozenset({("0.0.0.0", own.port)}))
        async with HttpClient(policy) as client:
            failure = await failure_of(client, Request("GET", own.url(host=host)))
            assert failure.code == "EGRESS_DENIED"
            assert "allow_self" in failure.message
            assert own.connections == 0
            assert (await client.request(Request("GET", neighbour.url()))).body == b"hi"


async def test_proxy_variables_and_netrc_are_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password s3cret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    async with raw_server(ok) as proxy, raw_server(ok) as server, HttpClient(EgressPolicy()) as client:
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url())
        await client.request(Request("GET", server.url()))
        assert proxy.connections == 0
    assert server.requests[0].header("authorization") is None


async def test_the_system_resolves_localhost_and_refuses_nonsense() -> None:
    lookup = SystemLookup(max_threads=1)
    assert set(await lookup("localhost")) <= {"127.0.0.1", "::1"}
    with pytest.raises((OSError, UnicodeError)):
        await lookup("a" * 70 + ".invalid")
    assert set(await lookup("localhost")) <= {"127.0.0.1", "::1"}  # its one thread is free again


async def test_a_machine_without_threads_is_a_dns_failure_and_leaves_no_lookup_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lookup = SystemLookup(max_threads=1)
    with monkeypatch.context() as without:

        def refuse(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        without.setattr(threading.Thread, "start", refuse)
        async with HttpClient(EgressPolicy(), lookup=lookup) as client:
            failure = await failure_of(client, Request("GET", "http://localhost/"))
    assert (failure.code, failure.retry_class, failure.sent) == ("DNS_FAILED", "network", False)
    async with asyncio.timeout(5):
        assert set(await lookup("localhost")) <= {"127.0.0.1", "::1"}


def certificate(folder: Path, *names: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context with a self-signed certificate for `names`, and a client's that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    start = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    alternatives: list[x509.GeneralName] = []
    for name in names:
        is_ip = name[0].isdigit()
        alternatives.append(x509.IPAddress(ipaddress.ip_address(name)) if is_ip else x509.DNSName(name))
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start.replace(year=2120))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = folder / "server.pem"
    pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + made.public_bytes(serialization.Encoding.PEM)
    )
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(pem)
    return serving, ssl.create_default_context(cafile=str(pem))


async def test_https_works_with_a_trusted_certificate(tmp_path: Path) -> None:
    serving, trusting = certificate(tmp_path, "127.0.0.1", "api.example")
    names = Names(api=[["127.0.0.1"]])
    async with raw_server(ok, tls=serving) as server, HttpClient(EgressPolicy(), tls=trusting, lookup=names) as client:
        assert (await client.request(Request("GET", server.url()))).body == b"hi"
        assert (await client.request(Request("GET", server.url(host="api.example")))).body == b"hi"


async def test_an_untrusted_certificate_and_a_wrong_name_are_not_retried_and_nothing_is_sent(tmp_path: Path) -> None:
    serving, trusting = certificate(tmp_path, "other.example")
    async with (
        raw_server(ok, tls=serving) as server,
        HttpClient(EgressPolicy()) as plain,
        HttpClient(EgressPolicy(), tls=trusting) as trusted,
    ):
        for client in (plain, trusted):
            failure = await failure_of(client, Request("POST", server.url(), body=b"x"))
            assert (failure.code, failure.retry_class, failure.sent) == ("TLS_FAILED", None, False)
            assert "certificate" in failure.message
        assert server.requests == []


async def tls_failure(answer: bytes, reset: bool) -> HttpFailure:
    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        peer = Peer(reader, writer, 1)
        await peer.send(answer)
        if reset:
            peer.reset()
        peer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with server, HttpClient(EgressPolicy()) as client:
        port = server.sockets[0].getsockname()[1]
        return await failure_of(client, Request("GET", f"https://127.0.0.1:{port}/", timeout_ms=5_000))


async def test_a_port_that_speaks_no_tls_is_a_tls_failure() -> None:
    failure = await tls_failure(b"HTTP/1.1 400 Bad Request\r\n\r\n", reset=False)
    assert (failure.code, failure.retry_class, failure.sent) == ("TLS_FAILED", None, False)


@pytest.mark.parametrize("reset", [False, True])
async def test_a_connection_that_breaks_in_the_handshake_is_a_network_failure(reset: bool) -> None:
    failure = await tls_failure(b"", reset)
    assert (failure.code, failure.retry_class, failure.sent) == ("CONNECTION_RESET", "network", False)
