"""A Sigstore of our own on loopback: a service for signing in, a certificate authority, two logs.

It does what the public one does for a client that signs: it gives certificates for identity
tokens, with the timestamp of a certificate log, and enters signatures in a Merkle tree under a
signed checkpoint. Its client trust config names its keys and addresses.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import jwt
import rfc8785
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

ISSUER = ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
TIMESTAMPS = ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
SECRET = "the secret of the service for signing in, which it shares with the authority"

PrivateKey = ec.EllipticCurvePrivateKey


def make_key() -> PrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def sign(key: PrivateKey, data: bytes) -> bytes:
    return key.sign(data, ec.ECDSA(hashes.SHA256()))


def public_bytes(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def key_id(key: PrivateKey) -> bytes:
    return hashlib.sha256(public_bytes(key)).digest()


def encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def hash_leaf(data: bytes) -> bytes:
    return hashlib.sha256(b"\0" + data).digest()


def hash_tree(leaves: list[bytes]) -> bytes:
    """The root of a tree of RFC 6962, from the hashes of its leaves."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + hash_tree(leaves[:split]) + hash_tree(leaves[split:])).digest()


def prove(leaves: list[bytes], index: int) -> list[bytes]:
    """The hashes that lead from a leaf to the root, from below."""
    if len(leaves) == 1:
        return []
    split = 1 << (len(leaves) - 1).bit_length() - 1
    if index < split:
        return [*prove(leaves[:split], index), hash_tree(leaves[split:])]
    return [*prove(leaves[split:], index - split), hash_tree(leaves[:split])]


class OwnSigstore(ThreadingHTTPServer):
    """All services of a Sigstore, under one address.

    Attributes
    ----------
    identity, issuer
        Who signs in by the browser, and the service that vouches for it.
    clock
        Seconds by which the clock of the transparency log is ahead.
    refusals
        Paths that are answered with an error, by their codes.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.identity, self.issuer = "ada@example.org", "https://login.example.org"
        self.clock = 0
        self.refusals: dict[str, int] = {}
        self.root_key, self.certificate_log, self.log = make_key(), make_key(), make_key()
        self.root = self._make_root()
        self.leaves: list[bytes] = [hash_leaf(b"an older entry"), hash_leaf(b"another one")]
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def token(self, identity: str | None = None, *, lifetime: int = 60) -> str:
        """An identity token, as a CI or the browser gets it."""
        now = int(time.time())
        claims = {"aud": "sigstore", "iss": self.issuer, "sub": identity or self.identity}
        return jwt.encode({**claims, "iat": now, "exp": now + lifetime}, SECRET)

    def trust_config(self, path: Path) -> Path:
        """Write the client trust config."""
        always = {"start": "2020-01-01T00:00:00Z"}

        def service(end: str = "") -> list[dict[str, Any]]:
            who = {"majorApiVersion": 1, "validFor": always, "operator": "us"}
            return [{"url": self.address + end, **who}]

        def log(key: PrivateKey) -> list[dict[str, Any]]:
            details = {"keyDetails": "PKIX_ECDSA_P256_SHA_256", "validFor": always}
            public = {"rawBytes": encode(public_bytes(key)), **details}
            named = {"baseUrl": self.address, "hashAlgorithm": "SHA2_256"}
            return [{**named, "publicKey": public, "logId": {"keyId": encode(key_id(key))}}]

        chain = {"certificates": [{"rawBytes": encode(self.root.public_bytes(Encoding.DER))}]}
        authority = {"subject": {"organization": "us", "commonName": "root"}, "uri": self.address}
        kind = "application/vnd.dev.sigstore"
        config = {
            "mediaType": f"{kind}.clienttrustconfig.v0.1+json",
            "trustedRoot": {
                "mediaType": f"{kind}.trustedroot+json;version=0.1",
                "tlogs": log(self.log),
                "certificateAuthorities": [{**authority, "certChain": chain, "validFor": always}],
                "ctlogs": log(self.certificate_log),
                "timestampAuthorities": [],
            },
            "signingConfig": {
                "mediaType": f"{kind}.signingconfig.v0.2+json",
                "caUrls": service(),
                "oidcUrls": service(),
                "rekorTlogUrls": service(),
                "rekorTlogConfig": {"selector": "ANY"},
                "tsaUrls": [],
                "tsaConfig": {"selector": "ANY"},
            },
        }
        path.write_text(json.dumps(config))
        return path

    def _make_root(self) -> x509.Certificate:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "our root")])
        public = self.root_key.public_key()
        now = datetime.now(UTC)
        usage = dict.fromkeys(
            (
                "digital_signature",
                "content_commitment",
                "key_encipherment",
                "data_encipherment",
                "key_agreement",
                "encipher_only",
                "decipher_only",
            ),
            False,
        )
        return (
            x509.CertificateBuilder(name, name, public, x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=365))
            .add_extension(x509.BasicConstraints(True, 0), critical=True)
            .add_extension(x509.KeyUsage(**usage, key_cert_sign=True, crl_sign=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .sign(self.root_key, hashes.SHA256())
        )

    def issue(self, request: x509.CertificateSigningRequest, claims: dict[str, Any]) -> list[str]:
        """A certificate for ten minutes, stamped by the certificate log; and the root."""
        now = datetime.now(UTC)
        name = claims["sub"]
        kind = x509.RFC822Name if "@" in name else x509.UniformResourceIdentifier
        usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
        public = request.public_key()
        assert isinstance(public, ec.EllipticCurvePublicKey)
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.root_key.public_key())
        builder = (
            x509.CertificateBuilder(
                self.root.subject, x509.Name([]), public, x509.random_serial_number()
            )
            .not_valid_before(now - timedelta(seconds=5))
            .not_valid_after(now + timedelta(minutes=10))
            .add_extension(usage, critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), False)
            .add_extension(x509.SubjectAlternativeName([kind(name)]), critical=True)
            .add_extension(identifier, critical=False)
            .add_extension(x509.UnrecognizedExtension(ISSUER, claims["iss"].encode()), False)
        )
        before = builder.sign(self.root_key, hashes.SHA256())
        stamp = self._stamp(before.tbs_certificate_bytes)
        certificate = builder.add_extension(
            x509.UnrecognizedExtension(TIMESTAMPS, stamp), critical=False
        ).sign(self.root_key, hashes.SHA256())
        return [each.public_bytes(Encoding.PEM).decode() for each in (certificate, self.root)]

    def _stamp(self, certificate: bytes) -> bytes:
        """The list of signed certificate timestamps of RFC 6962, with one of them, in DER."""
        milliseconds = int(time.time() * 1000)
        length = struct.pack("!I", len(certificate))[1:]
        entry = key_id(self.root_key) + length + certificate
        signed = struct.pack("!BBQH", 0, 0, milliseconds, 1) + entry + b"\0\0"
        signature = sign(self.certificate_log, signed)
        stamp = b"\0" + key_id(self.certificate_log) + struct.pack("!Q", milliseconds) + b"\0\0"
        stamp += b"\4\3" + struct.pack("!H", len(signature)) + signature
        stamps = struct.pack("!H", len(stamp)) + stamp
        stamps = struct.pack("!H", len(stamps)) + stamps
        assert len(stamps) < 128, "longer ones have their length in another form"
        return b"\4" + bytes([len(stamps)]) + stamps

    def enter(self, proposed: dict[str, Any]) -> dict[str, Any]:
        """Enter a signed envelope, and return what the log says of it."""
        content = proposed["spec"]["proposedContent"]
        envelope = json.loads(content["envelope"])
        payload = base64.b64decode(envelope["payload"])
        (signature,) = envelope["signatures"]
        entry = {
            "apiVersion": "0.0.1",
            "kind": "dsse",
            "spec": {
                "envelopeHash": _digest(content["envelope"].encode()),
                "payloadHash": _digest(payload),
                "signatures": [
                    {"signature": signature["sig"], "verifier": content["verifiers"][0]}
                ],
            },
        }
        body = rfc8785.dumps(entry)
        self.leaves.append(hash_leaf(body))
        index, size = len(self.leaves) - 1, len(self.leaves)
        root = hash_tree(self.leaves)
        note = f"our log\n{size}\n{encode(root)}\n"
        signed_note = encode(key_id(self.log)[:4] + sign(self.log, note.encode()))
        said = {
            "body": encode(body),
            "integratedTime": int(time.time()) + self.clock,
            "logID": key_id(self.log).hex(),
            "logIndex": index,
        }
        proof = {
            "logIndex": index,
            "treeSize": size,
            "rootHash": root.hex(),
            "hashes": [each.hex() for each in prove(self.leaves, index)],
            "checkpoint": f"{note}\n— our-log {signed_note}\n",
        }
        promise = encode(sign(self.log, rfc8785.dumps(said)))
        verification = {"inclusionProof": proof, "signedEntryTimestamp": promise}
        return {self.leaves[-1].hex(): {**said, "verification": verification}}


def _digest(data: bytes) -> dict[str, str]:
    return {"algorithm": "sha256", "value": hashlib.sha256(data).hexdigest()}


class Handler(BaseHTTPRequestHandler):
    server: OwnSigstore

    def _reply(self, code: int, content: Any) -> None:
        data = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(data)

    def _answer(self, answers: dict[str, Callable[[bytes], tuple[int, Any]]]) -> None:
        path = self.path.partition("?")[0]
        data = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if path in self.server.refusals:
            self._reply(self.server.refusals[path], {})
        elif path in answers:
            self._reply(*answers[path](data))
        else:
            self._reply(404, {})

    def do_GET(self) -> None:
        ends = {
            "authorization_endpoint": f"{self.server.address}/authorize",
            "token_endpoint": f"{self.server.address}/token",
        }
        self._answer(
            {
                "/.well-known/openid-configuration": lambda data: (200, ends),
                # What the service of a CI gives to a job.
                "/job": lambda data: (200, {"value": self.server.token()}),
            }
        )

    def do_POST(self) -> None:
        self._answer(
            {
                "/token": self._give_token,
                "/api/v2/signingCert": self._certify,
                "/api/v1/log/entries": lambda data: (201, self.server.enter(json.loads(data))),
            }
        )

    def _give_token(self, data: bytes) -> tuple[int, Any]:
        asked = parse_qs(data.decode())
        if asked["code"] != ["1234"]:
            return 400, {}
        return 200, {"access_token": self.server.token()}

    def _certify(self, data: bytes) -> tuple[int, Any]:
        try:
            token = self.headers["Authorization"].removeprefix("Bearer ")
            claims = jwt.decode(token, SECRET, ["HS256"], audience="sigstore")
        except jwt.InvalidTokenError:
            return 400, {"message": "who are you?"}
        pem = base64.b64decode(json.loads(data)["certificateSigningRequest"])
        request = x509.load_pem_x509_csr(pem)
        if not request.is_signature_valid:
            return 400, {"message": "the key is not yours"}
        chain = {"chain": {"certificates": self.server.issue(request, claims)}}
        return 200, {"signedCertificateEmbeddedSct": chain}

    def log_message(self, *_: object) -> None:
        pass
