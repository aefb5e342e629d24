"""What a request is refused with: a status and a body as OpenAI writes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import JSONResponse

from pit_ray.errors import listed, nearest

TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    405: "invalid_request_error", 408: "timeout_error", 413: "invalid_request_error", 429: "rate_limit_error",
    503: "service_unavailable_error", 504: "timeout_error",
}  # fmt: skip


class Refused(Exception):
    """A request that is not answered."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """`param` is the field of the body that is wrong, `code` a word for programs."""
        super().__init__(message)
        self.status, self.message, self.code = status, _utf8(message), code
        self.param = None if param is None else _utf8(param)
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        kind = TYPES.get(self.status, "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), self.status, self.headers)


def _utf8(text: str) -> str:
    """JSON can hold half a surrogate pair, UTF-8 cannot; a body's mistakes are told with what they quote."""
    return text.encode(errors="backslashreplace").decode()


def too_long(what: str, tokens: int, limit: int, key: str, param: str) -> Refused:
    """For a text of more tokens than the run's models were made for."""
    return Refused(
        400,
        f"the {what} has {tokens} tokens, and this run's models were made for at most {limit} ({key}.max_tokens)",
        param=param,
        code="context_length_exceeded",
    )


def unknown(name: str, names: Sequence[str]) -> Refused:
    """For a model that is not served."""
    near = nearest(name, names)
    return Refused(
        404, f"no model '{name:.80}' here{near}; there are {listed(names)}", param="model", code="model_not_found"
    )


def failed() -> Refused:
    """For a fault of ours that nobody foresaw; the log has it."""
    return Refused(500, "this request failed inside the service", code="internal_error")


def unavailable() -> Refused:
    """For a failure of ours; what it was stands in the log, not in the answer."""
    return Refused(503, "a model of this service did not answer; try again later", headers={"Retry-After": "5"})
