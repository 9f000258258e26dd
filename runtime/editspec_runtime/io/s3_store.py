"""A bucket of S3 or of a server that speaks like it, read and written with boto3.

Credentials, region and endpoint are those that boto3 finds: its environment variables, its files
in ``~/.aws``, and the roles of machines. Imports no torch.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from editspec_runtime.io.extra_registry import load_extra
from editspec_runtime.io.remote_store import BROKEN, LARGEST, TIMEOUT, StoreError, require_whole

ATTEMPTS = 2
"""How often a request is sent before the server counts as gone."""

CONNECT_TIMEOUT = 5.0
"""Seconds in which a server must take the connection."""

REGION = "Set AWS_DEFAULT_REGION to the region of the bucket."

CREDENTIALS = (
    "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give the machine a role."
)

ENDPOINT = "Check the connection, and AWS_ENDPOINT_URL for a server of your own."

RIGHTS = "Reading needs s3:GetObject and s3:ListBucket, writing s3:PutObject."

ANSWERS = {
    "NoSuchBucket": ("there is no such bucket", "Check its name, and AWS_ENDPOINT_URL."),
    "AccessDenied": ("the credentials may not do this", RIGHTS),
    "403": ("the credentials may not do this", RIGHTS),
    "InvalidAccessKeyId": ("the access key is unknown", CREDENTIALS),
    "SignatureDoesNotMatch": ("the secret key is wrong", CREDENTIALS),
    "InvalidToken": ("the session token is wrong", CREDENTIALS),
    "ExpiredToken": ("the credentials have expired", "Sign in again."),
    "RequestTimeTooSkewed": ("the clock of this machine is wrong", "Set the clock."),
    "AuthorizationHeaderMalformed": ("the bucket is in another region", REGION),
    "PermanentRedirect": ("the bucket is in another region", REGION),
    "IllegalLocationConstraintException": ("the bucket is in another region", REGION),
    "SlowDown": ("the server is busy", "Try again later."),
}
"""What the codes of a server's answers mean, and what helps."""

FAILURES = {
    "NoCredentialsError": ("there are no credentials", CREDENTIALS),
    "PartialCredentialsError": ("the credentials are not whole", CREDENTIALS),
    "CredentialRetrievalError": ("the credentials cannot be had", CREDENTIALS),
    "UnauthorizedSSOTokenError": ("the credentials have expired", "Sign in again."),
    "SSOError": ("the credentials cannot be had", "Sign in again."),
    "TokenRetrievalError": ("the credentials cannot be had", "Sign in again."),
    "ProfileNotFound": ("there is no such profile", "Check AWS_PROFILE."),
    "ConfigParseError": ("the configuration cannot be read", "Check ~/.aws and AWS_CONFIG_FILE."),
    "InvalidRegionError": ("the region is not one", REGION),
    "NoRegionError": ("no region is set", REGION),
    "ParamValidationError": ("the bucket has a name that no bucket can have", "Check its name."),
    "ValueError": ("the endpoint is not an address", "Check AWS_ENDPOINT_URL."),
    "BotoCoreError": (BROKEN, ENDPOINT),
    "OSError": (BROKEN, ENDPOINT),
    "HTTPError": (BROKEN, ENDPOINT),
}
"""What the errors of boto3 mean, by their classes."""


@dataclass(frozen=True)
class S3Store:
    """Entries as objects of a bucket.

    Attributes
    ----------
    bucket
        The name of the bucket.
    prefix
        What the keys of all entries begin with, such as ``team/``; empty for none.
    """

    bucket: str
    prefix: str

    def read(self, name: str) -> bytes | None:
        """Read an object; None where the bucket does not have it."""
        try:
            answer = self._client.get_object(Bucket=self.bucket, Key=self.prefix + name)
            with closing(answer["Body"]) as body:
                found: bytes = body.read(LARGEST + 1)
            require_whole(found, answer.get("ContentLength"))
            return found
        # The library meets trouble with errors of many kinds.
        except Exception as error:
            if _read_code(error) == "NoSuchKey":
                return None
            raise _translate(error) from error

    def write(self, name: str, data: bytes) -> None:
        """Write an object. It is there once all of it is."""
        try:
            self._client.put_object(Bucket=self.bucket, Key=self.prefix + name, Body=data)
        except Exception as error:
            raise _translate(error) from error

    @cached_property
    def _client(self) -> Any:
        """The client, made when it is first asked."""
        config = load_extra("s3", "config", package="botocore").Config(
            connect_timeout=CONNECT_TIMEOUT,
            read_timeout=TIMEOUT,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            # Entries carry a digest. Not every server knows the checksums that S3 also takes.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        # A session of its own: that which boto3 shares keeps the credentials of its first use.
        return load_extra("s3").Session().client("s3", config=config)


def _read_code(error: Exception) -> str:
    """Read the code of a server's answer from an error; empty where there is none."""
    answer = getattr(error, "response", None)
    if not isinstance(answer, dict):
        return ""
    return str(answer.get("Error", {}).get("Code", ""))


def _translate(error: Exception) -> StoreError:
    """An error of boto3 in our words; one that is of no known kind is raised as it is."""
    if code := _read_code(error):
        reason, hint = ANSWERS.get(code, (f"the server says {code}", ENDPOINT))
        return StoreError(reason, hint, refuses=hint == RIGHTS)
    for kind in type(error).__mro__:
        if kind.__name__ in FAILURES:
            return StoreError(*FAILURES[kind.__name__])
    raise error
