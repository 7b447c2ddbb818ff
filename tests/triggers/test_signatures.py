"""Signatures of webhooks: the published examples, what each specification refuses, and that nothing else passes."""

from __future__ import annotations

import base64
import datetime
import json
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from taskforge.triggers.signature_hints import find_hint
from taskforge.triggers.signatures import Verdict, parse_verify, sign, verify

GITHUB = parse_verify({"scheme": "github"})
STRIPE = parse_verify({"scheme": "stripe"})
SLACK = parse_verify({"scheme": "slack"})
STANDARD = parse_verify({"scheme": "standard"})
SLACK_BODY = (
    b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V"
    b"&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text="
    b"&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN"
    b"&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"
)
SLACK_HEADERS = [
    ("X-Slack-Request-Timestamp", "1531420618"),
    ("X-Slack-Signature", "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"),
]
SLACK_SECRET = b"8f742231b10e8888abcd99yyyzzz85a5"
STANDARD_HEADERS = [
    ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek"),
    ("webhook-timestamp", "1614265330"),
    ("webhook-signature", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
]
STANDARD_SECRET = b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
STANDARD_BODY = b'{"test": 2432232314}'
GITHUB_HEADERS = [
    ("X-GitHub-Delivery", "72d3162e-cc78-11e3-81ab-4c9367dc0958"),
    ("X-Hub-Signature-256", "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"),
]
GITHUB_SECRET = b"It's a Secret to Everybody"
STRIPE_SECRET = b"whsec_test_secret"
STRIPE_BODY = b'{\n  "id": "evt_test_webhook",\n  "object": "event"\n}'


def judge(
    config: Any, secrets: bytes | list[bytes], headers: Any, body: bytes, at: float, query: dict[str, str] | None = None
) -> Verdict:
    return verify(
        config, [secrets] if isinstance(secrets, bytes) else secrets, headers, body, query or {}, int(at * 1000)
    )


# ---- the published examples


def test_the_example_in_githubs_documentation_is_verified() -> None:
    verdict = judge(GITHUB, GITHUB_SECRET, GITHUB_HEADERS, b"Hello, World!", 0)
    assert verdict == Verdict(
        True,
        "VALID",
        "the sender is verified",
        "72d3162e-cc78-11e3-81ab-4c9367dc0958",
        redact=("x-hub-signature-256",),
    )


def test_the_example_in_slacks_documentation_is_verified() -> None:
    assert judge(SLACK, SLACK_SECRET, SLACK_HEADERS, SLACK_BODY, 1531420618).code == "VALID"


def test_the_example_of_standard_webhooks_is_verified() -> None:
    verdict = judge(STANDARD, STANDARD_SECRET, STANDARD_HEADERS, STANDARD_BODY, 1614265330)
    assert (verdict.valid, verdict.delivery_id) == (True, "msg_p5jXN8AQM9LWM0D4loKWxJek")


def test_the_example_in_the_tests_of_a_client_library_of_stripe_is_verified() -> None:
    # The tests of the client library async-stripe have this event, its secret and its signature.
    line = {"id": "ii_123", "object": "invoiceitem", "amount": 1000, "currency": "usd", "customer": "cus_123",
            "date": 1533204620, "description": "Test Invoice Item", "discountable": False, "invoice": "in_123",
            "livemode": False, "metadata": {}, "period": {"start": 1533204620, "end": 1533204620},
            "proration": False, "quantity": 3}  # fmt: skip
    event = {"id": "evt_123", "object": "event", "account": "acct_123", "api_version": "2017-05-25",
             "created": 1533204620, "data": {"object": line}, "livemode": False, "pending_webhooks": 1,
             "request": {"id": "req_123", "idempotency_key": "idempotency-key-123"},
             "type": "invoiceitem.created"}  # fmt: skip
    body = json.dumps(event, indent=2).encode() + b"\n"
    signature = "82216eca827bcb7b34b8055eb2d2d9e6bc13b9ac39ded14a61e69f70c565f53a"
    headers = [("Stripe-Signature", f"t=1533204620,v1={signature},v0={'63' * 32}")]
    verdict = judge(STRIPE, b"webhook_secret", headers, body, 1533204620)
    assert (verdict.valid, verdict.delivery_id) == (True, "evt_123")
    assert judge(STRIPE, b"webhook_secret", headers, body[:-1], 1533204620).code == "SIGNATURE_MISMATCH"


def test_a_signature_made_as_stripes_documentation_says_is_verified() -> None:
    # It publishes no secret; this is `printf '%s' "1492774577.$BODY" | openssl dgst -sha256 -hmac "$SECRET"`.
    signature = "c2f890decbc5ede7c5060bb9a6d31e0626a4342bacb9aeae2adb1bcea72f9812"
    headers = [("Stripe-Signature", f"t=1492774577,v1={signature},v0={'6f' * 32}")]
    verdict = judge(STRIPE, STRIPE_SECRET, headers, STRIPE_BODY, 1492774577)
    assert (verdict.valid, verdict.delivery_id) == (True, "evt_test_webhook")


# ---- what is refused, and why

SIGNED = [
    (GITHUB, GITHUB_SECRET, None),
    (STRIPE, STRIPE_SECRET, "Stripe-Signature"),
    (SLACK, SLACK_SECRET, "X-Slack-Signature"),
    (STANDARD, STANDARD_SECRET, "webhook-signature"),
    (parse_verify({"scheme": "hmac", "header": "X-Sig"}), b"key", None),
    (
        parse_verify({"scheme": "hmac", "header": "X-Sig", "prefix": "v2=", "timestamp": {"header": "X-At"}}),
        b"key",
        "X-Sig",
    ),
]
NOW = 1_800_000_000


@pytest.mark.parametrize(("config", "secret", "timed"), SIGNED, ids=lambda value: getattr(value, "scheme", None))
def test_tampering_wrong_and_missing_parts_are_refused(config: Any, secret: bytes, timed: str | None) -> None:
    headers = sign(config, secret, b"body", NOW * 1000, "id-1")
    assert judge(config, secret, headers, b"body", NOW).valid
    assert judge(config, secret, headers, b"body ", NOW).code == "SIGNATURE_MISMATCH"
    other = STANDARD_SECRET[:-1] + b"x" if config is STANDARD else b"other"
    assert judge(config, other, headers, b"body", NOW).code == "SIGNATURE_MISMATCH"
    for name, _ in headers:
        if name != "X-GitHub-Delivery":
            rest = [pair for pair in headers if pair[0] != name]
            assert judge(config, secret, rest, b"body", NOW).code == "HEADER_MISSING"
            twice = [*headers, *(pair for pair in headers if pair[0] == name)]
            assert judge(config, secret, twice, b"body", NOW).code == "HEADER_REPEATED"
            assert not judge(config, secret, [*rest, (name, "é\udc80\x00 %s, ")], b"body", NOW).valid
            assert judge(config, secret, [*rest, (name, "  ")], b"body", NOW).code == "HEADER_MISSING"


@pytest.mark.parametrize(("config", "secret", "timed"), SIGNED, ids=lambda value: getattr(value, "scheme", None))
def test_old_and_future_times_are_refused_beyond_five_minutes(config: Any, secret: bytes, timed: str | None) -> None:
    headers = sign(config, secret, b"body", NOW * 1000, "id-1")
    expected = {-301: "TIMESTAMP_IN_FUTURE", -300: "VALID", 300: "VALID", 300.001: "TIMESTAMP_TOO_OLD"}
    for offset, code in expected.items():
        assert judge(config, secret, headers, b"body", NOW + offset).code == (code if timed else "VALID")


@pytest.mark.parametrize(("config", "secret", "timed"), SIGNED, ids=lambda value: getattr(value, "scheme", None))
def test_any_of_several_secrets_may_have_been_used(config: Any, secret: bytes, timed: str | None) -> None:
    new = b"whsec_bmV3IG5ldyBuZXc="
    headers = sign(config, secret, b"body", NOW * 1000, "id-1")
    assert judge(config, [new, secret], headers, b"body", NOW).valid
    assert judge(config, [secret, new], headers, b"body", NOW).valid
    assert judge(config, [new], headers, b"body", NOW).code == "SIGNATURE_MISMATCH"


@pytest.mark.parametrize(("config", "secret", "timed"), SIGNED, ids=lambda value: getattr(value, "scheme", None))
def test_no_secret_and_an_empty_one_verify_nothing(config: Any, secret: bytes, timed: str | None) -> None:
    headers = sign(config, secret, b"body", NOW * 1000, "id-1")
    assert judge(config, [], headers, b"body", NOW).code == "NO_SECRET"
    assert judge(config, [b""], headers, b"body", NOW).code == "EMPTY_SECRET"
    assert judge(config, [secret, b""], headers, b"body", NOW).code == "EMPTY_SECRET"
    if config is STANDARD:
        assert judge(config, [b"whsec_"], headers, b"body", NOW).code == "EMPTY_SECRET"


def test_one_of_several_signatures_is_enough() -> None:
    good = dict(sign(STANDARD, STANDARD_SECRET, b"b", NOW * 1000, "m"))
    first = good["webhook-signature"]
    for value in (f"v1,bm9ldHU= {first}", f"{first} v1,bm9ldHU=", f"v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw {first}"):
        headers = list({**good, "webhook-signature": value}.items())
        assert judge(STANDARD, STANDARD_SECRET, headers, b"b", NOW).valid
    [(name, value)] = sign(STRIPE, STRIPE_SECRET, b"b", NOW * 1000)
    time, _, signature = value.partition(",")
    for text in (f"{time},v1={'0' * 64},{signature}", f"{time},{signature},v1={'0' * 64}", f"{signature},{time}"):
        assert judge(STRIPE, STRIPE_SECRET, [(name, text)], b"b", NOW).valid
    config = parse_verify({"scheme": "hmac", "header": "X-Sig", "prefix": "sha256="})
    [(name, value)] = sign(config, b"key", b"b", NOW * 1000)
    for text in (f"sha256={'0' * 64}, {value}", f"{value} sha256=00", f"sha256=,{value}"):
        assert judge(config, b"key", [(name, text)], b"b", NOW).valid


@pytest.mark.parametrize(
    ("config", "header", "value", "code"),
    [
        (STANDARD, "webhook-signature", "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/STB1m", "SIGNATURE_UNSUPPORTED"),
        (STANDARD, "webhook-signature", "v2,abc", "SIGNATURE_MALFORMED"),
        (STANDARD, "webhook-signature", "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", "SIGNATURE_MALFORMED"),
        (STANDARD, "webhook-signature", "v1, " * 20, "SIGNATURE_MALFORMED"),
        (STANDARD, "webhook-signature", "v1,a " * 51, "SIGNATURE_MALFORMED"),
        (STANDARD, "webhook-timestamp", "soon", "TIMESTAMP_MALFORMED"),
        (STANDARD, "webhook-timestamp", "-1800000000", "TIMESTAMP_MALFORMED"),
        (STANDARD, "webhook-timestamp", "1_800_000_000", "TIMESTAMP_MALFORMED"),
        (STANDARD, "webhook-timestamp", "１８０００００００００"[:10], "TIMESTAMP_MALFORMED"),
        (STANDARD, "webhook-timestamp", "9" * 400, "TIMESTAMP_MALFORMED"),
        (STANDARD, "webhook-timestamp", "9" * 15, "TIMESTAMP_IN_FUTURE"),
        (STRIPE, "Stripe-Signature", "v1=" + "0" * 64, "SIGNATURE_MALFORMED"),
        (STRIPE, "Stripe-Signature", "t=1800000000", "SIGNATURE_UNSUPPORTED"),
        (STRIPE, "Stripe-Signature", "t=1800000000,v0=" + "0" * 64, "SIGNATURE_UNSUPPORTED"),
        (STRIPE, "Stripe-Signature", "t=1800000000,t=1800000000,v1=" + "0" * 64, "SIGNATURE_MALFORMED"),
        (STRIPE, "Stripe-Signature", "t=,v1=" + "0" * 64, "TIMESTAMP_MALFORMED"),
        (SLACK, "X-Slack-Signature", "a2114d57b48eac39b9ad189dd8316235", "SIGNATURE_MALFORMED"),
        (SLACK, "X-Slack-Request-Timestamp", "1800000000.5", "TIMESTAMP_MALFORMED"),
        (GITHUB, "X-Hub-Signature-256", "757107ea0eb2509fc211221cce984b8a", "SIGNATURE_MALFORMED"),
        (GITHUB, "X-Hub-Signature-256", "sha1=757107ea0eb2509fc211221cce984b8a", "SIGNATURE_MALFORMED"),
    ],
)
def test_a_malformed_header_says_what_is_wrong(config: Any, header: str, value: str, code: str) -> None:
    headers = {**dict(sign(config, STANDARD_SECRET, b"b", NOW * 1000, "m")), header: value}
    verdict = judge(config, STANDARD_SECRET, list(headers.items()), b"b", NOW)
    assert (verdict.valid, verdict.code) == (False, code)
    assert header.lower() in verdict.reason or "asymmetric" in verdict.reason


def test_secrets_of_standard_webhooks_are_base64_with_or_without_their_prefix() -> None:
    for secret in (STANDARD_SECRET, STANDARD_SECRET.removeprefix(b"whsec_"), STANDARD_SECRET + b"\n"):
        assert judge(STANDARD, secret, STANDARD_HEADERS, STANDARD_BODY, 1614265330).valid
    for secret, code in ((b"not base64!", "SECRET_MALFORMED"), (b"whpk_AAAA", "SIGNATURE_UNSUPPORTED")):
        assert judge(STANDARD, secret, STANDARD_HEADERS, STANDARD_BODY, 1614265330).code == code


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "sha512"])
@pytest.mark.parametrize("encoding", ["hex", "base64"])
@pytest.mark.parametrize("timestamp", [None, {"header": "X-At"}, {"header": "X-At", "format": "v1:{timestamp}:{body}"}])
def test_every_form_of_generic_hmac_signs_and_verifies(algorithm: str, encoding: str, timestamp: Any) -> None:
    wanted = {"scheme": "hmac", "header": "X-Sig", "algorithm": algorithm, "encoding": encoding, "timestamp": timestamp}
    config = parse_verify(wanted)
    body = b'{"text": "{timestamp} {body}"}\xff\x00'
    headers = sign(config, b"key", body, NOW * 1000)
    assert judge(config, b"key", headers, body, NOW).valid
    [*times, (name, value)] = headers
    flipped = [*times, (name, value.swapcase())]
    assert judge(config, b"key", flipped, body, NOW).valid == (encoding == "hex")


def test_generic_times_in_milliseconds_are_understood() -> None:
    config = parse_verify({"scheme": "hmac", "header": "X-Sig", "timestamp": {"header": "X-At", "tolerance": "10s"}})
    import hmac

    at = str(NOW * 1000 + 500)
    headers = [("X-At", at), ("X-Sig", hmac.digest(b"key", at.encode() + b".b", "sha256").hex())]
    assert judge(config, b"key", headers, b"b", NOW).valid
    assert judge(config, b"key", headers, b"b", NOW + 11).code == "TIMESTAMP_TOO_OLD"


def test_a_token_is_taken_from_a_header_or_a_parameter() -> None:
    header = parse_verify({"scheme": "token", "header": "X-Gitlab-Token"})
    assert judge(header, b"s3cret", [("x-gitlab-token", "s3cret")], b"", 0).valid
    assert judge(header, b"s3cret", [("x-gitlab-token", "s3cre")], b"", 0).code == "TOKEN_MISMATCH"
    assert judge(header, "schlüssel".encode(), [("x-gitlab-token", "schlÃ¼ssel")], b"", 0).valid
    parameter = parse_verify({"scheme": "token", "parameter": "key"})
    assert judge(parameter, b"s3cret", [], b"", 0, {"key": "s3cret"}).valid
    assert judge(parameter, b"s3cret", [], b"", 0, {"key": "\udc80"}).code == "TOKEN_MISMATCH"
    assert judge(parameter, b"s3cret", [], b"", 0, {}).code == "PARAMETER_MISSING"
    assert (header.redact, parameter.redact) == (("x-gitlab-token",), ("key",))
    bearer = parse_verify({"scheme": "token", "header": "Authorization"})
    for value in ("s3cret", "Bearer s3cret", "bearer s3cret"):
        assert judge(bearer, b"s3cret", [("authorization", value)], b"", 0).valid
    assert judge(bearer, b"s3cret", sign(bearer, b"s3cret", b"", 0), b"", 0).valid
    prefixed = parse_verify({"scheme": "token", "header": "X-Auth", "prefix": "key="})
    assert judge(prefixed, b"s3cret", sign(prefixed, b"s3cret", b"", 0), b"", 0).valid
    assert judge(prefixed, b"s3cret", [("x-auth", "s3cret")], b"", 0).code == "TOKEN_MALFORMED"


def test_basic_takes_user_and_password() -> None:
    config = parse_verify({"scheme": "basic", "user": "ci"})
    headers = sign(config, b"pass:word", b"", 0)
    assert headers == [("Authorization", "Basic " + base64.b64encode(b"ci:pass:word").decode())]
    assert judge(config, b"pass:word", headers, b"", 0).valid
    assert judge(config, b"password", headers, b"", 0).code == "TOKEN_MISMATCH"
    assert judge(parse_verify({"scheme": "basic"}), b"ci:pass:word", headers, b"", 0).valid
    assert judge(config, b"x", [("Authorization", "Bearer x")], b"", 0).code == "TOKEN_MALFORMED"


def test_none_verifies_nothing_and_says_so() -> None:
    verdict = judge(parse_verify("none"), [], [], b"", 0)
    assert (verdict.valid, verdict.code, verdict.delivery_id) == (True, "NOT_VERIFIED", None)


def test_slacks_challenge_is_answered_only_when_it_is_signed() -> None:
    body = json.dumps({"type": "url_verification", "challenge": "3eZbrw1a"}).encode()
    headers = sign(SLACK, SLACK_SECRET, body, NOW * 1000)
    assert judge(SLACK, SLACK_SECRET, headers, body, NOW).challenge == b"3eZbrw1a"
    assert judge(SLACK, b"other", headers, body, NOW).challenge is None
    event = json.dumps({"type": "event_callback", "event_id": "Ev08MFMKH6"}).encode()
    verdict = judge(SLACK, SLACK_SECRET, sign(SLACK, SLACK_SECRET, event, NOW * 1000), event, NOW)
    assert (verdict.challenge, verdict.delivery_id) == (None, "Ev08MFMKH6")


@pytest.mark.parametrize("body", [b"[1]", b"{", b'{"id": 1}', b'{"id": ""}', b"", b'{"id": "%s"}' % (b"x" * 501)])
def test_a_body_without_a_usable_id_has_no_delivery_id(body: bytes) -> None:
    headers = sign(STRIPE, STRIPE_SECRET, body, NOW * 1000)
    verdict = judge(STRIPE, STRIPE_SECRET, headers, body, NOW)
    assert (verdict.valid, verdict.delivery_id) == (True, None)


# ---- against the reference library


@given(st.text(max_size=200), st.binary(min_size=1, max_size=64), st.integers(0, 4_000_000_000), st.integers(-900, 900))
def test_standard_webhooks_are_judged_as_the_reference_library_does(
    text: str, key: bytes, at: int, offset: int
) -> None:
    body, secret = text.encode("utf-8", "ignore"), "whsec_" + base64.b64encode(key).decode()
    library = Webhook(secret)
    now = datetime.datetime.fromtimestamp(at, tz=datetime.UTC)
    signature = library.sign("msg_1", now, body.decode())
    headers = [("webhook-id", "msg_1"), ("webhook-timestamp", str(at)), ("webhook-signature", signature)]
    assert sign(STANDARD, secret.encode(), body, at * 1000, "msg_1") == headers
    if at + offset < 0:
        return
    with mock.patch("standardwebhooks.webhooks.datetime") as clock:
        clock.now.return_value = now + datetime.timedelta(seconds=offset)
        clock.fromtimestamp = datetime.datetime.fromtimestamp
        try:
            library.verify(body, dict(headers), json_parse=False)
            expected = True
        except WebhookVerificationError:
            expected = False
    assert judge(STANDARD, secret.encode(), headers, body, at + offset).valid is expected


# ---- whatever a sender writes


CONFIGS = st.sampled_from([config for config, _, _ in SIGNED])


@given(CONFIGS, st.binary(max_size=200), st.binary(min_size=1, max_size=40), st.data())
def test_what_is_signed_is_verified_and_any_change_of_it_is_not(
    config: Any, body: bytes, key: bytes, data: Any
) -> None:
    secret = b"whsec_" + base64.b64encode(key) if config is STANDARD else key
    headers = sign(config, secret, body, NOW * 1000, "id-1")
    assert judge(config, secret, headers, body, NOW).valid
    place = data.draw(st.integers(0, len(body)))
    change = data.draw(st.binary(min_size=1, max_size=3))
    assert not judge(config, secret, headers, body[:place] + change + body[place:], NOW).valid
    index = data.draw(st.integers(0, len(headers) - 1))
    name, value = headers[index]
    at = data.draw(st.integers(0, len(value) - 1))
    other = data.draw(
        st.characters(min_codepoint=33, max_codepoint=255).filter(lambda c: c.lower() != value[at].lower())
    )
    if name == "X-GitHub-Delivery" or (name == "X-Sig" and other in ", ") or other == "\x85" or other == "\xa0":
        return
    changed = [*headers[:index], (name, value[:at] + other + value[at + 1 :]), *headers[index + 1 :]]
    assert not judge(config, secret, changed, body, NOW).valid


@given(
    st.sampled_from([{"scheme": "none"}, {"scheme": "basic", "user": "u"}, {"scheme": "token", "header": "X-Sig"}])
    .map(parse_verify)
    .flatmap(lambda more: st.one_of(CONFIGS, st.just(more))),
    st.lists(st.binary(max_size=10), max_size=3),
    st.lists(
        st.tuples(
            st.sampled_from(
                [
                    "x-hub-signature-256",
                    "stripe-signature",
                    "x-slack-signature",
                    "x-slack-request-timestamp",
                    "webhook-id",
                    "webhook-timestamp",
                    "webhook-signature",
                    "authorization",
                    "X-Sig",
                    "X-At",
                    "é",
                ]
            ),
            st.one_of(
                st.text(max_size=50), st.sampled_from(["t=1,v1=a", "v0=", "v1,", "sha256=", "Basic ", "1800000000"])
            ),
        )
    ),
    st.binary(max_size=50),
    st.integers(-(10**12), 10**15),
)
def test_nothing_that_a_sender_writes_raises(config: Any, secrets: Any, headers: Any, body: bytes, now: int) -> None:
    verdict = verify(config, secrets, headers, body, {}, now)
    assert verdict.code and verdict.reason
    find_hint(config, secrets, headers, body, {}, now, verdict.code)


# ---- hints


def hinted(config: Any, secret: bytes, headers: Any, body: bytes) -> str | None:
    verdict = judge(config, secret, headers, body, NOW)
    return find_hint(config, [secret], headers, body, {}, NOW * 1000, verdict.code)


def test_a_hint_tells_what_would_have_fitted() -> None:
    headers = sign(GITHUB, b"key", b"body", NOW * 1000)
    for secret, body, words in (
        (b"key\n", b"body", "white space"),
        (b"whsec_key", b"body", "whsec_"),
        (b"key", b"body\n", "line ends"),
        (b"key", b"other", None),
    ):
        found = hinted(GITHUB, secret, headers, body)
        assert found is None if words is None else words in str(found)
    assert "scheme github" in str(hinted(STRIPE, b"key", headers, b"body"))
    config = parse_verify({"scheme": "hmac", "header": "X-Sig"})
    other = parse_verify({"scheme": "hmac", "header": "X-Sig", "algorithm": "sha1", "encoding": "base64"})
    found = hinted(config, b"key", sign(other, b"key", b"b", 0), b"b")
    assert found == "it fits `algorithm: sha1, encoding: base64`"


# ---- the `verify:` mapping


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "verify: none"),
        ({}, "`scheme` is missing"),
        ({"scheme": "gihub"}, 'did you mean "github"'),
        ({"scheme": ["github"]}, "accepted: none, token"),
        ({"scheme": "token"}, "either `header` or `parameter`"),
        ({"scheme": "token", "header": "a", "parameter": "b"}, "either `header` or `parameter`"),
        ({"scheme": "token", "header": "a b"}, "name of a header"),
        ({"scheme": "hmac"}, "needs `header`"),
        ({"scheme": "hmac", "header": "a", "algorithm": "md5"}, "sha1, sha256, sha512"),
        ({"scheme": "hmac", "header": "a", "encoding": "base32"}, "hex, base64"),
        ({"scheme": "hmac", "header": "a", "timestamp": {"header": "t", "format": "{body}"}}, "once each"),
        ({"scheme": "hmac", "header": "a", "timestamp": {"hedaer": "t"}}, "accepted: header"),
        ({"scheme": "hmac", "header": "a", "timestamp": 5}, "header's name"),
        ({"scheme": "hmac", "header": "a", "tolerance": "5m"}, "`timestamp: {header: …}`"),
        ({"scheme": "stripe", "tolerance": "2d"}, "from 1s to 1d"),
        ({"scheme": "github", "header": "a"}, "scheme github has no"),
        ({"scheme": "github", "secret": [1]}, "the name of a secret"),
    ],
)
def test_a_wrong_verify_mapping_is_refused_in_plain_words(value: Any, words: str) -> None:
    with pytest.raises(ValueError, match=r".") as raised:
        parse_verify(value)
    assert words in str(raised.value)


def test_the_verify_mapping_keeps_the_names_of_secrets() -> None:
    assert parse_verify({"scheme": "github", "secret": "A"}).secrets == ("A",)
    assert parse_verify({"scheme": "github", "secret": ["NEW", "OLD"]}).secrets == ("NEW", "OLD")
    config = parse_verify({"scheme": "hmac", "header": "X-Sig", "timestamp": "X-At", "tolerance": "1m"})
    assert (config.timestamp is not None and config.timestamp.header, config.tolerance_ms) == ("x-at", 60_000)
