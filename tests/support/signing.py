"""A chain of certificates and a key made here, fit for signing manifests, for tests."""

from __future__ import annotations

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_PEM = serialization.Encoding.PEM
_PKCS8 = serialization.PrivateFormat.PKCS8


def write_certificates(path: Path, password: bytes | None = None, days: int = 30) -> Path:
    """A leaf for signing, its issuer, and the leaf's key in one PEM file; valid until `days` from now."""
    root, leaf = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer, subject = _name("Test Root"), _name("Test Archive")
    top = _certificate(issuer, issuer, root, root, days, authority=True)
    own = _certificate(subject, issuer, leaf, root, days, authority=False)
    hidden = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    key = leaf.private_bytes(_PEM, _PKCS8, hidden)
    path.write_bytes(own.public_bytes(_PEM) + top.public_bytes(_PEM) + key)
    return path


def _name(common: str) -> x509.Name:
    named = {NameOID.COMMON_NAME: common, NameOID.ORGANIZATION_NAME: "Tests", NameOID.COUNTRY_NAME: "DE"}
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in named.items()])


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: EllipticCurvePrivateKey,
    signer: EllipticCurvePrivateKey,
    days: int,
    *,
    authority: bool,
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=60))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        .add_extension(
            x509.KeyUsage(
                digital_signature=not authority,
                key_cert_sign=authority,
                crl_sign=authority,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
    )
    if not authority:
        purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
        builder = builder.add_extension(purpose, critical=False)
    return builder.sign(signer, hashes.SHA256())
