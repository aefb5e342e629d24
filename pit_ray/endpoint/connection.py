"""The wire to an endpoint: the public `openai` client, with every try paced, counted and ended in time.

Imported only where something has to be asked, since `openai` takes a second to import.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

import httpx2
from openai import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AsyncOpenAI,
    AuthenticationError,
    BadRequestError,
    NotFoundError,
    OpenAIError,
    PermissionDeniedError,
)
from pydantic import BaseModel, Field, ValidationError

from pit_ray.config.endpoint import Endpoint
from pit_ray.endpoint.answers import Answer, ChatRequest
from pit_ray.errors import LINE, ConfigError, InfraError, cause, nearest, short

REFUSED = re.compile(r"context.?length|content.?(?:filter|policy|management)", re.I)
"""In a 400: it is about this one request. The words are those of OpenAI, Azure, vLLM and llama.cpp."""


class Spelled(BaseModel):
    """The message of a choice."""

    content: str | None = None


class Choice(BaseModel):
    message: Spelled


class Usage(BaseModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Completion(BaseModel):
    """Of a chat completion, what is used."""

    choices: list[Choice] = Field(min_length=1)
    usage: Usage | None = None


class BudgetSpent(OpenAIError):
    """No further request may be sent. An OpenAIError, since that alone passes through the client untried again."""


class Tries(httpx2.AsyncClient):
    """Sends each try of a request in its turn, counts it, and gives it `timeout` seconds as a whole.

    httpx2 by itself times each read, so that an endpoint which sends a byte a minute would never time out.
    """

    def __init__(self, endpoint: Endpoint, budget: int | None) -> None:
        limits = httpx2.Limits(max_connections=None)  # `concurrency` bounds them
        super().__init__(timeout=endpoint.timeout, follow_redirects=True, limits=limits)
        self.sent = 0
        self._endpoint, self._budget = endpoint, budget
        self._next_turn = 0.0

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """As AsyncClient.send; DecodingError, which `openai` tries again, for a success without a completion."""
        asking = request.method == "POST"
        if asking:
            self._afford()
            await self._turn()
            self._afford()
            self.sent += 1
        try:
            async with asyncio.timeout(self._endpoint.timeout):
                response = await super().send(request, **options)
        except TimeoutError as error:
            raise httpx2.ReadTimeout("no answer in time", request=request) from error
        if asking and response.is_success:
            try:
                Completion.model_validate_json(response.content)
            except ValidationError:
                body = short(response.text.strip(), LINE) or "nothing"
                raise httpx2.DecodingError(f"no chat completion came back, but {body}", request=request) from None
        return response

    def _afford(self) -> None:
        if self._budget is not None and self.sent >= self._budget:
            raise BudgetSpent

    async def _turn(self) -> None:
        if self._endpoint.requests_per_minute is None:
            return
        now = asyncio.get_running_loop().time()
        turn = max(now, self._next_turn)
        self._next_turn = turn + 60 / self._endpoint.requests_per_minute
        await asyncio.sleep(turn - now)


class Connection:
    """An async context manager; `key` may be None where the endpoint needs none, `budget` is the requests left."""

    def __init__(self, endpoint: Endpoint, key: str | None, budget: int | None) -> None:
        self._endpoint, self._key = endpoint, key
        self._tries = Tries(endpoint, budget)
        self._client = AsyncOpenAI(
            api_key=key or "none",
            base_url=endpoint.base_url,
            timeout=endpoint.timeout,
            max_retries=endpoint.retries,
            http_client=self._tries,
        )
        self._limit = "max_tokens"

    @property
    def sent(self) -> int:
        """Requests so far, repeated ones included."""
        return self._tries.sent

    async def __aenter__(self) -> Connection:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._client.close()

    async def ask(self, request: ChatRequest) -> Answer:
        """OpenAIError when the endpoint does not answer, after the retries."""
        limit = self._limit
        try:
            found = await self._completion(request, limit)
        except BadRequestError as error:
            if limit == "max_tokens" and "max_completion_tokens" in error.message:
                self._limit = "max_completion_tokens"  # OpenAI's reasoning models know this name alone
                return await self.ask(request)
            if REFUSED.search(error.message):
                return Answer("", 0, 0, cached=False, refused=self._said(error))
            raise
        text, usage = found.choices[0].message.content or "", found.usage or Usage()
        return Answer(text, usage.prompt_tokens or 0, usage.completion_tokens or 0, cached=False)

    async def _completion(self, request: ChatRequest, limit: str) -> Completion:
        # A lone surrogate, which JSON can bring in, has no UTF-8.
        messages: Any = [{k: v.encode("utf-8", "replace").decode() for k, v in m.items()} for m in request.messages]
        options: dict[str, Any] = {limit: request.max_tokens}
        if request.seed is not None:
            options["seed"] = request.seed
        raw = await self._client.chat.completions.with_raw_response.create(
            model=self._endpoint.model, messages=messages, temperature=request.temperature, **options
        )
        return Completion.model_validate_json(raw.content)

    async def explained(self, error: Exception, kept: str) -> Exception:
        """What the user is told of an error; `kept` says what is not lost. Errors of other kinds stay as they are."""
        if not isinstance(error, OpenAIError):
            return error
        where, on = f"{self._endpoint.base_url}, model {self._endpoint.model!r}", "the same command goes on from there"
        if isinstance(error, BudgetSpent):
            budget = f"max_requests ({self._endpoint.max_requests})"
            return InfraError(f"{where}: the budget, {budget}, is spent; {kept}; with a higher one {on}")
        if isinstance(error, AuthenticationError | PermissionDeniedError):
            variable = self._endpoint.key_variable
            if self._key is None:
                return ConfigError(f"{where}: wants a key ({self._said(error)}); set {variable} in the environment")
            return InfraError(f"{where}: does not take the key in {variable} ({self._said(error)}); {kept}; {on}")
        said = self._said(error) + (await self._nearest_model() if isinstance(error, NotFoundError) else "")
        request = getattr(error, "request", None)
        tries = 1 if request is None else 1 + int(request.headers.get("x-stainless-retry-count", 0))
        return InfraError(f"{where}: {said}{f', {tries} times' if tries > 1 else ''}; {kept}; {on}")

    def _said(self, error: OpenAIError) -> str:
        if isinstance(error, APITimeoutError):
            said = f"no answer within {self._endpoint.timeout:g} s"
        elif isinstance(error, APIConnectionError):
            said = cause(error.__cause__ or error)
            if isinstance(error.__cause__, httpx2.ConnectError):
                said = f"cannot be reached ({said})"
        else:
            said = cause(error)
        if isinstance(error, APIStatusError) and (wait := error.response.headers.get("retry-after")):
            said += f", to be tried again after {short(wait)} s"
        # Errors are masked wherever they are shown, but by the names of variables, and this one may have any.
        return said.replace(self._key, "***") if self._key else said

    async def _nearest_model(self) -> str:
        try:
            listed = await self._client.with_options(max_retries=0).models.list()
            return nearest(self._endpoint.model, [model.id for model in listed.data])
        except (OpenAIError, ValueError, TypeError, AttributeError):  # not every endpoint can list them
            return ""
