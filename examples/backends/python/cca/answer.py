"""Findings and errors, which all have the same shape: what, about what, and what to do."""

from componentize_py_types import Err
from wit_world.imports import types
from wit_world.imports.types import Finding, Severity

# Nobody reads more of a text that somebody else chose.
LONGEST_QUOTE = 80


def passed(id: str, subject: str, detail: str) -> Finding:
    return Finding(id, Severity.PASS, subject, detail, "")


def note(id: str, subject: str, detail: str, remedy: str) -> Finding:
    return Finding(id, Severity.NOTE, subject, detail, remedy)


def warn(id: str, subject: str, detail: str, remedy: str) -> Finding:
    return Finding(id, Severity.WARN, subject, detail, remedy)


def failed(id: str, error: Err[types.Error]) -> Finding:
    """The same as an error, for `check`."""
    said = error.value
    return Finding(id, Severity.FAIL, said.subject, said.message, said.remedy)


def unsupported_host(subject: str, message: str, remedy: str) -> Err[types.Error]:
    return _error(types.ErrorCode_UnsupportedHost(), subject, message, remedy)


def invalid_request(subject: str, message: str, remedy: str) -> Err[types.Error]:
    return _error(types.ErrorCode_InvalidRequest(), subject, message, remedy)


def unsuitable_file(subject: str, message: str, remedy: str) -> Err[types.Error]:
    return _error(types.ErrorCode_UnsuitableFile(), subject, message, remedy)


def unavailable(subject: str, message: str, remedy: str) -> Err[types.Error]:
    return _error(types.ErrorCode_Unavailable(), subject, message, remedy)


def _error(
    code: types.ErrorCode, subject: str, message: str, remedy: str
) -> Err[types.Error]:
    return Err(types.Error(code, subject, message, remedy, []))


def quoted(text: str) -> str:
    """Text of others for a message: what could end a line or drive a terminal is escaped."""
    return ascii(text[:LONGEST_QUOTE])
