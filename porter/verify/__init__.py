"""Prove that a port computes what its source computes; see `verify`."""

from porter.verify.result import VerifyResult
from porter.verify.verification import verify

__all__ = ["VerifyResult", "verify"]
