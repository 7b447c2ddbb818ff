"""When a certificate begins and ends is read as a client would see it."""

from __future__ import annotations

import ssl
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from taskforge.config.tls import certificate_times_ms

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
BEGIN = datetime.fromtimestamp(int(time.time()), UTC) - timedelta(days=100)


def written(path: Path, *parts: x509.Certificate | Key) -> Path:
    texts = [
        part.public_bytes(serialization.Encoding.PEM)
        if isinstance(part, x509.Certificate)
        else part.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        for part in parts
    ]
    path.write_bytes(b"".join(texts))
    return path


def certified(
    name: str, key: Key, days: int, issuer: tuple[str, Key] | None = None, *extensions: x509.ExtensionType
) -> x509.Certificate:
    by, signing = issuer or (name, key)
    subject, issued_by = (x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, each)]) for each in (name, by))
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issued_by).public_key(key.public_key())
    builder = builder.serial_number(days + 1000).not_valid_before(BEGIN).not_valid_after(BEGIN + timedelta(days=days))
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(signing, hashes.SHA256())


def end_ms(days: int) -> int:
    return int((BEGIN + timedelta(days=days)).timestamp()) * 1000


@pytest.mark.parametrize("days", [1, 99, 101, 30_000])
@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)])
def test_it_is_told_before_and_after(tmp_path: Path, key: Key, days: int) -> None:
    cert = written(tmp_path / "cert.pem", certified("flows.example.com", key, days))
    assert certificate_times_ms(cert, written(tmp_path / "key.pem", key)) == (end_ms(0), end_ms(days))


def test_of_a_chain_it_is_the_servers_own_and_the_key_may_be_in_the_same_file(tmp_path: Path) -> None:
    key, middle, root = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
    authority = x509.BasicConstraints(ca=True, path_length=None)
    both = written(
        tmp_path / "all.pem",
        certified("flows.example.com", key, 120, ("middle", middle)),
        certified("middle", middle, 500, ("root", root), authority),
        key,
    )
    assert certificate_times_ms(both, both) == (end_ms(0), end_ms(120))


def test_one_that_is_not_for_servers_is_refused_as_a_client_would(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    both = written(tmp_path / "all.pem", certified("flows.example.com", key, 200, None, purpose), key)
    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        certificate_times_ms(both, both)
